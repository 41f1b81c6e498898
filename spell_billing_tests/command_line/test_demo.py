"""The demo, on a machine that knows nothing: billed for real, nothing twice, and everything served."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from spell_billing_tests.environments.servers import free_port


@dataclass
class Shown:
    first: str
    again: str
    place: Path
    secret: str

    def command(self, arguments: str) -> str:
        done = subprocess.run(
            [".demo/spell-billing", *arguments.split()],
            cwd=self.place,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def page(self, address: str, *, signed_in: bool = False) -> str:
        headers = {"Accept": "text/html"} | ({"X-Admin-Secret": self.secret} if signed_in else {})
        with urlopen(Request(address, headers=headers)) as answer:  # noqa: S310 - our own address
            return str(answer.read(), "utf-8")

    def address(self, after: str) -> str:
        found = re.search(rf"(http://127\.0\.0\.1:\d+{after})", self.again)
        assert found, self.again
        return found[1]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Run `make demo`, then `make dev`, in an empty folder, with settings around that must not matter."""
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
    program = [sys.executable, "-m", "spell_billing.demo", "--users", "67"]
    program += ["--stripe-port", str(free_port())]
    done = subprocess.run(program, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    dev = subprocess.Popen(
        [*program, "--dev", "--port", str(free_port())],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert dev.stdout is not None
        again = ""
        for line in dev.stdout:
            again += line
            if "Ctrl-C" in line:
                break
        yield Shown(done.stdout, again, place, (place / ".demo" / "admin-secret").read_text())
        assert list((place / "home").iterdir()) == []
        assert [path.name for path in place.iterdir() if path.name != "home"] == [".demo"]
    finally:
        # To this process alone, as a supervisor does: it ends what it started, as on Ctrl-C in a terminal.
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(timeout=60) == 0
        listed = subprocess.run(["/bin/ps", "-eo", "pgid=,args="], capture_output=True, text=True, check=True)
        group = [line for line in listed.stdout.splitlines() if line.split()[0] == str(dev.pid)]
        assert [line for line in group if "dagster-daemon" in line or "spell_billing serve" in line] == []
        if dev.stdout is not None:
            dev.stdout.close()


def held_at_stripe(text: str) -> tuple[str, ...]:
    found = re.search(r"Our stand-in for Stripe holds (\d+) finalized invoices, (\S+) in all\.", text)
    assert found is not None, text
    return found.groups()


def test_the_demo_bills_every_closed_month_and_says_so_to_a_finance_person(shown: Shown) -> None:
    text = " ".join(shown.first.split())
    months = re.findall(
        r"^  \w+ \d{4} +(\d+) invoices +\S+: +(\d+) paid, 4 declined; (\d) users", shown.first, re.MULTILINE
    )

    assert re.search(r"Made up a platform: 67 users, [\d,]+ API calls in 4 closed months", text)
    assert len(months) == 4
    assert all(int(invoices) == int(paid) + 4 for invoices, paid, _ in months)
    assert [left for *_, left in months] == ["8", "8", "8", "9"]
    assert held_at_stripe(shown.first)[0] == str(sum(int(invoices) for invoices, *_ in months))
    assert "no_billing_account: The user has no row in billing_accounts." in text
    assert "unknown_customer: Stripe does not know this customer." in text


def test_each_part_of_the_story_is_seen_by_the_command_that_the_summary_names(shown: Shown) -> None:
    seen = {
        user: shown.command(f"explain {arguments}")
        for arguments, user in re.findall(r"\.demo/spell-billing explain (.*--user (\w+))", shown.first)
    }

    assert sorted(seen) == ["ada", "ben", "cleo", "dan", "eva", "finn", "gus"]
    assert len(re.findall(r"(?m)^ +\d+ cents  .*(?:Starter|Team).*", seen["ada"])) >= 2
    assert "priced by a graduated card" in seen["ben"]
    assert re.search(r"-\d+ cents  .*order-1001", seen["cleo"])
    assert re.search(r"150 cents  Late usage", seen["dan"])
    assert "$2.50 refunded" in seen["eva"]
    assert "held_by_person" in seen["finn"]
    assert "asked for a purchase order number first" in seen["finn"]
    assert "payment_failed" in seen["gus"]


def test_the_demo_again_bills_nothing_twice_and_says_so(shown: Shown) -> None:
    count = held_at_stripe(shown.first)[0]

    assert "Using the demo's database of before" in shown.again
    assert (
        f"No new invoice: the {count} invoices of earlier runs stand, nobody was billed twice." in shown.again
    )
    assert held_at_stripe(shown.again) == held_at_stripe(shown.first)


def test_dev_serves_the_pages_it_names_and_dagster_and_finance_only_to_who_signs_in(shown: Shown) -> None:
    overview, dagster = shown.address("/billing"), shown.address("/(?= )")

    assert f"Sign in with: {shown.secret}" in shown.again
    assert "Billing overview" in shown.page(overview, signed_in=True)
    assert "Dagster" in shown.page(dagster, signed_in=True)
    for address in (overview, dagster):
        assert "Admin secret" in shown.page(address), "a browser is led to the sign-in"
    assert "ada" in shown.page(shown.address(r"/u/\S+"))


def test_the_stand_ins_page_shows_what_stripe_holds_and_each_invoice(shown: Shown) -> None:
    stripe = re.findall(r"http://127\.0\.0\.1:\d+/(?= +what the stand-in)", shown.again)[0]
    page = shown.page(f"{stripe}?q=cus_demo_eva")
    invoices = re.findall(r'href="/(i/\w+)"', page)

    assert "What Stripe holds" in page
    assert len(invoices) == 4
    assert "$2.50 refunded" in "".join(shown.page(stripe + each) for each in invoices)
    assert "Nothing is found" in shown.page(f"{stripe}?q=nobody")
    with pytest.raises(HTTPError, match="404"):
        shown.page(f"{stripe}i/in_none")
