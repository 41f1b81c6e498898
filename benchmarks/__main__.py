"""Runs the benchmarks and writes their table and chart: `make bench`, or `make bench ARGS=--full`."""

import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import psutil
from rich.console import Console

from benchmarks import aggregate, bucket, commands, drafts, freeze, invoicing, lake, months, pricing, standing
from benchmarks.databases import Server, running_server
from benchmarks.generator import Size, fill_postgres, fill_sqlite
from benchmarks.report import Figure, chart, markdown, table

_RESULTS = Path(__file__).with_name("results")
_GIB = 1 << 30
_WIDTH = 170


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    rows: int
    users: int
    huge_rows: int
    large: Size
    sqlite_rows: int
    lake: Size
    drafts: int
    many_drafts: int
    billed_users: int
    invoices: int
    live_invoices: int


SMALL = Scale(
    rows=1_000_000,
    users=10_000,
    huge_rows=0,
    large=Size(10_000_000, 0, 100_000),
    sqlite_rows=500_000,
    lake=Size(200_000, 0, 10_000),
    drafts=20_000,
    many_drafts=0,
    billed_users=20_000,
    invoices=1_000,
    live_invoices=250,
)
FULL = Scale(
    rows=10_000_000,
    users=100_000,
    huge_rows=50_000_000,
    large=Size(100_000_000, 0, 1_000_000),
    sqlite_rows=10_000_000,
    lake=Size(10_000_000, 0, 100_000),
    drafts=100_000,
    many_drafts=1_000_000,
    billed_users=100_000,
    invoices=10_000,
    live_invoices=1_500,
)


@dataclass(frozen=True)
class Bench:
    """What every benchmark is given: where it may write, on which server, how large and how often."""

    server: Server
    folder: Path
    scale: Scale
    repeats: int

    def freeze(self) -> Iterator[Figure]:
        """Measure freezing from PostgreSQL, of each kind of column, and of a large month."""
        for user_type, cost_type, target in (
            ("uuid", "bigint", 1.2),
            ("text", "bigint", 1.2),
            ("uuid", "numeric", 1.4),
        ):
            with self._usage(user_type, cost_type) as url:
                what = f"{self._rows}, {user_type}, {cost_type}"
                yield freeze.in_postgres(
                    self.server, url, self.folder, what, target=target, repeats=self.repeats
                )
        if self.scale.huge_rows:
            url = self.server.create("usage_huge")
            size = Size(self.scale.huge_rows, self.scale.huge_rows // 5, self.scale.users)
            fill_postgres(url, size)
            what = f"{_short(size.rows)} of {_short(size.rows + size.rows_before)} rows, uuid, bigint"
            yield freeze.in_postgres(self.server, url, self.folder, what, target=1.2, repeats=1)
            what = f"{what}, {self.scale.users:,} users"
            yield aggregate.assets_in_postgres(self.server, url, self.folder, what, repeats=1)
            self.server.drop("usage_huge")

    def sqlite(self) -> Iterator[Figure]:
        """Measure freezing from SQLite."""
        path = self.folder / "usage.db"
        rows = self.scale.sqlite_rows
        fill_sqlite(path, Size(rows, rows, self.scale.users))
        what = f"{_short(rows)} of {_short(2 * rows)} rows"
        yield freeze.in_sqlite(f"sqlite:///{path}", self.folder, what, self.repeats)
        path.unlink()

    def aggregate(self) -> Iterator[Figure]:
        """Measure aggregation, and the assets that do not call Stripe."""
        with self._usage() as url:
            yield aggregate.in_postgres(self.server, url, self.folder, self._rows, self.repeats)
            yield aggregate.assets_in_postgres(self.server, url, self.folder, self._rows, self.repeats)
        large = self.scale.large
        what = f"{_short(large.rows)} rows, {large.users:,} users"
        yield aggregate.large(self.folder, large, what, self.repeats)

    def lake(self) -> Iterator[Figure]:
        """Measure freezing the sums of DuckDB and of Apache Spark."""
        yield from lake.measure(self.folder, self.scale.lake, self.repeats)

    def bucket(self) -> Iterator[Figure]:
        """Measure freezing into a bucket, and reading back."""
        with self._usage() as url:
            yield from bucket.measure(url, self.folder, self._rows, self.repeats)

    def naive(self) -> Iterator[Figure]:
        """Measure what one would write with pandas."""
        with self._usage() as url:
            yield from freeze.naive_in_postgres(self.server, url, self._rows)

    @property
    def _rows(self) -> str:
        return f"{_short(self.scale.rows)} of {_short(2 * self.scale.rows)} rows, {self.scale.users:,} users"

    @contextmanager
    def _usage(self, user_type: str = "uuid", cost_type: str = "bigint") -> Iterator[str]:
        url = self.server.create("usage")
        size = Size(self.scale.rows, self.scale.rows, self.scale.users)
        fill_postgres(url, size, user_type=user_type, cost_type=cost_type)
        yield url
        self.server.drop("usage")

    def drafts(self) -> Iterator[Figure]:
        """Measure drafting into the ledger."""
        yield from drafts.measure(self.server, self.folder, self.scale.drafts, self.repeats)
        if self.scale.many_drafts:
            yield from drafts.measure(self.server, self.folder, self.scale.many_drafts, 1, large=True)

    def invoicing(self) -> Iterator[Figure]:
        """Measure invoicing."""
        yield from invoicing.measure(
            self.server,
            self.folder,
            users=self.scale.invoices,
            live_users=self.scale.live_invoices,
            repeats=self.repeats,
        )

    def months(self) -> Iterator[Figure]:
        """Measure whole months by the command line."""
        yield from months.small_month(self.server, self.folder, self.repeats)
        yield from months.finished_month(self.server, self.folder, self.scale.billed_users, self.repeats)

    def commands(self) -> Iterator[Figure]:
        """Measure the commands that read."""
        yield from commands.measure(self.server, self.folder, self.scale.billed_users, self.repeats)

    def standing(self) -> Iterator[Figure]:
        """Measure where single users stand in a month."""
        with self._usage() as url:
            what = f"{_short(self.scale.rows)} rows, {self.scale.users:,} users"
            yield from standing.measure(self.server, url, what, self.scale.users, self.repeats)

    def pricing(self) -> Iterator[Figure]:
        """Measure plans, rate cards and item lines, and the simulation of other prices."""
        yield pricing.drafting(self.server, self.folder, self.scale.drafts, self.repeats)
        yield pricing.simulation(self.server, self.folder, self.scale.drafts, self.repeats)
        with self._usage() as url:
            pricing.price(url)
            what = f"{self._rows}, with plans, rate cards and item lines"
            yield aggregate.assets_in_postgres(
                self.server,
                url,
                self.folder,
                what,
                self.repeats,
                target=pricing.ASSETS_TARGET,
                items_by=pricing.ITEMS_BY,
            )


SUBJECTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "freeze": Bench.freeze,
    "sqlite": Bench.sqlite,
    "aggregate": Bench.aggregate,
    "lake": Bench.lake,
    "bucket": Bench.bucket,
    "naive": Bench.naive,
    "drafts": Bench.drafts,
    "invoicing": Bench.invoicing,
    "months": Bench.months,
    "commands": Bench.commands,
    "standing": Bench.standing,
    "pricing": Bench.pricing,
}


@click.command()
@click.option(
    "--full", is_flag=True, help="The sizes that the targets are set for: about half an hour, 20 GB."
)
@click.option("--only", multiple=True, type=click.Choice(list(SUBJECTS)), help="Some subjects. Repeatable.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="The best one counts.")
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="For the data. Default: temp."
)
def main(only: tuple[str, ...], repeats: int, folder: Path | None, *, full: bool) -> None:
    """Measure, print the table, and write it with a chart to benchmarks/results/."""
    # So that a terminated run stops its server and removes its data, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    figures: list[Figure] = []
    began = datetime.now(UTC)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="spell-billing-bench-", dir=folder) as place,
        running_server(Path(place) / "server") as server,
    ):
        data = Path(place) / "data"
        data.mkdir()
        bench = Bench(server, data, FULL if full else SMALL, repeats)
        for subject in only or SUBJECTS:
            for figure in SUBJECTS[subject](bench):
                figures.append(figure)
                console.print(f"{figure.what}: {' | '.join(figure.cells()[1:])}", style="dim")
        about = _conditions(server, began, repeats)
    console.print(table(figures), about)
    _RESULTS.mkdir(exist_ok=True)
    name = "-".join(["full" if full else "small", *only])
    (_RESULTS / f"{name}.md").write_text(f"{markdown(figures)}\n{about}\n", encoding="utf-8")
    (_RESULTS / f"{name}.svg").write_text(chart(figures), encoding="utf-8")
    console.print(f"Written: {_RESULTS / name}.md and .svg")


def _conditions(server: Server, began: datetime, repeats: int) -> str:
    memory = psutil.virtual_memory().total / _GIB
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"Measured {began:%Y-%m-%d} on {os.cpu_count()} cores and {memory:.0f} GB of memory "
        f"({platform.system()} {platform.machine()}, Python {platform.python_version()}), floor by "
        f"{server.psql_version()}; the best of {repeats} interleaved runs; load at the end {load} "
        f"(1, 5, 15 minutes), {(datetime.now(UTC) - began).total_seconds() / 60:.0f} minutes in all."
    )


def _short(rows: int) -> str:
    return f"{rows / 1_000_000:g} M"


if __name__ == "__main__":
    main()
