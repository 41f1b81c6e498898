"""A process with the command line imported and no threads: each command is a fork of it, and starts at once.

It reads JSON lines with a command's `arguments`, `environment` and `folder`, and the files that take its
`stdout` and `stderr`; it answers with the command's exit code. Importing takes a new process a second or two.
With `warm`, the command runs in this process itself, so that the forks find caches filled.
"""

import gc
import importlib
import json
import os
import pkgutil
import sys
import threading
from pathlib import Path
from typing import Any

import spell_billing.cli
from spell_billing_tests.kept_work import keep_work

_IMPORTED_LATE = (
    *(
        "adbc_driver_postgresql",
        "alembic.command",
        "alembic.config",
        "dateutil.parser",
        "dateutil.tz",
        "duckdb",
    ),
    *("fsspec.implementations.local", "jinja2", "orjson", "pandas", "psycopg", "pyarrow.compute"),
    *("pyarrow.parquet", "rich.table", "rich.traceback", "sqlalchemy.dialects.mysql", "stripe.v2"),
    *("stripe._stripe_client", "watchdog.observers", "spell_billing.orchestration.build"),
    *("dagster._core.definitions.external_asset", "dagster._core.executor.in_process"),
    *("dagster._core.definitions.repository_definition.repository_data_builder",),
    *("dagster._core.execution.execute_in_process", "dagster._core.execution.plan.active"),
    *(
        "dagster._core.instance.factory",
        "dagster._core.instance.runs.run_domain",
        "dagster._daemon.controller",
    ),
    *("dagster._core.secrets.env_file", "dagster._core.storage.local_compute_log_manager"),
    *("dagster._core.storage.migration.utils", "dagster._core.storage.root"),
    *("dagster._core.storage.sqlite_storage", "dagster._core.system_config.composite_descent"),
    *("dagster._core.types.primitive_mapping", "dagster._core.types.transform_typing"),
)
"""What commands import when they come to it."""


def _become(request: dict[str, Any]) -> None:
    """Make this process the command's own: its folder, its environment, its output."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["spell_billing", *request["arguments"]]


def import_all() -> None:
    """Import whatever a command needs, and have the collector leave it alone: forks then share it."""
    for module in pkgutil.iter_modules(spell_billing.cli.__path__, "spell_billing.cli."):
        importlib.import_module(module.name)
    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    gc.freeze()
    assert threading.active_count() == 1, "a process with threads cannot be forked"


def _warm(request: dict[str, Any]) -> int:
    """Run a command here, and forget its folder and environment."""
    folder, environment = Path.cwd(), dict(os.environ)
    _become(request)
    try:
        spell_billing.cli.main(prog_name="spell-billing")
    except SystemExit as end:
        status = end.code
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, "a process with threads cannot be forked"
    return int(status or 0)


def main() -> None:
    """Serve until standard input ends."""
    keep_work()
    import_all()
    # Output below goes to the command's files: what answers is another descriptor.
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    for line in iter(questions.readline, ""):
        request = json.loads(line)
        if request.get("warm"):
            code = _warm(request)
        else:
            pid = os.fork()
            if not pid:
                _become(request)
                spell_billing.cli.run()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answers.write(f"{code}\n")
        answers.flush()


if __name__ == "__main__":
    main()
