"""Commands that a person waits for: on a billed month of many users, beyond their imports."""

import sys
from functools import partial
from pathlib import Path

from benchmarks.databases import Server
from benchmarks.generator import MONTH
from benchmarks.measure import interleaved, run_command
from benchmarks.months import billed_month, command, imports
from benchmarks.report import Figure, Kind

_A_USER = "user-0000007"
_COMMANDS = {
    "status": ("spell_billing.cli.status",),
    "invoices": ("spell_billing.cli.reports", "spell_billing.reporting.status"),
    "explain": ("spell_billing.cli.reports", "spell_billing.reporting.explain"),
}


def measure(server: Server, folder: Path, users: int, repeats: int) -> list[Figure]:
    """Measure the commands that read, and `--help`."""
    figures = []
    with billed_month(server, folder, "sqlite", users) as settings:
        for name, modules in _COMMANDS.items():
            asked = command(name, "--month", str(MONTH), *(("--user", _A_USER) if name == "explain" else ()))
            runs = interleaved(
                repeats,
                {
                    "floor": partial(imports, "spell_billing.ledger.ledger", *modules),
                    "ours": partial(run_command, asked, environment=settings),
                },
            )
            figures.append(
                Figure(
                    "commands",
                    f"{name} on {users:,} users",
                    "the imports alone",
                    runs["floor"].seconds,
                    runs["ours"].seconds,
                    kind=Kind.BEYOND,
                    target=1.0,
                    peak_bytes=runs["ours"].peak_bytes,
                )
            )
    runs = interleaved(
        repeats,
        {
            "floor": lambda: run_command([sys.executable, "-c", "import click"]),
            "ours": lambda: run_command([str(Path(sys.executable).with_name("spell-billing")), "--help"]),
        },
    )
    figures.append(
        Figure(
            "commands",
            "spell-billing --help",
            "import click",
            runs["floor"].seconds,
            runs["ours"].seconds,
            kind=Kind.AT_MOST,
            target=0.3,
            peak_bytes=runs["ours"].peak_bytes,
        )
    )
    return figures
