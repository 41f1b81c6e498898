"""An erasure that is interrupted, and what becomes of the texts and columns that name a user."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.erasure import Erasure
from spell_billing.invoicing import erase_user
from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger import erasing as ledger_erasing
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.erasing import TEXTS
from spell_billing.ledger.schema import invoices
from spell_billing.usage import erasing as store_erasing
from spell_billing_tests.proof.leavers import ANN, erase, everything_stored, leave, two_months
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform


class Killed(BaseException):
    """Ends a step where a signal would."""


def test_an_erasure_that_was_interrupted_anywhere_is_completed_by_the_next(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time one step further; `test_cli_erase` does the same with processes that are killed."""
    two_months(platform)
    leave(platform)
    steps: Iterator[int] = iter(())
    interrupted: list[str] = []

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            if next(steps, None) is None:
                interrupted.append(name)
                raise Killed
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, step)

    for owner, names in (
        (erase_user, ("begin_erasure", "erase_in_ledger")),
        (ledger_erasing, ("_rewrite", "drafts_hash", "move_cursor")),
        (store_erasing, ("write_manifest", "aggregate", "finished_file", "sync")),
        (Gateway, ("send",)),
    ):
        for name in names:
            counted(owner, name)
    pseudonym = ""
    while not pseudonym:
        steps = iter(range(len(interrupted)))
        try:
            pseudonym = erase(platform)
        except Killed:
            continue
    steps = iter(range(1_000))

    assert set(interrupted) >= {"send", "finished_file", "write_manifest", "aggregate", "_rewrite"}
    assert ANN not in everything_stored(platform)
    assert platform.bill_of(MARCH, pseudonym).total_cents == 1234
    for month in (MARCH, APRIL):
        platform.bill(month, verify=True)
        platform.must_agree(month)
    assert len(platform.standing()) == 4


def test_every_column_of_text_was_looked_at() -> None:
    """A new column of free text belongs into `TEXTS`, or into this list of those that name no user."""
    name_nobody = {
        *(
            "state",
            "dispute",
            "currency",
            "plan_id",
            "description",
            "lines",
            "lines_hash",
            "rating",
            "month",
            "run_id",
        ),
        *("stripe_customer_id", "stripe_invoice_id", "stripe_request_id", "actor", "action", "from_state"),
        *(
            "to_state",
            "status",
            "decline_code",
            "hosted_invoice_url",
            "invoice_pdf",
            "way",
            "event_id",
            "type",
        ),
        *("outcome", "name", "key", "channel", "kind", "template", "result", "requests", "drafts_hash"),
        *(
            "grant_id",
            "content_hash",
            "mode",
            "account_id",
            "usage_version",
            "terms",
            "charge_id",
            "credit_note_id",
        ),
    }
    codes = {invoices.c.reason}
    ids = {"user_id", "from_user", "to_user"}
    for table in metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, sa.String) and column.name not in ids and column not in codes:
                assert column.name in TEXTS.get(table.name, ()) or column.name in name_nobody, column


PSEUDONYM = "erased-0123456789ab"


@pytest.mark.parametrize(
    ("user", "text", "renamed"),
    [
        ("u-1", "user u-1, u-12 and x-u-1: u-1.", "user {}, u-12 and x-u-1: {}."),
        ("u-1", "u-1 -> u-2: merged u-1", "{} -> u-2: merged {}"),
        ("12", "12 users, 12 calls of user 12: 12 cents", "12 users, 12 calls of user {}: 12 cents"),
        ("12", "Users: 11, 12, 13", "Users: 11, {}, 13"),
        ("12", "12 -> 13: ticket 12", "{} -> 13: ticket 12"),
        ("12", "spell:2025-03:12:g1", "spell:2025-03:{}:g1"),
        ("a b", "--from 'a b' --to c", "--from {} --to c"),
        ("ann@x.org", "ann@x.org and ann@x.org.uk", "{} and ann@x.org.uk"),
    ],
)  # fmt: skip
def test_in_a_text_the_id_goes_and_the_rest_stays(user: str, text: str, renamed: str) -> None:
    assert Erasure(user, PSEUDONYM).in_text(text) == renamed.format(*[PSEUDONYM] * 3)


@given(st.text(min_size=1))
def test_any_id_is_replaced_where_a_text_names_it(user: str) -> None:
    named = Erasure(user, PSEUDONYM).in_json({"user": user, "text": f"user {user} is held", "cents": 5})
    assert named == {"user": PSEUDONYM, "text": f"user {PSEUDONYM} is held", "cents": 5}
