"""A small Apache Spark cluster: a master and two workers, whose executors are processes of their own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

_LOCAL = "127.0.0.1"
SMALL = {"SPARK_LOCAL_IP": _LOCAL, "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""For a JVM that does little: it compiles quickly, and collects with one thread."""
_SLIM = {
    "spark.executor.memory": "512m",
    "spark.sql.shuffle.partitions": "2",
    # To compile each query would take longer than to run it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.task.maxFailures": "1",
}


@contextmanager
def running_cluster(
    folder: Path, *, settings: Mapping[str, str] = SMALL, memory: str = "600m"
) -> Iterator[str]:
    """Start a cluster of two workers, each with a core and so much memory; give its master's host:port."""
    import pyspark  # noqa: PLC0415 - only where there is Java

    environment = {**os.environ, **settings, "SPARK_DAEMON_MEMORY": "128m"}
    home = Path(pyspark.__file__).parent

    def start(kind: str, *arguments: str) -> "subprocess.Popen[str]":
        java = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind.lower()}.{kind}"]
        places = ["--host", _LOCAL, "--port", "0", "--webui-port", "0"]
        return subprocess.Popen(
            [*java, *places, *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    with ExitStack() as stack:
        master = stack.enter_context(_ending(start("Master")))
        address = _line(master, "Starting Spark master at spark://").strip()
        own = ["--cores", "1", "--memory", memory]
        workers = [
            stack.enter_context(
                _ending(start("Worker", *own, "--work-dir", str(folder / name), f"spark://{address}"))
            )
            for name in ("one", "two")
        ]
        for worker in workers:
            _line(worker, "Successfully registered with master")
        for each in (master, *workers):
            assert each.stderr is not None
            threading.Thread(target=_drain, args=(each,), daemon=True).start()
        yield address


def session_options(own: Mapping[str, str] = _SLIM) -> str:
    """Return the options of a session on the cluster, as in a URL; its own are those of small tables."""
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.host": _LOCAL,
        "spark.driver.bindAddress": _LOCAL,
        **own,
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
        "spark.pyspark.python": sys.executable,
    }
    return "&".join(f"{name}={value}" for name, value in options.items())


def _line(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line.partition(text)[2]
    raise AssertionError(f"Spark ended without {text!r}")


def _drain(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    # Closed by who reads it: a file that is left to the collector fails whatever test runs then.
    with process.stderr as lines:
        for _ in lines:
            pass


@contextmanager
def _ending(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
