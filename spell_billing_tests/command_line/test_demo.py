"""The demo, on a machine that knows nothing: billed for real, and nothing twice."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Run the demo twice in an empty folder, with settings around that must not matter."""
    place = tmp_path_factory.mktemp("demo")
    (place / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/untouched",
        "STRIPE_API_KEY": "sk_live_untouched",
        "DAGSTER_HOME": str(place / "untouched"),
        "SPELL_BILLING_FIRST_MONTH": "2099-01",
    }

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "spell_billing.demo"],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    first, second = run(), run()
    assert list((place / "home").iterdir()) == []
    assert [path.name for path in Path(place).iterdir() if path.name != "home"] == [".demo"]
    return first, second


def invoices(text: str) -> re.Match[str]:
    found = re.search(r"Our stand-in for Stripe holds (\d+) finalized invoices, (\S+) in all\.", text)
    assert found is not None, text
    return found


def test_the_demo_tells_a_finance_person_what_was_billed(shown: tuple[str, str]) -> None:
    text = " ".join(shown[0].split())

    assert re.search(r"Made up a platform: 300 users, [\d,]+ API calls in 4 closed months", text)
    assert re.search(r"\d+ users with usage made [\d,]+ calls, worth \$[\d,.]+\.", text)
    assert re.search(r"Invoiced \d+ \$[\d,.]+", text)
    assert "no_billing_account: The user has no row in billing_accounts." in text
    assert "no_stripe_customer: The billing account has no stripe_customer_id." in text
    assert "unknown_customer: Stripe does not know this customer." in text
    assert "Where to look next:" in text
    assert int(invoices(shown[0])[1]) > 100


def test_the_summary_and_the_stand_in_for_stripe_agree(shown: tuple[str, str]) -> None:
    invoiced = re.search(r"Invoiced +(\d+) +(\S+)", shown[0])
    assert invoiced is not None

    assert invoiced.groups() == invoices(shown[0]).groups()


def test_the_demo_again_bills_nothing_twice_and_says_so(shown: tuple[str, str]) -> None:
    first, second = shown
    count = invoices(first)[1]

    assert "Using the demo's database of before" in second
    assert f"No new invoice: the {count} invoices of earlier runs stand, nobody was billed twice." in second
    assert invoices(second).groups() == invoices(first).groups()
