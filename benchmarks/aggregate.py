"""Adding up frozen rows per user, and the three assets together with their checks."""

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.databases import Server
from benchmarks.freeze import copy_to_nowhere
from benchmarks.generator import MONTH, SEED, Size, batches
from benchmarks.measure import Run, interleaved, run_way
from benchmarks.report import Figure, Kind

_GIB = 1 << 30
STORE = "store"


def freeze_for_aggregation(url: str, folder: str) -> Callable[[], None]:
    """Prepare to freeze the month into a store that stays, for `ours`."""
    from spell_billing.settings.databases import parse_database_url  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    source = open_usage_source(parse_database_url(url, setting="USAGE_DATABASE_URL"))

    def act() -> None:
        UsageStore(Path(folder) / STORE).freeze(source, MONTH)

    return act


def make_frozen(folder: str, rows: int, users: int) -> Callable[[], None]:
    """Prepare to write a frozen version straight from the generator: no database to fill."""
    import numpy as np  # noqa: PLC0415 - not into the parent's memory
    import pyarrow as pa  # noqa: PLC0415

    from spell_billing.usage.frozen import BadRows, Manifest  # noqa: PLC0415
    from spell_billing.usage.manifest import FORMAT_VERSION, write_manifest  # noqa: PLC0415
    from spell_billing.usage.row_writer import RowWriter  # noqa: PLC0415

    random = np.random.default_rng(int(SEED * 100))
    kind = pa.uuid()
    ids = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), users, [None, pa.py_buffer(random.bytes(16 * users))]
    )
    names = pa.ExtensionArray.from_storage(kind, ids.cast(kind.storage_type))
    version = Path(folder) / STORE / str(MONTH) / "v0001"

    def act() -> None:
        version.mkdir(parents=True)
        made = batches(random, names, rows)
        first = next(made)
        path = version / "rows.parquet"
        with RowWriter(path, first.schema, shape=lambda each: pa.Table.from_batches([each])) as writer:
            for each in chain([first], made):
                writer.put(each)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            month=MONTH,
            frozen_at=datetime.now(UTC),
            backend="postgresql",
            cost_scale=0,
            frozen=writer.totals,
            control=writer.totals,
            files=(writer.file,),
            late=None,
            late_checked=(),
            bad_rows=BadRows(0, ()),
        )
        write_manifest(manifest, version)

    return act


def ours(folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare to aggregate the frozen month."""
    from spell_billing.usage.aggregate import aggregate  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.store import UsageStore  # noqa: PLC0415

    frozen = UsageStore(Path(folder) / STORE).latest(MONTH)
    if frozen is None:
        raise RuntimeError("the month is not frozen")

    def act() -> dict[str, Any]:
        return {"users": aggregate(frozen).users}

    return act


def bare_group_by(folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare DuckDB's bare GROUP BY of the same rows, unordered, unproven, and not written."""
    import duckdb  # noqa: PLC0415 - not into the parent's memory

    rows = Path(folder) / STORE / str(MONTH) / "v0001" / "rows.parquet"

    def act() -> dict[str, Any]:
        query = (
            "SELECT count(*) FROM (SELECT user_id, count(*), sum(cost_cents) "
            f"FROM read_parquet('{rows}') GROUP BY user_id)"
        )
        ((users,),) = duckdb.connect().execute(query).fetchall()
        return {"users": users}

    return act


def three_assets(
    url: str, ledger_url: str, folder: str, items_by: str | None = None
) -> Callable[[], dict[str, Any]]:
    """Prepare to materialize raw_usage, user_usage and invoice_drafts, with their checks, through Dagster.

    The ledger has its tables, and Dagster its instance, as in every run but the first of all.
    """
    import dagster as dg  # noqa: PLC0415 - not into the parent's memory

    from spell_billing.orchestration.build import build_defs  # noqa: PLC0415
    from spell_billing.orchestration.resources import LedgerResource, UsageResource  # noqa: PLC0415

    if items_by is not None:
        os.environ["LINE_ITEMS_BY"] = items_by
    store = tempfile.mkdtemp(dir=folder)
    ledger = LedgerResource(database_url=ledger_url)
    ledger.open().close()
    definitions = build_defs(
        resource_overrides={
            "ledger": ledger,
            "usage": UsageResource(database_url=url, store_path=store),
        }
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    chosen = [dg.AssetKey(name) for name in ("raw_usage", "user_usage", "invoice_drafts")]

    instance = dg.DagsterInstance.ephemeral()

    def act() -> dict[str, Any]:
        with instance:
            result = job.execute_in_process(
                asset_selection=chosen,
                partition_key=MONTH.partition_key,
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
            )
        return {"checks": len(result.get_asset_check_evaluations())}

    return act


def in_postgres(server: Server, url: str, folder: Path, what: str, repeats: int) -> Figure:
    """Measure aggregation of the month in a PostgreSQL database, against reading it from there."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run_way("aggregate:freeze_for_aggregation", url=url, folder=place)
        runs = interleaved(
            repeats,
            {
                "floor": lambda: copy_to_nowhere(server, url),
                "ours": lambda: run_way("aggregate:ours", folder=place),
            },
        )
    return Figure(
        "aggregate",
        f"Aggregate, {what}",
        "psql COPY to nowhere",
        runs["floor"].seconds,
        runs["ours"].seconds,
        kind=Kind.RATIO,
        target=0.25,
        peak_bytes=runs["ours"].peak_bytes,
        peak_target_bytes=_GIB,
    )


def assets_in_postgres(
    server: Server,
    url: str,
    folder: Path,
    what: str,
    repeats: int,
    *,
    target: float = 1.7,
    items_by: str | None = None,
) -> Figure:
    """Measure the three assets that do not call Stripe, with their checks, each time on a new ledger."""

    def assets() -> Run:
        ledger_url = server.create("ledger")
        run = run_way(
            "aggregate:three_assets", url=url, ledger_url=ledger_url, folder=place, items_by=items_by
        )
        server.drop("ledger")
        return run

    with tempfile.TemporaryDirectory(dir=folder) as place:
        runs = interleaved(repeats, {"floor": lambda: copy_to_nowhere(server, url), "ours": assets})
    return Figure(
        "aggregate",
        f"raw_usage + user_usage + invoice_drafts with checks, {what}",
        "psql COPY to nowhere",
        runs["floor"].seconds,
        runs["ours"].seconds,
        kind=Kind.RATIO,
        target=target,
        peak_bytes=runs["ours"].peak_bytes,
    )


def large(folder: Path, size: Size, what: str, repeats: int) -> Figure:
    """Measure aggregation of rows made without a database."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run_way("aggregate:make_frozen", folder=place, rows=size.rows, users=size.users)
        runs = interleaved(
            repeats,
            {
                "floor": lambda: run_way("aggregate:bare_group_by", folder=place),
                "ours": lambda: run_way("aggregate:ours", folder=place),
            },
        )
    return Figure(
        "aggregate",
        f"Aggregate, {what}",
        "DuckDB's bare GROUP BY",
        runs["floor"].seconds,
        runs["ours"].seconds,
        kind=Kind.AT_MOST,
        target=10.0,
        peak_bytes=runs["ours"].peak_bytes,
        peak_target_bytes=_GIB,
    )
