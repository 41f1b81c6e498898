"""The store of frozen months: whole versions or none, whatever dies when."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spell_billing.core.drafting import Account
from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.month import Month
from spell_billing.usage.contract import (
    ACCOUNTS_SCHEMA,
    OnProgress,
    OnWait,
    Past,
    SpendLimits,
    UserMonth,
    UserSpending,
)
from spell_billing.usage.disk import finished_file
from spell_billing.usage.frozen import (
    MANIFEST_FILE,
    BadRow,
    BadRows,
    FrozenUsage,
    LateMonth,
    LateUsage,
    Manifest,
    Totals,
)
from spell_billing.usage.manifest import read_manifest, write_manifest
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)


class FixedSource:
    """A source with one row; calls `midway` between writing the file and giving the manifest."""

    def __init__(self, midway: Callable[[], None] = lambda: None) -> None:
        self._midway = midway

    def freeze(
        self,
        month: Month,
        directory: Path,
        *,
        late_for: Sequence[FrozenUsage],
        past: Past | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
    ) -> Manifest:
        assert not late_for
        assert (past, on_progress, on_wait) == (None, None, None)
        path = directory / "rows.parquet"
        pq.write_table(pa.table({"id": [1], "user_id": ["user-1"], "cost_cents": [5]}), path)
        self._midway()
        totals = Totals(1, Decimal(5))
        return Manifest(
            format_version=1,
            month=month,
            frozen_at=datetime(2026, 11, 1, 0, 5, tzinfo=UTC),
            backend="sqlite",
            cost_scale=0,
            frozen=totals,
            control=totals,
            files=(finished_file(path, 1),),
            late=None,
            late_checked=(),
            bad_rows=BadRows(0, ()),
        )

    def supplement(self, *_: object, **__: object) -> LateUsage | None:
        raise AssertionError("nobody is drafted again")

    def accounts(self, users: Collection[str] | None = None) -> pa.Table:  # noqa: ARG002
        return ACCOUNTS_SCHEMA.empty_table()

    def plans(self, month: Month, user_id: str | None = None) -> pa.Table | None:
        raise AssertionError(f"only a freeze is asked for, not {month} of {user_id}")

    def so_far(self, month: Month) -> dict[str, Totals]:
        raise AssertionError(f"only a freeze of {month} is asked for")

    def user_month(self, user_id: str, month: Month) -> UserMonth:
        raise AssertionError(f"only a freeze is asked for, not {user_id} in {month}")

    def account(self, user_id: str) -> Account | None:
        raise AssertionError(f"only a freeze is asked for, not {user_id}")

    def spend_limits(self) -> SpendLimits:
        raise AssertionError("no bill depends on a limit")

    def spending(self, user_id: str, month: Month, *, with_limit: bool = True) -> UserSpending:  # noqa: ARG002
        raise AssertionError(f"only a freeze is asked for, not {user_id} in {month}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "usage"


@pytest.fixture
def store(root: Path) -> UsageStore:
    return UsageStore(root, lock_timeout_seconds=0.05)


def test_versions_count_up_and_the_latest_is_the_newest(store: UsageStore) -> None:
    assert store.latest(OCTOBER) is None

    first, second = store.freeze(FixedSource(), OCTOBER), store.freeze(FixedSource(), OCTOBER)

    assert (first.version, second.version) == ("v0001", "v0002")
    assert store.latest(OCTOBER) == second
    assert store.version(OCTOBER, "v0001") == first
    assert store.versions(OCTOBER.next()) == []


def test_a_version_that_is_not_there_is_named(store: UsageStore) -> None:
    for name in ("v0009", "../2026-09/v0001", ".unfinished-1"):
        with pytest.raises(UsageError, match="is not in"):
            store.version(OCTOBER, name)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), r"usage/2026-10 has no room .* Make room there"),
        (OSError(5, "Input/output error"), "Input/output"),
    ],
)
def test_a_freeze_that_fails_leaves_nothing(
    store: UsageStore, root: Path, error: Exception, told: str
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises((UsageError, OSError), match=told):
        store.freeze(FixedSource(fail), OCTOBER)

    assert store.versions(OCTOBER) == []
    assert [path.name for path in (root / "2026-10").iterdir()] == [".lock"]


_DYING = """
import importlib.util, os, signal, sys
from pathlib import Path
from spell_billing.core.month import Month
from spell_billing.core.drafting import Account
from spell_billing.usage.store import UsageStore
spec = importlib.util.spec_from_file_location("store_tests", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["store_tests"] = module
spec.loader.exec_module(module)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
UsageStore(Path(sys.argv[2])).freeze(module.FixedSource(die), Month(2026, 10))
"""


def test_a_freeze_killed_midway_is_invisible_and_swept_by_the_next(store: UsageStore, root: Path) -> None:
    command = [sys.executable, "-c", _DYING, __file__, str(root)]
    killed = subprocess.run(command, check=False)
    leftovers = list((root / "2026-10").glob(".unfinished-*"))

    assert killed.returncode == -signal.SIGKILL
    assert len(leftovers) == 1
    assert store.latest(OCTOBER) is None

    assert store.freeze(FixedSource(), OCTOBER).version == "v0001"
    assert not leftovers[0].exists()


def test_a_second_freeze_waits_for_the_first_and_harms_nothing_of_it(store: UsageStore, root: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(30)

    first = threading.Thread(target=store.freeze, args=(FixedSource(wait), OCTOBER))
    first.start()
    assert inside.wait(30)
    with pytest.raises(UsageError, match=r"Another process has been freezing 2026-10"):
        store.freeze(FixedSource(), OCTOBER)
    patient = threading.Thread(target=UsageStore(root).freeze, args=(FixedSource(), OCTOBER))
    patient.start()
    go_on.set()
    first.join(30)
    patient.join(30)

    assert store.versions(OCTOBER) == ["v0001", "v0002"]
    for version in store.versions(OCTOBER):
        store.verify(store.version(OCTOBER, version))


def test_an_altered_or_missing_file_is_named_with_the_remedy(store: UsageStore) -> None:
    frozen = store.freeze(FixedSource(), OCTOBER)
    store.verify(frozen)
    path = frozen.directory / "rows.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1

    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"rows\.parquet is not what was frozen") as caught:
        store.verify(frozen)
    assert "backup" in caught.value.remedy

    path.unlink()
    with pytest.raises(IntegrityError, match=r"rows\.parquet is missing"):
        store.verify(frozen)


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"format_version": 1}', "[]"])
def test_a_damaged_manifest_is_named(store: UsageStore, damage: str) -> None:
    frozen = store.freeze(FixedSource(), OCTOBER)
    (frozen.directory / MANIFEST_FILE).write_text(damage)

    with pytest.raises(UsageError, match=r"manifest\.json is damaged"):
        store.latest(OCTOBER)


def test_a_manifest_of_an_unknown_format_or_another_month_is_refused(store: UsageStore) -> None:
    frozen = store.freeze(FixedSource(), OCTOBER)
    write_manifest(replace(frozen.manifest, format_version=4), frozen.directory)
    with pytest.raises(UsageError, match="has format 4"):
        store.latest(OCTOBER)

    write_manifest(replace(frozen.manifest, month=OCTOBER.next()), frozen.directory)
    with pytest.raises(UsageError, match="holds the usage of 2026-11, not of 2026-10"):
        store.latest(OCTOBER)


def test_a_manifest_is_read_back_exactly(store: UsageStore) -> None:
    frozen = store.freeze(FixedSource(), OCTOBER)
    file = frozen.manifest.files[0]
    full = replace(
        frozen.manifest,
        cost_scale=18,
        frozen=Totals(3, Decimal("12345678901234567890.000000000000000001")),
        late=LateUsage(file, (LateMonth(Month(2026, 9), "v0002", 1, Totals(-1, Decimal("-0.5"))),)),
        late_checked=("2026-09/v0002",),
        bad_rows=BadRows(1000, (BadRow("7", "cost_cents is NaN"),)),
    )

    write_manifest(full, frozen.directory)

    assert read_manifest(frozen.directory) == full


def test_a_manifest_of_an_earlier_program_lacks_what_was_added_since(store: UsageStore) -> None:
    frozen = store.freeze(FixedSource(), OCTOBER)
    path = frozen.directory / MANIFEST_FILE
    added = ("earlier_bad_rows", "without_id", "outside", "erased")
    document = {name: each for name, each in json.loads(path.read_text()).items() if name not in added}
    path.write_text(json.dumps(document))

    assert read_manifest(frozen.directory) == frozen.manifest


def test_pruning_keeps_the_newest_three_and_what_is_pinned(store: UsageStore, root: Path) -> None:
    for _ in range(6):
        store.freeze(FixedSource(), OCTOBER)

    assert store.prune(OCTOBER, keep={"v0002"}) == ["v0001", "v0003"]
    assert store.versions(OCTOBER) == ["v0002", "v0004", "v0005", "v0006"]
    assert store.freeze(FixedSource(), OCTOBER).version == "v0007"
    assert not list((root / "2026-10").glob(".unfinished-*"))


def test_old_spill_directories_are_swept_and_young_ones_left_alone(store: UsageStore, root: Path) -> None:
    store.freeze(FixedSource(), OCTOBER)
    old, young = root / "2026-10" / ".duckdb-old", root / "2026-10" / ".duckdb-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))

    store.freeze(FixedSource(), OCTOBER)

    assert (old.exists(), young.exists()) == (False, True)
