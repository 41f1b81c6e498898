"""Which files of a folder are a table: all that are visible, each once, or a refusal that names one."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.lake_files import table_files
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)


class Folder:
    """A lake's folder, and Parquet files in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)

    def calls(self, name: str, user: str, cents: int, *, row_id: int | None = None) -> Path:
        """Write a file of one call, without an id unless one is given."""
        row = f"{row_id if row_id is not None else 'NULL'}::BIGINT AS id, '{user}' AS user_id"
        return self.write(name, f"{row}, {cents} AS cost_cents, TIMESTAMP '2026-10-15' AS created_at")

    def write(self, name: str, columns: str) -> Path:
        file = self.place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as duck:
            duck.execute(f"COPY (SELECT {columns}) TO '{file}' (FORMAT parquet)")
        return file

    @property
    def source(self) -> UsageSource:
        return open_usage_source(parse_usage_url(f"duckdb://{self.place}", setting="USAGE_DATABASE_URL"))

    def charged(self) -> dict[str, int]:
        """Freeze October, and return what each user owes for it."""
        with tempfile.TemporaryDirectory() as usage:
            frozen = UsageStore(Path(usage)).freeze(self.source, OCTOBER)
            sums = pq.read_table(frozen.directory / frozen.manifest.files[0].name).to_pylist()
        return {row["user_id"]: int(row["cost_cents"]) for row in sums}

    def bill(self) -> None:
        """Read all that a bill needs."""
        self.charged()
        self.source.accounts()


@pytest.fixture
def lake(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "lake")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Folder:
    """Give another disk."""
    return Folder(tmp_path / "disk2")


def test_files_and_folders_behind_links_are_read(lake: Folder, elsewhere: Folder) -> None:
    lake.calls("usage_counters/shard=a/1.parquet", "ann", 5)
    elsewhere.calls("moved/2.parquet", "bob", 7)
    one = elsewhere.calls("one.parquet", "cyd", 9)
    (lake.place / "usage_counters/shard=b").symlink_to(elsewhere.place / "moved")
    (lake.place / "usage_counters/shard=c").mkdir()
    (lake.place / "usage_counters/shard=c/3.parquet").symlink_to(one)
    elsewhere.write("plans/current/1.parquet", "'pro' AS plan_id, 300 AS included_cents")
    lake.write(
        "billing_accounts.parquet", "'ann' AS user_id, 'cus_ann' AS stripe_customer_id, 'pro' AS plan_id"
    )
    (lake.place / "billing_plans").symlink_to(elsewhere.place / "plans")

    assert lake.charged() == {"ann": 5, "bob": 7, "cyd": 9}
    assert lake.source.accounts()["included_cents"].to_pylist() == [300]


def test_the_extension_is_read_in_any_case_and_so_is_the_table_s_name(lake: Folder) -> None:
    lake.calls("USAGE_COUNTERS/1.parquet", "ann", 5)
    lake.calls("USAGE_COUNTERS/2.PARQUET", "bob", 7)
    lake.write("Billing_Accounts.PARQUET", "'ann' AS user_id, 'cus_ann' AS stripe_customer_id")

    assert lake.charged() == {"ann": 5, "bob": 7}
    assert lake.source.accounts()["user_id"].to_pylist() == ["ann"]


def test_a_folder_named_as_a_parquet_file_counts_once_with_the_parts_in_it(lake: Folder) -> None:
    lake.calls("usage_counters/2026-10.parquet/part-0.snappy.parquet", "ann", 5)
    lake.calls("usage_counters/2026-10.parquet/part-1.snappy.parquet", "bob", 7)
    lake.write("billing_accounts.parquet/part-0.parquet", "'ann' AS user_id, 'cus_ann' AS stripe_customer_id")

    assert lake.charged() == {"ann": 5, "bob": 7}
    assert lake.source.accounts()["user_id"].to_pylist() == ["ann"]


def test_a_name_with_the_letters_of_a_pattern_is_that_file_and_no_other(lake: Folder) -> None:
    lake.calls("usage_counters/a[1].parquet", "ann", 5)
    lake.calls("usage_counters/a1.parquet", "bob", 7)
    lake.calls("usage_counters/b*.parquet", "cyd", 9)
    lake.calls("usage_counters/bb.parquet", "dan", 11)

    assert lake.charged() == {"ann": 5, "bob": 7, "cyd": 9, "dan": 11}


@pytest.mark.parametrize(
    "name",
    [
        "_temporary/0/attempt_1/2.parquet",
        ".tmp3.parquet",
        ".1.parquet.Xy12.parquet",
        ".snapshot/1.parquet",
        "_spark_metadata_old/1.parquet",
        "1.parquet._COPYING_",
    ],
)
def test_what_is_hidden_is_no_usage(lake: Folder, name: str) -> None:
    lake.calls("usage_counters/1.parquet", "ann", 5)
    lake.calls(f"usage_counters/{name}", "ann", 5)
    for other in ("_SUCCESS", ".1.parquet.crc"):
        (lake.place / "usage_counters" / other).touch()

    assert lake.charged() == {"ann": 5}


Break = Callable[[Folder, Path], object]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda lake, _: (lake.place / "usage_counters/3.csv").write_text("id\n"),
            r"usage_counters/3\.csv is no Parquet file",
        ),
        (
            lambda lake, _: os.mkfifo(lake.place / "usage_counters/3.parquet"),
            r"usage_counters/3\.parquet is no Parquet file",
        ),
        (
            lambda lake, _: lake.calls("usage_counters.parquet", "bob", 7),
            r"usage_counters stands twice in .*: as usage_counters and as usage_counters\.parquet",
        ),
        (
            lambda lake, _: lake.calls("Usage_Counters/1.parquet", "bob", 7),
            "usage_counters stands twice in .*: as Usage_Counters and as usage_counters",
        ),
        (
            lambda lake, _: (lake.place / "usage_counters.csv").touch(),
            r"lake/usage_counters\.csv is no Parquet file",
        ),
        (
            lambda lake, gone: (lake.place / "usage_counters/b").symlink_to(gone),
            "usage_counters/b cannot be read: No such file",
        ),
        (
            lambda lake, _: (lake.place / "usage_counters/b").symlink_to(lake.place / "usage_counters/b"),
            "usage_counters/b cannot be read: Too many levels",
        ),
        (
            lambda lake, _: (lake.place / "usage_counters/again").symlink_to(lake.place),
            "usage_counters/again/usage_counters is the same as .*/usage_counters:",
        ),
        (
            lambda lake, _: (lake.place / "usage_counters/latest.parquet").symlink_to("1.parquet"),
            r"latest\.parquet is the same as .*/1\.parquet: its rows would count twice",
        ),
        (
            lambda lake, _: (lake.place / "usage_counters/copy.parquet").hardlink_to(
                lake.place / "usage_counters/1.parquet"
            ),
            r"copy\.parquet is the same as .*/1\.parquet|1\.parquet is the same as .*/copy\.parquet",
        ),
        (
            lambda lake, _: (lake.place / "usage_counters/_delta_log").mkdir(),
            "usage_counters is a table of Delta Lake",
        ),
        (lambda lake, _: (lake.place / "billing_plans").mkdir(), "billing_plans holds no Parquet file"),
        (
            lambda lake, _: lake.write("billing_plans/_temporary/0/1.parquet", "'pro' AS plan_id"),
            "billing_plans holds no Parquet file",
        ),
        (
            lambda lake, gone: (lake.place / "billing_plans.parquet").symlink_to(gone),
            r"billing_plans\.parquet cannot be read",
        ),
    ],
)
def test_what_may_be_usage_or_prices_and_is_not_read_stops_the_month(
    lake: Folder, tmp_path: Path, spoil: Break, sentence: str
) -> None:
    lake.calls("usage_counters/1.parquet", "ann", 5)
    lake.write("billing_accounts.parquet", "'ann' AS user_id, 'cus_ann' AS stripe_customer_id")
    spoil(lake, tmp_path / "unmounted")

    with pytest.raises(UsageError, match=sentence) as refused:
        lake.bill()
    assert refused.value.remedy


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one() -> None:
    with tempfile.TemporaryDirectory() as place:
        lake = Folder(Path(place))
        lake.place.chmod(0o755)
        lake.calls("usage_counters/shard=a/1.parquet", "ann", 5)
        closed = lake.calls("usage_counters/shard=b/1.parquet", "bob", 7).parent
        closed.chmod(0)
        with not_root(), pytest.raises(UsageError, match="shard=b cannot be read: Permission denied"):
            table_files(lake.place, "usage_counters")
        closed.chmod(0o700)


def test_folders_of_keys_give_columns_to_all_files(lake: Folder) -> None:
    lake.calls("usage_counters/1.parquet", "ann", 5)
    for user in ("ann", "bob"):
        lake.write(
            f"billing_accounts/currency=eur/{user}.parquet",
            f"'{user}' AS user_id, 'cus_{user}' AS stripe_customer_id",
        )

    assert lake.source.accounts()["currency"].to_pylist() == ["eur", "eur"]


def test_folders_of_keys_above_the_table_are_none_of_its_columns(tmp_path: Path) -> None:
    lake = Folder(tmp_path / "currency=eur")
    lake.write("billing_accounts/1.parquet", "'ann' AS user_id, 'cus_ann' AS stripe_customer_id")

    assert lake.source.accounts()["currency"].to_pylist() == ["usd"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "new.parquet",
            r"new\.parquet lies in no folder currency=\.\.\., as .*currency=eur/ann\.parquet does",
        ),
        ("plan_id=pro/new.parquet", r"new\.parquet lies in no folder currency=\.\.\., as"),
        ("currency=eur/plan_id=pro/new.parquet", r"ann\.parquet lies in no folder plan_id=\.\.\., as"),
        ("Currency=eur/new.parquet", r"lies in no folder"),
        ("currency=/new.parquet", "currency= is no folder of a key and a value"),
        ("currency=eur=1/new.parquet", "currency=eur=1 is no folder of a key and a value"),
    ],
)
def test_a_file_that_lacks_the_column_of_a_folder_stops_the_month(
    lake: Folder, name: str, sentence: str
) -> None:
    lake.write("billing_accounts/currency=eur/ann.parquet", "'ann' AS user_id, 'cus_a' AS stripe_customer_id")
    lake.write(
        f"billing_accounts/{name}", "'cyd' AS user_id, 'cus_c' AS stripe_customer_id, 'eur' AS currency"
    )

    with pytest.raises(UsageError, match=sentence):
        lake.source.accounts()


def test_an_account_s_file_that_lacks_a_column_of_others_stops_the_month(lake: Folder) -> None:
    ann = "'ann' AS user_id, 'cus_a' AS stripe_customer_id, 'eur' AS Currency"
    lake.write("billing_accounts/1.parquet", ann)
    lake.write("billing_accounts/2.parquet", "'bob' AS user_id, 'cus_b' AS stripe_customer_id")

    with pytest.raises(
        UsageError, match=r"2\.parquet has no column currency, as .*1\.parquet has"
    ) as refused:
        lake.source.accounts()
    assert refused.value.remedy


def test_a_damaged_file_of_accounts_stops_the_month_by_name(lake: Folder) -> None:
    ann = lake.write("billing_accounts/1.parquet", "'ann' AS user_id, 'cus_a' AS stripe_customer_id")
    ann.write_bytes(ann.read_bytes()[:-20])

    with pytest.raises(UsageError, match=r"1\.parquet is not a complete Parquet file"):
        lake.source.accounts()


@contextmanager
def not_root() -> Iterator[None]:
    """Read files as somebody whom permissions hold for."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
