"""Mail about spend limits: the highest threshold that is reached, once, while its month lasts."""

from pathlib import Path
from typing import Any

import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.ledger.mails import GivenUp
from spell_billing.ledger.thresholds import Reached, note_reached
from spell_billing.mail.letters import Letters
from spell_billing.mail.settings import MailServer

NOVEMBER = Month(2026, 11)


def reach(office: Any, percent: int, *users: str, cents: int = 4_000, currency: str = "usd") -> None:
    reached = {user: Reached(percent, cents, 5_000, currency) for user in users}
    with office.ledger.writing() as connection:
        note_reached(connection, Month.containing(office.now), reached, office.now)


@pytest.mark.both_databases
def test_a_threshold_is_mailed_once_beside_mail_about_invoices(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    office = switched_on
    office.invoice("bert")
    reach(office, 80, "anna")

    done = office.round(mail_server)
    again = office.round(mail_server)

    assert (done.added, done.sent, again.added, again.sent) == (2, 2, 0, 0)
    (mail,) = [each for each in receiver.taken if each["To"] == "anna@example.com"]
    assert mail["Subject"] == "You have used 80% of your spend limit for November 2026"
    text = mail.get_body(("plain",)).get_content()
    assert "has reached 80% of your spend limit" in text
    assert ("So far:  $40.00" in text, "Limit:   $50.00" in text) == (True, True)
    assert "80%" in mail.get_body(("html",)).get_content()


def test_the_whole_limit_is_said_in_other_words_and_takes_the_place_of_what_waits(
    switched_on: Any, mail_server: MailServer, receiver: Any
) -> None:
    office = switched_on
    reach(office, 80, "anna")
    reach(office, 100, "anna", cents=5_000, currency="eur")

    done = office.round(mail_server)

    assert (done.added, done.sent, done.given_up) == (2, 1, {GivenUp.OUTDATED: ["anna"]})
    (mail,) = receiver.taken
    assert mail["Subject"] == "You have reached your spend limit of €50.00 for November 2026"


def test_a_month_that_is_over_and_what_was_before_mail_was_on_is_not_mailed(
    office: Any, mail_server: MailServer, receiver: Any, closed_port: Any
) -> None:
    reach(office, 50, "bert")
    office.later(minutes=1)
    office.round(mail_server)
    reach(office, 80, "anna")
    office.round(closed_port())
    office.later(days=30)

    done = office.round(mail_server)

    assert (done.sent, done.given_up) == (0, {GivenUp.OUTDATED: ["anna"]})
    assert receiver.taken == []


def test_an_own_template_that_cannot_be_filled_in_names_itself(switched_on: Any, tmp_path: Path) -> None:
    (tmp_path / "threshold_reached.txt").write_text("{{ calls }}")
    letters = Letters(tmp_path, switched_on.letters._sender)

    with pytest.raises(SettingsError, match=r"threshold_reached\.txt cannot be filled in"):
        letters.write_reached(Reached(50, 1, 2, "usd"), NOVEMBER)
