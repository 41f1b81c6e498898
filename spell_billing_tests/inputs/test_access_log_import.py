import gzip
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

RunImport = Callable[..., Result]

LINE = '192.0.2.1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 10 "-" "client"\n'


@pytest.fixture(scope="module")
def example(repository: Path) -> Any:
    """Load the script as a module of its own name: it is no part of the package."""
    path = repository / "examples" / "access_log" / "import_log.py"
    spec = importlib.util.spec_from_file_location("access_log_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sample(repository: Path) -> Path:
    return repository / "examples" / "access_log" / "sample.log"


@pytest.fixture
def run_import(example: Any, database_url: str) -> RunImport:
    def run(log: Path, *options: str) -> Result:
        return CliRunner().invoke(example.main, [str(log), *options], env={"DATABASE_URL": database_url})

    return run


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_every_request_becomes_one_row_with_its_client_price_time_and_endpoint(
    run_import: RunImport, engine: Engine, sample: Path
) -> None:
    result = run_import(sample)

    assert result.exit_code == 0, result.output
    query = "SELECT user_id, cost_cents, created_at, endpoint FROM usage_counters ORDER BY id"
    found = [
        (user, cents, datetime.fromisoformat(str(at)).replace(tzinfo=UTC), endpoint)
        for user, cents, at, endpoint in rows(engine, query)
    ]
    assert found == [
        ("192.0.2.10", 4, datetime(2015, 5, 17, 10, 5, 3, tzinfo=UTC), "GET /images/map.png"),
        ("192.0.2.10", 1, datetime(2015, 5, 17, 10, 5, 43, tzinfo=UTC), "GET /style.css"),
        ("2001:db8::7", 2, datetime(2015, 5, 19, 6, 30, 0, tzinfo=UTC), "POST /v1/check"),
        ("2001:db8::7", 3, datetime(2015, 5, 19, 6, 30, 1, tzinfo=UTC), "POST /v1/check"),
        ("198.51.100.4", 2, datetime(2015, 5, 19, 6, 0, 0, tzinfo=UTC), "GET /search"),
        ("203.0.113.9", 1, datetime(2015, 5, 20, 12, 5, 17, tzinfo=UTC), "HEAD /"),
    ]


def test_every_client_gets_one_account_with_a_customer_id_of_letters_and_digits(
    run_import: RunImport, engine: Engine, sample: Path
) -> None:
    run_import(sample)

    accounts = rows(engine, "SELECT user_id, stripe_customer_id, currency FROM billing_accounts")
    assert {user for user, _, _ in accounts} == {"192.0.2.10", "2001:db8::7", "198.51.100.4", "203.0.113.9"}
    assert len({customer for _, customer, _ in accounts}) == len(accounts) == 4
    assert all(re.fullmatch(r"cus_[0-9a-f]{24}", customer) for _, customer, _ in accounts)
    assert {currency for _, _, currency in accounts} == {"usd"}


def test_a_client_of_an_earlier_log_keeps_the_account(
    run_import: RunImport, engine: Engine, sample: Path, tmp_path: Path
) -> None:
    run_import(sample)
    with engine.begin() as connection:
        connection.execute(text("UPDATE billing_accounts SET stripe_customer_id = 'cus_own'"))
    second = tmp_path / "second.log"
    second.write_text(LINE.replace("192.0.2.1 ", "192.0.2.10 "))

    assert run_import(second).exit_code == 0
    assert rows(engine, "SELECT count(*) FROM usage_counters") == [(7,)]
    assert rows(engine, "SELECT DISTINCT stripe_customer_id FROM billing_accounts") == [("cus_own",)]


def test_the_awk_command_of_the_readme_prints_the_same_totals(
    run_import: RunImport, repository: Path, sample: Path
) -> None:
    if shutil.which("awk") is None:
        pytest.skip("this machine has no awk to count with")
    readme = (repository / "examples" / "access_log" / "README.md").read_text()
    command = re.search(r"^ *awk .*?\"\$LOG\"$", readme, re.DOTALL | re.MULTILINE)
    assert command is not None

    counted = subprocess.run(
        ["sh", "-c", command[0]],  # noqa: S607 - any POSIX shell will do
        env={"LOG": str(sample), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    imported = run_import(sample).output
    assert imported.startswith(counted)
    assert "".join(f"   {line}\n" for line in imported.splitlines()) in readme


@pytest.mark.parametrize("growth", ["", LINE])
def test_a_log_that_was_imported_is_refused_even_when_it_has_grown(
    run_import: RunImport, engine: Engine, sample: Path, tmp_path: Path, growth: str
) -> None:
    run_import(sample)
    again = tmp_path / "again.log"
    again.write_text(sample.read_text() + growth)

    result = run_import(again)

    assert result.exit_code == 1
    assert "first 6 lines of this log were imported before" in result.output
    assert rows(engine, "SELECT count(*) FROM usage_counters") == [(6,)]


def test_a_gzipped_log_is_the_same_log(
    run_import: RunImport, engine: Engine, sample: Path, tmp_path: Path
) -> None:
    zipped = tmp_path / "access.log.1.gz"
    zipped.write_bytes(gzip.compress(sample.read_bytes()))

    assert run_import(zipped).exit_code == 0
    assert "imported before" in run_import(sample).output
    assert rows(engine, "SELECT count(*) FROM usage_counters") == [(6,)]


def test_malformed_lines_are_named_and_nothing_is_imported(run_import: RunImport, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(f"{LINE}\nno request\n{LINE}{LINE[:40]}\n")

    result = run_import(log)

    assert result.exit_code == 1
    assert "line 3: 'no request'" in result.output
    assert "line 5: " in result.output
    assert "2 lines are no request" in result.output
    assert run_import(log, "--skip-malformed").exit_code == 0, "the refused import left something behind"


def test_malformed_lines_are_left_out_on_request(
    run_import: RunImport, engine: Engine, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    log.write_text(f"{LINE}no request\n{LINE}")

    result = run_import(log, "--skip-malformed")

    assert result.exit_code == 0
    assert "1 malformed lines left out\n2 calls, 1 users, 4 cents" in result.output
    assert rows(engine, "SELECT count(*) FROM usage_counters") == [(2,)]


def test_a_log_longer_than_a_batch_is_counted_whole(
    run_import: RunImport, engine: Engine, example: Any, tmp_path: Path
) -> None:
    calls = example.BATCH_ROWS * 2 + 1
    log = tmp_path / "access.log"
    log.write_text(LINE * calls)

    assert f"{calls} calls, 1 users, {2 * calls} cents" in run_import(log).output
    assert rows(engine, "SELECT count(*), sum(cost_cents) FROM usage_counters") == [(calls, 2 * calls)]


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "The log is empty"), (b"\x1f\x8bbroken", "cannot be read")]
)
def test_a_file_that_is_no_log_is_refused(
    run_import: RunImport, tmp_path: Path, content: bytes, message: str
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(content)

    result = run_import(log)

    assert result.exit_code == 1
    assert message in result.output


def test_the_password_of_a_database_that_does_not_answer_is_not_shown(example: Any, sample: Path) -> None:
    url = "postgresql://user:s3cret@127.0.0.1:1/platform"

    result = CliRunner().invoke(example.main, [str(sample), "--database-url", url])

    assert result.exit_code == 1
    assert "127.0.0.1" in result.output
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("sent", "cents"),
    [("-", 1), ("0", 1), ("1", 2), ("100000", 2), ("100001", 3), ("200000", 3), ("1000000000", 10_001)],
)
def test_a_request_costs_a_cent_and_one_for_each_started_100_kb(example: Any, sent: str, cents: int) -> None:
    assert example.parse_line(LINE.strip().replace("200 10", f"200 {sent}")).cost_cents == cents


@pytest.mark.parametrize(
    ("request_text", "endpoint"),
    [
        ("GET /path?query=1 HTTP/1.1", "GET /path"),
        (r"GET /a\"b\"?c=\" HTTP/1.1", r"GET /a\"b\""),
        (r"GET /\\", r"GET /\\"),
        (r"\x16\x03\x01", r"\x16\x03\x01"),
        ("-", "-"),
        ("", ""),
    ],
)
def test_the_endpoint_is_method_and_path_as_the_log_has_them(
    example: Any, request_text: str, endpoint: str
) -> None:
    line = LINE.strip().replace("GET / HTTP/1.1", request_text)
    assert example.parse_line(line).endpoint == endpoint


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("01/Jan/2016:00:30:00 +0100", datetime(2015, 12, 31, 23, 30, tzinfo=UTC)),
        ("31/Dec/2015:20:00:00 -0400", datetime(2016, 1, 1, tzinfo=UTC)),
        ("29/Feb/2016:12:00:00 +0530", datetime(2016, 2, 29, 6, 30, tzinfo=UTC)),
    ],
)
def test_the_zone_of_the_log_decides_the_month_in_utc(example: Any, zone: str, expected: datetime) -> None:
    line = LINE.strip().replace("17/May/2015:10:05:03 +0000", zone)
    assert example.parse_line(line).time == expected


@pytest.mark.parametrize(
    "line",
    [
        LINE.strip().replace("17/May", "31/Feb"),
        LINE.strip().replace("17/May", "17/Mai"),
        LINE.strip().replace(" +0000", ""),
        LINE.strip().replace("200 10", "200 1O"),
        LINE.strip().replace("200 10", "200 -5"),
        LINE.strip().replace("GET", "G\0T"),
        LINE[: LINE.index("200")],
    ],
)
def test_a_line_that_is_no_request_is_told_apart(example: Any, line: str) -> None:
    with pytest.raises(example.MalformedLineError):
        example.parse_line(line)
