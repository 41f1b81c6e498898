"""Runs one way to do a thing in this process, and writes its time, CPU time and peak memory as JSON.

A way is a function that prepares (imports, connections, folders), outside of the time, and returns the
action to be timed, which may return facts to report.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path

_KIB = 1024


def main() -> None:
    """Run the way named on the command line."""
    module, _, name = sys.argv[1].partition(":")
    act = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.loads(sys.argv[2]))
    cpu_before = _cpu_seconds()
    began = time.perf_counter()
    facts = act()
    seconds = time.perf_counter() - began
    run = {
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu_before,
        "peak_bytes": _peak_bytes(),
        "facts": facts or {},
    }
    sys.stdout.write("\n" + json.dumps(run) + "\n")


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _peak_bytes() -> int:
    """Give this process's peak plus that of its largest ended child, and those of children that still run."""
    unit = 1 if sys.platform == "darwin" else _KIB
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    if not Path("/proc/self/status").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + children
    own = _mark("self")
    import psutil  # noqa: PLC0415 - not into the measured memory

    return own + children + sum(_mark(each.pid) for each in psutil.Process().children(recursive=True))


def _mark(process: int | str) -> int:
    # Linux counts into ru_maxrss what the parent held before the exec; this mark begins after it.
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    # A child that has ended, and that nobody waited for, has none.
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
