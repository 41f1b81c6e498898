"""The server and what starts a month from elsewhere, by the commands of the pages."""

import json
from collections.abc import Iterator

import pytest

from spell_billing_tests.command_line.documented.shell import Shell
from spell_billing_tests.environments.servers import required_program
from spell_billing_tests.triggering.served import free_port

USERS = ["user-16", "user-17"]
SECRET = "a-secret-of-anna-0123456789"


@pytest.fixture
def served(shell: Shell) -> Iterator[Shell]:
    """Serve a shop that billed one month, beside the daemon, at an address of its own."""
    required_program("openssl", "no openssl is installed here")
    shop = shell.shop
    shop.accounts(*USERS)
    shop.calls("2024-09", *((user, 10_000) for user in USERS))
    assert shop.run("bill", "--month", "2024-09").returncode == 0
    shop.calls("2024-10", *((user, 60_000) for user in USERS))
    shell.environment["DAGSTER_HOME"] = str(shell.folder / "dagster")
    address = f"127.0.0.1:{free_port()}"
    shell.here |= {"127.0.0.1:3000": address, "https://billing.example.com": f"http://{address}"}

    shell.run("export POSTGRES_PASSWORD=$(openssl rand -hex 16) ADMIN_SECRET=$(openssl rand -hex 32)")
    shell.run("export ADMIN_SECRET=$(openssl rand -hex 32)")
    shell.run("export SPELL_BILLING_PUBLIC_URL=https://billing.example.com")
    line = shell.run("spell-billing hash-secret --name anna --role approve", stdin=f"{SECRET}\n").strip()
    lines = {r"anna:\w+:scrypt\.15\.{4}": line, r"otto:\w+:scrypt\.15\.{4}": line.replace("anna:", "otto:")}
    shell.run('export ADMIN_SECRETS="anna:approve:scrypt.15.... otto:operate:scrypt.15...."', lines)
    port = address.partition(":")[2]
    with (
        shell.start("dagster-daemon run -w workspace.yaml"),
        shell.start("spell-billing serve", {"$": " --port 0"}) as alone,
        shell.start("spell-billing serve --host 127.0.0.1 --port 3000", {"3000": port}, until="Listening at"),
    ):
        alone.until("Listening at")
        yield shell


def test_a_month_is_started_from_elsewhere_decided_on_and_followed(served: Shell) -> None:
    shell, anna = served, f"anna:{SECRET}"
    shell.run("export ADMIN_SECRET=... API_URL=https://billing.example.com", {r"\.\.\.": anna})

    started = shell.run("spell-billing trigger --url http://127.0.0.1:3000 --month 2026-10 --wait", ends=3)
    assert "in review" in started
    month = json.loads(
        shell.run('curl -H "X-Admin-Secret: $ADMIN_SECRET" $API_URL/admin/billing/months/2026-10')
    )
    shell.run(
        'curl -H "X-Admin-Secret: $ADMIN_SECRET" '
        '-d \'{"drafts_hash": "...", "reason": "agreed with finance"}\' '
        "$API_URL/admin/billing/months/2026-10/approve",
        {r"\.\.\.": month["review"]["drafts_hash"]},
    )
    shell.run(
        'curl -H "X-Admin-Secret: $ADMIN_SECRET" '
        '-d \'{"user_id": "user-17", "reason": "asked to wait"}\' '
        "$API_URL/admin/billing/months/2026-10/hold"
    )
    assert "held" in shell.run("spell-billing trigger --month 2026-10 --wait", ends=3)
    shell.run(
        'curl -H "X-Admin-Secret: $ADMIN_SECRET" '
        '-d \'{"user_id": "user-17", "as": "billed-by-hand", "reason": "invoice 17"}\' '
        "$API_URL/admin/billing/months/2026-10/settle"
    )
    link = shell.run(
        'curl -X POST -H "X-Admin-Secret: $ADMIN_SECRET" "$API_URL/v1/users/ID/link"', {"ID": "user-17"}
    )
    assert "/u/" in link
    assert len(shell.shop.double.invoices()) == 3
    shell.run("scripts/run_monthly_billing.sh 2026-10")
    shell.run(
        "spell-billing trigger --backfill 2026-01..2026-06 --wait",
        {"2026-01": "2024-09", "2026-06": "2024-10"},
    )
    shell.run(
        "spell-billing trigger --url https://billing.example.com --backfill 2026-08..2026-10 --wait",
        {"2026-08": "2024-09"},
    )
    changes = json.loads(
        shell.run('curl -H "X-Admin-Secret: $ADMIN_SECRET" "$API_URL/v1/changes?after=0&limit=1000"')
    )
    assert len(changes["changes"]) >= 3
    (shell.folder / "secret-header.txt").write_text(f"X-Admin-Secret: {anna}\n")
    said = shell.run('curl -X POST -H @secret-header.txt "$API_URL/admin/billing/process-monthly"')
    assert "run_id" in said
