"""Runs a program from a process as small as can be, and writes its time, CPU time and peak memory as JSON.

Linux counts into a program's peak what the process that started it held at that moment: a large benchmark
would show up in every figure. Hence no import here that is not needed.
"""

import json
import os
import sys
import time

_KIB = 1024


def main() -> None:
    """Run the command line's program, its output thrown away; end as it ends."""
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - pathlib would be most of this process
        began = time.perf_counter()
        process = os.posix_spawn(
            sys.argv[1],
            sys.argv[1:],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, nothing.fileno(), stream) for stream in (0, 1)],
        )
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - began
    run = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else _KIB),
    }
    sys.stdout.write(json.dumps(run) + "\n")
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
