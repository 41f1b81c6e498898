"""Places and programs around billing, by the commands of the pages: bucket, lake, alerts, stand-in, `dg`."""

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime

from spell_billing.settings.notifications import NotificationSettings
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.bucket_server import bucket_server
from spell_billing_tests.command_line.documented.pages import ROOT
from spell_billing_tests.command_line.documented.shell import Shell
from spell_billing_tests.environments.servers import required_program
from spell_billing_tests.source_tables import SourceTables


def test_a_bucket_is_tried_and_takes_what_was_frozen_in_a_folder(shell: Shell) -> None:
    shell.shop.accounts("ada")
    shell.shop.calls("2024-10", ("ada", 500))
    assert shell.shop.run("bill", "--month", "2024-10").returncode == 0
    (frozen,) = shell.shop.home.rglob("2024-10/v0001")
    folder = str(frozen.parents[1])

    with bucket_server() as bucket:
        shell.environment |= bucket.settings
        shell.run("export SPELL_BILLING_USAGE_STORE=s3://acme-billing/usage", {"acme-billing": "usage"})
        shell.run("spell-billing store-test")
        shell.run(
            "spell-billing copy-usage ~/.local/share/spell-billing/usage",
            {re.escape("~/.local/share/spell-billing/usage"): folder},
        )
        assert bucket.keys("usage/2024-10/v0001/")
        shell.run("spell-billing reconcile --month 2026-10")


def test_usage_is_read_from_a_lake(
    shell: Shell, lake_url: str, make_source_tables: Callable[..., SourceTables]
) -> None:
    make_source_tables(lake_url).calls([("ada", 500, datetime(2024, 10, 9, tzinfo=UTC))])
    shell.run("export USAGE_DATABASE_URL=duckdb:///srv/lake", {"duckdb:///srv/lake": lake_url})

    assert "ada" in shell.run("spell-billing preview --month 2026-10")


def test_channels_of_alerts_are_tried(shell: Shell) -> None:
    with WebReceiver().running() as one, WebReceiver().running() as two:
        shell.run(
            'export ALERT_URLS="slack://TokenA/TokenB/TokenC/#billing '
            'mailtos://user:password@example.com?to=oncall@example.com"',
            {r"slack://[^ ]+": one.url(), r"mailtos://[^ \"]+": two.url()},
        )
        shell.run("spell-billing alert-test")
        assert len(one.titles) == len(two.titles) == 1
        two.status = 500
        shell.run("spell-billing alert-test", ends=1)


def test_events_are_switched_on(shell: Shell) -> None:
    required_program("openssl", "no openssl is installed here")
    shell.run("export EVENT_URLS=https://platform.example.com/billing-events")
    shell.run("export EVENT_SECRET=$(openssl rand -hex 32)")
    assert re.fullmatch(r"[0-9a-f]{64}\n", shell.run("openssl rand -hex 32"))

    settings = NotificationSettings(shell.environment)
    assert len(settings.event_urls) == 1
    assert len(settings.event_secret.get_secret_value()) == 64


def test_a_customer_is_made_at_the_stand_in(shell: Shell) -> None:
    with shell.start("spell-billing stripe-double", {"$": " --port 0"}, until="STRIPE_API_KEY") as running:
        (address,) = re.findall(r"STRIPE_API_BASE=(\S+)", running.output)
        made = shell.run(
            'curl -H "Authorization: Bearer sk_test_demo" -d email=ada@example.com '
            "http://127.0.0.1:12111/v1/customers",
            {"http://127.0.0.1:12111": address},
        )
    assert re.search(r'"id": ?"cus_\w+"', made)


def test_the_demos_database_is_one_file(shell: Shell) -> None:
    required_program("sqlite3", "no sqlite3 is installed here")
    (shell.folder / ".demo").mkdir()
    shutil.copy(shell.folder / "shop.db", shell.folder / ".demo" / "billing.db")

    (shell.folder / ".demo" / "spell-billing").touch(mode=0o755)

    shell.run("export PATH=$PWD/.demo:$PATH")

    assert shutil.which("spell-billing", path=shell.environment["PATH"]) == str(
        shell.folder / ".demo" / "spell-billing"
    )
    assert "ledger_invoices" in shell.run("sqlite3 .demo/billing.db", stdin=".tables\n")


def test_the_tool_of_dagster_lists_definitions_and_settings(shell: Shell) -> None:
    (shell.folder / ".env").symlink_to(ROOT / ".env.example")
    assert "monthly_billing" in shell.run("DAGSTER_HOME=$(mktemp -d) .venv/bin/dg list defs")
    assert "STRIPE_API_KEY" in shell.run(".venv/bin/dg list envs")
