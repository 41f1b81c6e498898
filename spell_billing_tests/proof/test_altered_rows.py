"""Rows of the ledger and frozen files that somebody altered by hand: reconciliation names the user."""

import hashlib
import json
from collections.abc import Callable

import duckdb
import pytest

from spell_billing.core.errors import IntegrityError
from spell_billing.core.lines import Line, dump_lines, lines_hash
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

PAYS, CREDIT, BY_HAND = "user-0001", "user-0002", "user-0003"


@pytest.fixture
def past(light_platform: SmallPlatform) -> SmallPlatform:
    """Bill March: one user is sent an invoice, one is left a credit, and one is billed by hand."""
    return _past(light_platform)


@pytest.fixture
def past_on_each(platform: SmallPlatform) -> SmallPlatform:
    """Give the same on each database."""
    return _past(platform)


def _past(platform: SmallPlatform) -> SmallPlatform:
    platform.accounts(PAYS, CREDIT)
    platform.calls(MARCH, (PAYS, 860), (CREDIT, -200), (BY_HAND, 250))
    platform.bill(MARCH)
    platform.settle(MARCH, BY_HAND, "billed-by-hand")
    platform.must_agree(MARCH)
    return platform


def told(platform: SmallPlatform) -> dict[tuple[str, str], tuple[str, str]]:
    return {
        (each.user_id, each.kind): (each.expected, each.found) for each in platform.reconcile(MARCH).findings
    }


def update(platform: SmallPlatform, user: str, sets: str) -> None:
    platform.sql(f"UPDATE ledger_invoices SET {sets} WHERE user_id = '{user}'")


def decide(platform: SmallPlatform, kind: str, content: str, user: str = PAYS) -> None:
    platform.sql(
        "INSERT INTO ledger_decisions (at, actor, month, user_id, kind, content_hash, reason) "
        f"VALUES ('2025-05-01 00:00:00', 'x', '2025-03', '{user}', '{kind}', '{content}', 'x')"
    )


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("user", "sets", "kind", "sides"),
    [
        (
            PAYS,
            "state = 'skipped', reason = 'no_charge'",
            "stands_at_stripe",
            ("skipped", "open invoice of 860"),
        ),
        (
            PAYS,
            "state = 'uncollectible'",
            "content_altered",
            ("finalized, by the audit trail", "uncollectible"),
        ),
        (
            BY_HAND,
            "state = 'skipped', reason = 'no_charge'",
            "lines_do_not_add_up",
            ("nothing charged, skipped", "total 250"),
        ),
        (
            BY_HAND,
            "reason = 'written_off'",
            "content_altered",
            ("billed_by_hand, by the audit trail", "written_off"),
        ),
        (
            CREDIT,
            "state = 'settled', reason = 'billed_by_hand'",
            "content_altered",
            ("a draft, by the audit trail", "settled"),
        ),
    ],
)
def test_a_state_that_nobody_brought_a_bill_to_is_named(
    past_on_each: SmallPlatform, user: str, sets: str, kind: str, sides: tuple[str, str]
) -> None:
    update(past_on_each, user, sets)
    assert told(past_on_each)[user, kind] == sides


def test_a_void_for_good_that_was_to_be_billed_again_is_named(past: SmallPlatform) -> None:
    past.void(MARCH, PAYS)
    update(past, PAYS, "reason = 'written_off'")
    assert told(past) == {(PAYS, "content_altered"): ("voided, by the audit trail", "written_off")}


def test_an_invoice_that_two_bills_name_is_counted_twice_and_named(past: SmallPlatform) -> None:
    invoice_id = past.bill_of(MARCH, PAYS).stripe_invoice_id
    update(past, CREDIT, f"state = 'uncollectible', stripe_invoice_id = '{invoice_id}', total_cents = -200")
    result = past.reconcile(MARCH)
    assert (result.ledger_invoices, result.stripe_invoices) == (2, 1)
    assert CREDIT in {each.user_id for each in result.findings}


def test_a_bill_that_charges_without_an_invoice_is_named_with_its_amount(past: SmallPlatform) -> None:
    update(past, BY_HAND, "state = 'paid', reason = NULL")
    assert told(past)[BY_HAND, "amount_differs"] == ("invoice of 250 usd", "no invoice")


def made_up(platform: SmallPlatform, kind: str, usage_month: str) -> None:
    """Add a line to the credit, in its sums and its fingerprint, so that the bill agrees with itself."""
    bill = platform.bill_of(MARCH, CREDIT)
    lines = [*bill.parsed_lines, Line(kind, "x", -100, usage_month)]
    columns = {
        "total_cents": -300,
        "carried_cents": 300,
        "late_cents": -100 if kind == "adjustment" else 0,
        "late_lines": 0 if kind == "gift" else 1,
    }
    fingerprint = lines_hash(str(bill.stripe_customer_id), "usd", bill.description, lines)
    sets = ", ".join(f"{name} = {cents}" for name, cents in columns.items())
    update(platform, CREDIT, f"lines = '{dump_lines(lines)}', lines_hash = '{fingerprint}', {sets}")


@pytest.mark.parametrize(
    ("kind", "usage_month", "named", "sides"),
    [
        ("adjustment", "2025-03", "late_usage_differs", ("-$2.00 charged for 2025-03 in all", "-$3.00")),
        ("adjustment", "2025-02", "late_usage_differs", ("$0.00 charged for 2025-02 in all", "-$1.00")),
        (
            "changed_at_stripe",
            "2025-03",
            "lines_do_not_add_up",
            ("nothing changed at Stripe, by the audit trail", "-$1.00 changed"),
        ),
        ("gift", "2025-03", "lines_do_not_add_up", ("a kind of line that bills have", "gift")),
    ],
)
def test_a_credit_without_a_basis_is_named(
    past: SmallPlatform, kind: str, usage_month: str, named: str, sides: tuple[str, str]
) -> None:
    made_up(past, kind, usage_month)
    assert told(past)[CREDIT, named] == sides


@pytest.mark.both_databases
@pytest.mark.parametrize("content", ["correction:500", "usd:a:b:2025-03:1", ""])
def test_an_answer_that_cannot_be_read_is_named_and_stops_the_next_bill(
    past_on_each: SmallPlatform, content: str
) -> None:
    decide(past_on_each, "given_back_settled", content)
    assert told(past_on_each)[PAYS, "content_altered"] == ("an answer of kind given_back_settled", content)
    past_on_each.calls(APRIL, (PAYS, 100))
    with pytest.raises(IntegrityError, match=f"user {PAYS} for 2025-03 was altered"):
        past_on_each.bill(APRIL)


def test_a_settled_credit_that_cannot_be_read_is_named_and_stops_the_next_bill(past: SmallPlatform) -> None:
    decide(past, "credit_settled", "usd", CREDIT)
    assert told(past)[CREDIT, "content_altered"] == ("an answer of kind credit_settled", "usd")
    past.calls(APRIL, (PAYS, 100))
    with pytest.raises(IntegrityError, match=f"user {CREDIT}'s credit was altered"):
        past.bill(APRIL)


def test_an_answer_that_no_command_wrote_is_named(past: SmallPlatform) -> None:
    decide(past, "given_back_settled", "usd:500:0:2025-03:1")
    found = "given_back_settled usd:500:0:2025-03:1"
    assert told(past)[PAYS, "content_altered"] == ("a decision in the audit trail", found)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("lines", "no json"),
        ("lines", '[{"kind":"usage"}]'),
        ("rating", "no json"),
        ("rating", "[]"),
        ("terms", "no json"),
    ],
)
def test_a_bill_of_which_nothing_can_be_read_names_its_user(
    past: SmallPlatform, column: str, text: str
) -> None:
    update(past, PAYS, f"{column} = '{text}'")
    with pytest.raises(IntegrityError, match=f"The bill of user {PAYS} for 2025-03 was altered"):
        past.reconcile(MARCH)


def test_a_review_of_which_nothing_can_be_read_names_its_month(past: SmallPlatform) -> None:
    past.sql(
        "INSERT INTO ledger_reviews (month, drafts_hash, findings, reviewed_at) "
        "VALUES ('2025-03', 'abc', 'no json', '2025-05-01 00:00:00')"
    )
    with pytest.raises(IntegrityError, match="review of 2025-03 found was altered"):
        past.reconcile(MARCH)


def edit_rows(platform: SmallPlatform, select: str) -> None:
    """Rewrite the frozen rows, and make the manifest agree."""
    frozen = platform.store.latest(MARCH)
    assert frozen is not None
    (path,) = frozen.paths
    query = select.format(f"read_parquet('{path}')")
    duckdb.execute(f"COPY ({query}) TO '{path}.new' (FORMAT parquet)")
    path.with_name(f"{path.name}.new").rename(path)
    manifest = frozen.directory / "manifest.json"
    document = json.loads(manifest.read_text(encoding="utf-8"))
    totals = duckdb.execute(f"SELECT count(*), sum(cost_cents)::VARCHAR FROM '{path}'").fetchone()
    assert totals is not None
    document["files"][0] |= {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "rows": totals[0],
    }
    document["frozen"] = document["control"] = {"calls": totals[0], "cost_cents": totals[1]}
    manifest.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (
            f"SELECT * REPLACE (cost_cents + (user_id = '{PAYS}')::INT AS cost_cents) FROM {{}}",
            {PAYS: ("1 calls, 861 cents in the frozen rows", "1 calls, 860 cents in user_usage.parquet")},
        ),
        (
            f"SELECT * FROM {{}} WHERE user_id <> '{CREDIT}'",
            {CREDIT: ("0 calls, 0 cents in the frozen rows", "1 calls, -200 cents in user_usage.parquet")},
        ),
    ],
)
def test_frozen_rows_that_were_altered_with_their_manifest_are_named(
    past: SmallPlatform, select: str, expected: dict[str, tuple[str, str]]
) -> None:
    edit_rows(past, select)
    found = {user: sides for (user, kind), sides in told(past).items() if kind == "usage_differs"}
    assert found.pop("every user")
    assert found == expected


@pytest.mark.both_databases
@pytest.mark.parametrize("sets", ["calls = calls + 1", "usage_cents = 911", "users = users + 1"])
def test_a_month_whose_own_row_was_altered_is_named(past_on_each: SmallPlatform, sets: str) -> None:
    value = sets.replace("911", "'911'" if "sqlite" in past_on_each.url else "911")
    past_on_each.sql(f"UPDATE ledger_months SET {value}")
    assert list(told(past_on_each)) == [("every user", "usage_differs")]


def credited(platform: SmallPlatform) -> None:
    platform.sql(
        "INSERT INTO ledger_payments (stripe_invoice_id, month, user_id, generation, status, attempts, "
        "failed_attempts, amount_due_cents, amount_paid_cents, as_of, way, credited_cents) "
        "SELECT stripe_invoice_id, month, user_id, 1, 'open', 1, 0, 860, 0, updated_at, 'sweep', 100 "
        f"FROM ledger_invoices WHERE user_id = '{PAYS}'"
    )


def noted(platform: SmallPlatform) -> None:
    platform.sql(
        "INSERT INTO ledger_credit_notes (bill_id, number, stripe_invoice_id, cents, kind, reason, attempt, "
        "asked_at, outcome, credit_note_id) SELECT id, 1, stripe_invoice_id, 100, 'refund', 'x', 1, "
        f"updated_at, 'issued', 'cn_x' FROM ledger_invoices WHERE user_id = '{PAYS}'"
    )


@pytest.mark.both_databases
@pytest.mark.parametrize("make_up", [credited, noted])
def test_a_credit_note_that_stripe_does_not_know_is_named(
    past_on_each: SmallPlatform, make_up: Callable[[SmallPlatform], None]
) -> None:
    make_up(past_on_each)
    expected, found = told(past_on_each)[PAYS, "money_differs"]
    assert (expected.partition(" ")[0], found) == ("$1.00", "$0.00")


def test_a_credit_note_of_ours_is_no_difference(past: SmallPlatform) -> None:
    past.credit(MARCH, PAYS, 100)
    past.must_agree(MARCH)


@pytest.mark.both_databases
def test_a_move_that_no_command_wrote_is_named(past_on_each: SmallPlatform) -> None:
    past_on_each.sql(
        "INSERT INTO ledger_moves (at, actor, from_user, to_user, reason) "
        f"VALUES ('2025-05-01 00:00:00', 'x', '{PAYS}', '{BY_HAND}', 'x')"
    )
    move = ("a move in the audit trail", f"{PAYS} -> {BY_HAND}")
    assert told(past_on_each) == dict.fromkeys(
        [(PAYS, "content_altered"), (BY_HAND, "content_altered")], move
    )


def test_an_approved_month_whose_review_was_deleted_is_named(past: SmallPlatform) -> None:
    past.sql(
        "INSERT INTO ledger_audit (at, actor, run_id, month, action) "
        "VALUES ('2025-05-01 00:00:00', 'x', '', '2025-03', 'approved')"
    )
    assert told(past) == {("every user", "not_approved"): ("the review that was approved", "none")}
