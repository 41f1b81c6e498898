"""What the commands refuse: wrong usage ends with 2, what a person must mend with 1 and one clear message."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

BILL = ("bill", "--month", "2025-03")
HEAVY = {"dagster", "pandas", "sqlalchemy", "duckdb", "pyarrow", "stripe"}


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Any]) -> Any:
    """Give a shop with one user to bill in March 2025; no test may succeed in billing it."""
    shop = make_shop("sqlite")
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))
    return shop


@pytest.fixture
def refuses(shop: Any) -> Callable[..., str]:
    """Give `refuses(*arguments, code=1, **settings)`: runs a command that must fail; gives its message."""

    def refuses(*arguments: str, code: int = 1, **settings: str | None) -> str:
        done = shop.run(*arguments, **settings)
        assert done.returncode == code, done.stdout + done.stderr
        assert shop.double.writes == []
        return str(done.stderr)

    return refuses


def test_help_appears_at_once_because_nothing_heavy_is_imported() -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spell_billing", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}

    for command in ("bill", "init-db", "invoices", "preview", "status", "stripe-double"):
        assert f"\n  {command} " in shown.stdout
    assert "click" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bill",), "Missing option '--month'"),
        (
            ("bill", "--month", "2025-13"),
            "'2025-13' is not a month. Write it as YYYY-MM",
        ),
        (("bil", "--month", "2025-03"), "No such command 'bil'"),
        (("status", "--jsn"), "No such option"),
        (("stripe-double", "--port", "70000"), "70000 is not in the range"),
        (
            ("credit", "--month", "2025-03", "--user", "u", "--cents", "5.00", "--reason", "r"),
            "'5.00' is not a whole number of cents: write 500 for five dollars",
        ),
        (
            ("credit", "--month", "2025-03", "--user", "u", "--cents", "-5", "--reason", "r"),
            "-5 is not in the range",
        ),
        *(
            (words, "it is blank, and no user has such an id")
            for words in (
                ("move-user", "--from", "u", "--to", " ", "--reason", "r"),
                ("hold", "--month", "2025-03", "--user", "", "--reason", "r"),
                ("release", "--month", "2025-03", "--user", " ", "--reason", "r"),
                ("grant", "--user", "", "--id", "g", "--cents", "1", "--expires", "2027-01-01"),
            )
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(
    refuses: Callable[..., str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in " ".join(refuses(*arguments, code=2).split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"STRIPE_API_KEY": None},
            "Error: STRIPE_API_KEY is not set. Set it to your Stripe secret key (sk_... or rk_...); "
            "nothing is billed without one.\n",
            id="no key",
        ),
        pytest.param(
            {"STRIPE_API_KEY": "pk_live_Vertraulich"},
            "Error: STRIPE_API_KEY is not a Stripe secret key. It starts with sk_live_, sk_test_, rk_live_ "
            "or rk_test_; publishable keys cannot bill.\n",
            id="publishable key",
        ),
        pytest.param(
            {"STRIPE_API_BASE": "http://stripe.example.com"},
            "Error: STRIPE_API_BASE would send the Stripe key unencrypted. "
            "Use https; plain http is for 127.0.0.1 and localhost only.\n",
            id="address in the clear",
        ),
        pytest.param(
            {"SPELL_BILLING_FIRST_MONTH": "January"},
            "Error: SPELL_BILLING_FIRST_MONTH='January' is not a month. Write it as YYYY-MM, as 2024-01.\n",
            id="first month",
        ),
        pytest.param(
            {"SPELL_BILLING_FIRST_MONTH": "2025-04"},
            "Error: 2025-03 precedes the first billed month, 2025-04. Choose a later month, or set "
            "SPELL_BILLING_FIRST_MONTH to an earlier one.\n",
            id="before the first month",
        ),
        pytest.param(
            {"DATABASE_URL": "mysql://root:Vertraulich@localhost/billing"},
            "Error: DATABASE_URL names no database that is supported: 'mysql' is neither PostgreSQL nor "
            "SQLite. Write postgresql://user@host:5432/database, or sqlite:////absolute/path/to/file.db.\n",
            id="another database",
        ),
    ],
)
def test_a_missing_or_wrong_setting_is_named_with_its_remedy(
    refuses: Callable[..., str], settings: dict[str, str | None], message: str
) -> None:
    assert refuses(*BILL, **settings) == message


def test_a_month_that_is_not_over_is_refused_before_anything_is_read(refuses: Callable[..., str]) -> None:
    assert refuses("bill", "--month", "2099-01") == (
        "Error: 2099-01 is not closed: it ends on 2099-01-31 at 24:00 UTC. Only closed months are billed; "
        "try again after that.\n"
    )


def test_a_dagster_home_that_is_no_folder_is_named(refuses: Callable[..., str], shop: Any) -> None:
    missing = shop.home / "nowhere"

    assert refuses(*BILL, DAGSTER_HOME=str(missing)) == (
        f"Error: DAGSTER_HOME={missing} is not a folder. Create it with a dagster.yaml in it, or leave "
        "DAGSTER_HOME unset.\n"
    )


@pytest.mark.parametrize("command", [BILL, ("init-db",), ("status",), ("preview", "--month", "2025-03")])
def test_a_server_that_does_not_answer_is_named_without_the_password(
    refuses: Callable[..., str], command: tuple[str, ...]
) -> None:
    url = "postgresql://billing:Vertraulich@127.0.0.1:1/billing"

    said = refuses(*command, DATABASE_URL=url)

    assert said.startswith(
        "Error: The database postgresql://billing:***@127.0.0.1:1/billing (DATABASE_URL) cannot be used: "
    )
    assert "Check that the server runs and that DATABASE_URL has the right host" in said
    assert said.count("\n") == 1


def test_a_file_that_does_not_exist_is_named_and_not_made(refuses: Callable[..., str], shop: Any) -> None:
    missing = shop.home / "missing.db"

    said = refuses(*BILL, DATABASE_URL=f"sqlite:///{missing}")

    assert str(missing) in said
    assert "`spell-billing init-db` makes it" in said
    assert not missing.exists()


def test_the_usage_database_is_a_setting_of_its_own(refuses: Callable[..., str], shop: Any) -> None:
    empty = shop.home / "empty.db"
    empty.touch()

    said = refuses("preview", "--month", "2025-03", USAGE_DATABASE_URL=f"sqlite:///{empty}")

    assert "usage_counters" in said
    assert "USAGE_DATABASE_URL" in said


def test_bad_rows_stop_the_month_with_their_ids(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite")
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))
    shop.execute("INSERT INTO usage_counters VALUES (77, 'user-0001', 1.5, '2025-03-15T12:00:00Z')")

    billed, previewed = shop.run(*BILL), shop.run("preview", "--month", "2025-03")

    named = "1 row of usage_counters cannot be billed: id 77: cost_cents is 1.5, not a whole number of cents."
    assert (billed.returncode, previewed.returncode) == (1, 1)
    assert billed.stderr.splitlines()[-1] == f"Error: no_bad_rows: {named} Nothing was sent to Stripe."
    assert named in previewed.stderr
    assert shop.double.requests == []


def test_a_key_that_stripe_refuses_stops_the_run_with_one_message(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))

    refused = shop.run(*BILL, STRIPE_API_KEY="sk_live_Vertraulich")
    mended = shop.run(*BILL)

    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("Error: Stripe refuses the account: ")
    assert last.endswith("Check STRIPE_API_KEY, its permissions and the account, then bill the month again.")
    assert (mended.returncode, [each.total_cents for each in shop.double.invoices()]) == (0, [100])


def test_a_stripe_that_does_not_answer_stops_the_run_with_one_message(refuses: Callable[..., str]) -> None:
    said = refuses(*BILL, STRIPE_API_BASE="http://127.0.0.1:1").splitlines()[-1]

    assert said.startswith("Error: Stripe cannot be asked what stands for 2025-03: ")
    assert "STRIPE_API_BASE" in said


def test_each_check_that_fails_is_named_on_a_line_of_its_own(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite")
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))
    assert shop.run(*BILL).returncode == 0
    path = shop.home / "usage" / "2025-03" / "v0001" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["bad_rows"]["count"] = 1
    manifest["control"]["calls"] = 7
    path.write_text(json.dumps(manifest), encoding="utf-8")

    refused = shop.run(*BILL)

    errors = [line for line in refused.stderr.splitlines() if line.startswith("Error: ")]
    assert refused.returncode == 1
    assert sorted(line.split(": ")[1] for line in errors) == ["frozen_equals_source", "no_bad_rows"]
    assert all(line.endswith(" Nothing was sent to Stripe.") for line in errors)


@pytest.mark.parametrize("content", ["{", None], ids=["damaged", "lost"])
def test_a_manifest_of_a_billed_month_is_to_be_restored_and_the_month_not_frozen_again(
    make_shop: Callable[..., Any], content: str | None
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))
    assert shop.run(*BILL).returncode == 0
    path = shop.home / "usage" / "2025-03" / "v0001" / "manifest.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")

    refused = shop.run("explain", "--month", "2025-03", "--user", "user-0001")

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: {path} is ")
    remedy = "Restore the file from a backup; do not freeze the month again if it was billed."
    assert refused.stderr.rstrip().endswith(remedy)


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/below", "/proc/1/fd/0"])
def test_a_place_that_cannot_be_written_is_named_with_its_setting(
    refuses: Callable[..., str], place: str
) -> None:
    store = refuses(*BILL, SPELL_BILLING_USAGE_STORE=place).splitlines()[-1]
    home = refuses(*BILL, SPELL_BILLING_HOME=place).splitlines()
    ledger = refuses(*BILL, DATABASE_URL=f"sqlite:///{place}").splitlines()
    new_ledger = refuses("init-db", DATABASE_URL=f"sqlite:///{place}").splitlines()

    assert store.startswith(f"Error: {place}/2025-03 cannot be used: ")
    assert "Set SPELL_BILLING_USAGE_STORE (by default in SPELL_BILLING_HOME) to a folder" in store
    assert "SPELL_BILLING_USAGE_STORE" in refuses("store-test", SPELL_BILLING_USAGE_STORE=place)
    assert len(home) == len(ledger) == len(new_ledger) == 1
    assert home[0].startswith(f"Error: {place}/dagster cannot be used: ")
    assert "Set SPELL_BILLING_HOME to a folder" in home[0]
    for said in (*ledger, *new_ledger):
        assert f"sqlite:///{place} (DATABASE_URL) cannot be used: " in said


def test_a_dagster_storage_that_does_not_answer_is_named_without_the_password(
    refuses: Callable[..., str], shop: Any
) -> None:
    home = shop.home / "production"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        "storage:\n  custom:\n    module: spell_billing.orchestration.storage\n    class: PostgresStorage\n"
        "    config: {postgres_url: {env: DAGSTER_POSTGRES_URL}}\n",
        encoding="utf-8",
    )
    url = "postgresql://dagster:Vertraulich@127.0.0.1:1/dagster"

    said = refuses(*BILL, DAGSTER_HOME=str(home), DAGSTER_POSTGRES_URL=url).splitlines()[-1]

    assert said.startswith("Error: Dagster's instance cannot be opened: ")
    assert "DAGSTER_POSTGRES_URL" in said


def test_a_wrong_password_is_not_repeated(refuses: Callable[..., str], postgres_server: str) -> None:
    url = sa.make_url(postgres_server).set(database="no_such_database", password="Vertraulich")

    said = refuses("status", DATABASE_URL=url.render_as_string(hide_password=False))

    assert "no_such_database" in said
    assert said.startswith("Error: The database postgresql://")
