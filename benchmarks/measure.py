"""Runs what is measured, each in its own process: time, CPU time, peak memory; repeats interleaved."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: wall and CPU time, the process's peak of resident memory, and what it reported."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_way(way: str, **arguments: object) -> Run:
    """Run a function of this package in a fresh process (see `child`).

    Args:
        way: `module:function`, the module without this package's name.
        arguments: Keyword arguments, plain enough for JSON.
    """
    command = [sys.executable, "-m", "benchmarks.child", way, json.dumps(arguments)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Run(**json.loads(finished.stdout.splitlines()[-1]))


def run_command(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, exit_codes: Sequence[int] = (0,)
) -> Run:
    """Run a program, named by its path, to its end, with its output thrown away and its start timed too.

    Raises:
        RuntimeError: with what it complained of, when it ends otherwise than expected.
    """
    finished = subprocess.run(
        [sys.executable, "-S", str(_LAUNCH), *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode not in exit_codes:
        raise RuntimeError(f"{Path(command[0]).name} ended with {finished.returncode}: {finished.stderr}")
    return Run(**json.loads(finished.stdout))


def interleaved(repeats: int, ways: Mapping[str, Callable[[], Run]]) -> dict[str, Run]:
    """Run all ways in turn, `repeats` times; give of each the fastest run, with the highest peak of all.

    In turn, so that whatever else the machine does falls on all of them; the fastest, because other load can
    only add.
    """
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            runs[name].append(way())
    return {
        name: replace(
            min(all_runs, key=lambda run: run.seconds), peak_bytes=max(run.peak_bytes for run in all_runs)
        )
        for name, all_runs in runs.items()
    }
