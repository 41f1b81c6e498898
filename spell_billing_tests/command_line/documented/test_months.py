"""Months as they come, by the commands of the pages: billed, read, proven, simulated, reviewed."""

import json

from spell_billing_tests.command_line.conftest import Shop
from spell_billing_tests.command_line.documented.pages import block
from spell_billing_tests.command_line.documented.shell import Shell
from spell_billing_tests.triggering.served import free_port

SEPTEMBER = "2024-09"


def bill(shop: Shop, month: str) -> None:
    done = shop.run("bill", "--month", month)
    assert done.returncode == 0, done.stderr


def test_a_billed_month_is_read_proven_and_exported(shell: Shell) -> None:
    shop, ada = shell.shop, {r"\bID\b": "ada"}
    shop.accounts("ada", "bob")
    shop.calls("2024-10", ("ada", 500), ("bob", 700))
    shell.run("spell-billing --help")
    shell.run("spell-billing COMMAND --help", {"COMMAND": "bill"})
    shell.run("spell-billing bill --month 2026-10")

    assert "2024-10" in shell.run("spell-billing status")
    assert json.loads(shell.run("spell-billing status --json"))
    assert "billed" in shell.run("spell-billing status --month 2026-10")
    assert "bob" in shell.run("spell-billing invoices --month 2026-10")
    assert "ada" in shell.run("spell-billing explain --month 2026-10 --user ID", ada)
    assert "$5.00" in shell.run("spell-billing mail-preview --month 2026-10 --user ID", ada)
    shell.run("spell-billing reconcile --month 2026-10")
    shell.run("spell-billing bill --month 2026-10 --verify")
    shell.run("spell-billing events")
    shell.run("spell-billing prune")
    shell.run("spell-billing prune --yes")
    shell.run("spell-billing export --month 2026-10")
    shell.run("spell-billing export --month 2026-10 --to /mnt/finance", {"/mnt": str(shell.folder)})
    assert (shell.folder / "finance" / "2024-10" / "journal.csv").exists()
    shell.run("python examples/revenue/revenue.py", {"$": " --last 2024-10"})
    with shell.start("spell-billing metrics", {"$": f" --port {free_port()}"}, until="/metrics"):
        pass


def test_readiness_names_who_cannot_pay_in_the_present_month(shell: Shell) -> None:
    shell.shop.execute(
        "INSERT INTO usage_counters VALUES (1, 'eve', 500, strftime('%Y-%m-%d %H:%M:%S+00:00', 'now'))"
    )

    assert "eve" in shell.run("spell-billing readiness", ends=3)


def test_prices_are_simulated(shell: Shell) -> None:
    shop = shell.shop
    plans = {"bob": "starter", "ada": "pro", "dan": "free"}
    shop.accounts(*plans)
    shop.execute("ALTER TABLE billing_accounts ADD COLUMN plan_id TEXT")
    shop.execute(
        "CREATE TABLE billing_plans (plan_id TEXT PRIMARY KEY, included_cents BIGINT, "
        "monthly_fee_cents BIGINT)"
    )
    for user, plan in plans.items():
        shop.execute(f"UPDATE billing_accounts SET plan_id = '{plan}' WHERE user_id = '{user}'")
        shop.execute(f"INSERT INTO billing_plans VALUES ('{plan}', 0, 500)")
    shop.calls(SEPTEMBER, ("bob", 700))
    bill(shop, SEPTEMBER)

    (shell.folder / "new.yaml").write_text(block("docs/tasks.md", "yaml", holding="plans:"))
    told = shell.run(
        "spell-billing simulate --from 2026-08 --to 2026-10 --pricing new.yaml",
        {"2026-(08|10)": SEPTEMBER},
    )
    assert "bob" in told
    (shell.folder / "new.yaml").write_text(block("docs/pricing.md", "yaml", holding="plans:"))
    shell.run(
        "spell-billing simulate --from 2025-03 --to 2025-04 --pricing new.yaml --csv users.csv "
        "--chart months.svg",
        {"2025-0[34]": SEPTEMBER},
    )
    assert "<svg" in (shell.folder / "months.svg").read_text()
    assert "bob" in (shell.folder / "users.csv").read_text()


def test_a_month_in_review_is_looked_at_and_approved(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "bob")
    shop.calls(SEPTEMBER, ("ada", 10_000), ("bob", 10_000))
    bill(shop, SEPTEMBER)
    shop.calls("2024-10", ("ada", 60_000), ("bob", 60_000))

    shell.run("spell-billing bill --month 2026-10", ends=3)
    shell.run("spell-billing preview --month 2026-10 --against 2026-09")
    shell.run('spell-billing approve --month 2026-10 --reason "..."')
    shell.run("spell-billing bill --month 2026-10")

    assert len(shop.double.invoices()) == 4
