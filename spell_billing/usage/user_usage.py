"""The files of a month's users and items: each with its hash, read only while it is what was aggregated.

Equal sums would not tell that two users were exchanged after the rows were verified.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.items import ItemUsage
from spell_billing.core.money import exact_sum
from spell_billing.usage.amounts import exact
from spell_billing.usage.amounts import exact_sum as column_sum
from spell_billing.usage.contract import ACCOUNTS_SCHEMA
from spell_billing.usage.disk import sha256_of, sync
from spell_billing.usage.frozen import USER_ITEMS_FILE, USER_USAGE_FILE, FrozenUsage, Totals
from spell_billing.usage.tables import positions, texts

HASH_SUFFIX = ".sha256"
HASH_FILE = f"user_usage{HASH_SUFFIX}"
_COLUMNS = ["user_id", "calls", "cost_cents"]
_ITEM_COLUMNS = ("user_id", "item", "calls", "cost_cents")

ItemsOf = Callable[[str], Sequence[ItemUsage]]
"""Gives a user's items; users are asked for in rising order, each once."""


def keep_user_usage(unfinished: Path, directory: Path, name: str = USER_USAGE_FILE) -> Path:
    """Sync a finished file to disk and move it into a version on the same filesystem; return its place.

    Its hash goes before it, as `sha256sum` writes it.
    """
    path = directory / name
    hash_path = path.with_suffix(HASH_SUFFIX)
    unfinished_hash = unfinished.with_name(hash_path.name)
    unfinished_hash.write_text(f"{sha256_of(unfinished)}  {name}\n", encoding="ascii")
    for each, place in ((unfinished_hash, hash_path), (unfinished, path)):
        sync(each)
        each.rename(place)
    return path


@contextmanager
def open_user_usage(frozen: FrozenUsage, name: str = USER_USAGE_FILE) -> Iterator[pq.ParquetFile]:
    """Open a version's users (user_id, calls, cost_cents; ordered by user_id), verified.

    `USER_ITEMS_FILE` has an item after the user, and is ordered by both.

    Raises:
        UsageError: the version was not aggregated.
        IntegrityError: the file was altered since.
    """
    if frozen.keeper:
        frozen.keeper.fetch_sums(frozen, name)
    path = frozen.directory / name
    aggregate = "Materialize user_usage of the month"
    try:
        kept = path.with_suffix(HASH_SUFFIX).read_text(encoding="ascii", errors="replace")
        found = sha256_of(path)
    except FileNotFoundError as error:
        raise UsageError(
            f"{frozen.month}/{frozen.version} was not aggregated: {error.filename} is missing.",
            remedy=f"{aggregate} first.",
        ) from error
    if kept.split() != [found, name]:
        raise IntegrityError(
            f"{path} is not what was aggregated.",
            remedy=f"{aggregate} again, which verifies the frozen rows, then reconcile it.",
        )
    with pq.ParquetFile(path) as file:
        yield file


def charged_totals(frozen: FrozenUsage) -> Totals:
    """Return the calls of a month and what they cost: as its rows say, or by its rate cards.

    Raises:
        UsageError: the month has rate cards, and was not aggregated.
        IntegrityError: what was aggregated was altered, or does not stand for the frozen rows.
    """
    control = frozen.manifest.control
    if frozen.manifest.rates is None:
        return control
    with open_user_usage(frozen) as users, open_user_usage(frozen, USER_ITEMS_FILE) as items:
        charged = _totals(users.read(["calls", "cost_cents"]), "cost_cents")
        by_item = items.read(["calls", "cost_cents", "stored_cents"])
    if _totals(by_item, "stored_cents") != control or _totals(by_item, "cost_cents") != charged:
        raise IntegrityError(
            f"{frozen.month}/{frozen.version}: the items of the users are not the frozen rows.",
            remedy="Materialize user_usage of the month again.",
        )
    return charged


def _totals(table: pa.Table, amount: str) -> Totals:
    calls = pc.sum(table["calls"]).as_py() or 0
    cents = exact_sum(*(column_sum(chunk) for chunk in table[amount].chunks))
    return Totals(calls, exact(str(cents)))


def iter_user_drafting_input(
    frozen: FrozenUsage, accounts: pa.Table, *, batch_size: int = 10_000, extra_users: Iterable[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Stream one row per user of an aggregated version, ordered by user_id, with the user's account.

    Users without usage appear where `extra_users` names them: for late usage, or a credit.

    Yields:
        Batches of user_id; calls and cost_cents; account_known; and the columns of `ACCOUNTS_SCHEMA`, null
        when unknown. cost_cents is text: Python reads it in a fifth of the time of Arrow's decimals.

    Raises:
        UsageError: the version was not aggregated.
        IntegrityError: what was aggregated was altered.
    """
    with open_user_usage(frozen) as file:
        everyone = _with_extra(file.read(_COLUMNS), extra_users)
    place = positions(everyone["user_id"], accounts["user_id"])
    joined = {
        "user_id": everyone["user_id"],
        "calls": everyone["calls"],
        "cost_cents": everyone["cost_cents"].cast(pa.string()),
        "account_known": place.is_valid(),
        **{name: accounts[name].take(place) for name in ACCOUNTS_SCHEMA.names if name != "user_id"},
    }
    yield from pa.table(joined).to_batches(max_chunksize=batch_size)


def _with_extra(usage: pa.Table, users: Iterable[str]) -> pa.Table:
    extra = texts(sorted(set(users)))
    extra = extra.filter(pc.is_null(positions(extra, usage["user_id"])))
    if not len(extra):
        return usage
    nothing = texts(["0"] * len(extra))
    columns = [extra, *(nothing.cast(usage.schema.field(name).type) for name in _COLUMNS[1:])]
    return pa.concat_tables([usage, pa.table(columns, schema=usage.schema)]).sort_by("user_id")


def items_in_step(frozen: FrozenUsage, only: Collection[str] | None = None) -> ItemsOf:
    """Return the way to each user's items of an aggregated version: none where no items were frozen.

    Args:
        frozen: The version.
        only: Users that are asked for; None for all.

    Raises:
        UsageError: when asked, where the version was not aggregated.
        IntegrityError: likewise, where what was aggregated was altered.
    """
    if frozen.manifest.items_by is None:
        return lambda _: ()
    groups = groupby(_item_rows(frozen, only), key=lambda row: row[0])
    waiting: list[tuple[str, list[ItemUsage]]] = []

    def items_of(user_id: str) -> Sequence[ItemUsage]:
        while not waiting or waiting[0][0] < user_id:
            waiting.clear()
            found = next(groups, None)
            if found is None:
                return ()
            user, rows = found
            waiting.append((user, [ItemUsage(item, calls, Decimal(cost)) for _, item, calls, cost in rows]))
        return waiting[0][1] if waiting[0][0] == user_id else ()

    return items_of


def _item_rows(frozen: FrozenUsage, only: Collection[str] | None) -> Iterator[tuple[str, str, int, str]]:
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        for batch in file.iter_batches(columns=list(_ITEM_COLUMNS)):
            kept = batch
            if only is not None:
                kept = batch.filter(pc.is_in(batch["user_id"], value_set=texts(sorted(only))))
            # As text: Python reads it in a fifth of the time of Arrow's decimals.
            cost = kept["cost_cents"].cast(pa.string()).to_pylist()
            yield from zip(*(kept[name].to_pylist() for name in _ITEM_COLUMNS[:-1]), cost, strict=True)
