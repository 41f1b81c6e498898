"""A line for each item, from the rows to Stripe and back: what counts is what was frozen with the month."""

from dataclasses import replace
from decimal import Decimal

import pytest

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.lines import Line, dump_lines
from spell_billing.core.month import Month
from spell_billing.invoicing.rederive import sum_findings
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.erasing import items_naming
from spell_billing.usage.user_usage import items_in_step
from spell_billing_tests.proof.leavers import ANN, BOB, erase, everything_stored, leave, pay
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

BY_ENDPOINT = SourceRules(items_by="endpoint")


def calls(platform: SmallPlatform, month: Month, *rows: tuple[str, int, str | None]) -> None:
    """Insert calls as (user, cents, endpoint)."""
    for user, cents, endpoint in rows:
        text = "NULL" if endpoint is None else f"'{endpoint}'"
        platform.sql(
            "INSERT INTO usage_counters (user_id, cost_cents, created_at, endpoint) "
            f"VALUES ('{user}', {cents}, '{month}-15 12:00:00+00:00', {text})"
        )


def texts(platform: SmallPlatform, month: Month, user: str) -> list[str]:
    prefix = "Spell Platform API Usage - "
    return [line.description.removeprefix(prefix) for line in platform.bill_of(month, user).parsed_lines]


@pytest.mark.both_databases
def test_each_endpoint_has_its_line_at_stripe_and_all_agree(platform: SmallPlatform) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB)
    calls(platform, MARCH, (ANN, 340, "/v1/chat"), (ANN, 20, " "), (ANN, 1, None), (ANN, -5, "/v1/embed"))
    calls(platform, MARCH, (ANN, 100, " /v1/chat\n"), (BOB, 7, "/v1/chat"))

    platform.bill(MARCH, verify=True)

    assert texts(platform, MARCH, ANN) == [
        "March 2025 - /v1/chat (2 calls, $4.40)",
        "March 2025 - /v1/embed (1 calls, -$0.05)",
        "March 2025 - other (2 calls, $0.21)",
    ]
    (invoice,) = [each for each in platform.standing() if each.customer == f"cus_{ANN}"]
    assert (invoice.description, invoice.total_cents) == (
        "Spell Platform API Usage - March 2025 (5 calls, $4.56)",
        456,
    )
    assert [line.amount_cents for line in invoice.lines] == [440, -5, 21]
    usage = platform.explain(MARCH, ANN)["usage"]
    assert usage["items_by"] == "endpoint"
    assert usage["items"] == [
        {"item": "/v1/chat", "calls": 2, "usage_cents": 440},
        {"item": "other", "calls": 2, "usage_cents": 21},
        {"item": "/v1/embed", "calls": 1, "usage_cents": -5},
    ]
    platform.must_agree(MARCH)

    # An empty ledger takes the invoices up as they are, line by line.
    platform.lose_the_ledger()
    platform.bill(MARCH)
    assert texts(platform, MARCH, ANN)[0] == "March 2025 - /v1/chat (2 calls, $4.40)"
    assert len(platform.standing()) == 2
    platform.must_agree(MARCH)


def test_a_line_that_was_rounded_otherwise_is_found(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN)
    calls(platform, MARCH, (ANN, 300, "/a"), (ANN, 200, "/b"))
    platform.bill(MARCH)
    platform.must_agree(MARCH)

    # Cents that moved from one endpoint to the other, with their rounding.
    platform.sql("UPDATE ledger_invoices SET lines = replace(replace(lines, '/a (', '/c ('), '/b (', '/a (')")
    found = platform.reconcile(MARCH).findings
    assert {(each.expected, each.found) for each in found} >= {
        ("1 calls, 300 cents of item /a", "1 calls, 200 cents of item /a"),
        ("0 calls, 0 cents of item /c", "1 calls, 300 cents of item /c"),
    }
    platform.sql("UPDATE ledger_invoices SET lines = replace(replace(lines, '/a (', '/b ('), '/c (', '/a (')")

    platform.sql(
        "UPDATE ledger_invoices SET lines = replace(replace(lines, ':300,', ':301,'), ':200,', ':199,')"
    )

    assert (ANN, "lines_do_not_add_up") in platform.findings(MARCH)


def test_a_cent_that_went_to_the_line_with_the_smaller_remainder_is_found(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ANN)
    light_platform.calls(MARCH, (ANN, 201))
    light_platform.bill(MARCH)
    exact = {"/a": "100.9", "/b": "100.2"}

    def found(**cents: int) -> list[str]:
        charged = ((f"/{name}", each) for name, each in cents.items())
        lines = dump_lines([Line("usage", item, each, "2025-03", 1, exact[item]) for item, each in charged])
        bill = replace(
            light_platform.bill_of(MARCH, ANN), usage_cents=Decimal("201.1"), total_cents=201, lines=lines
        )
        return [f"{each.expected}: {each.found}" for each in sum_findings(bill)]

    assert found(a=101, b=100) == []
    assert found(a=100, b=101) == [
        "lines rounded by the largest remainder: one by 0.8, another by -0.9 cents"
    ]
    assert found(a=102, b=99) == [
        "100.9 cents of usage: line of 102",
        "100.2 cents of usage: line of 99",
        "lines rounded by the largest remainder: one by 1.1, another by -1.2 cents",
    ]


@pytest.mark.both_databases
def test_what_was_frozen_counts_and_late_usage_is_one_line(platform: SmallPlatform) -> None:
    platform.accounts(ANN)
    calls(platform, MARCH, (ANN, 300, "/a"), (ANN, 200, "/b"), (BOB, 10, "/a"), (BOB, 5, "/b"))
    platform.rules = BY_ENDPOINT
    platform.bill(MARCH)
    assert texts(platform, MARCH, ANN) == [
        "March 2025 - /a (1 calls, $3.00)",
        "March 2025 - /b (1 calls, $2.00)",
    ]

    # Bob gets an account after the setting was taken back: his month stays split as it was frozen.
    platform.rules = SourceRules()
    platform.accounts(BOB)
    calls(platform, MARCH, (BOB, 9, "/c"))
    platform.bill(MARCH)
    assert platform.lines(MARCH, BOB) == [("usage", 10), ("usage", 5), ("late_usage", 9)]

    calls(platform, MARCH, (ANN, 50, "/a"), (ANN, 30, "/b"))
    calls(platform, APRIL, (ANN, 70, "/a"), (ANN, 7, "/b"))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ANN) == [("usage", 77), ("late_usage", 80)]
    frozen = platform.store.latest(APRIL)
    assert frozen is not None
    assert "items_by" not in (frozen.directory / "manifest.json").read_text()
    assert sorted(path.name for path in frozen.directory.glob("user_*")) == [
        "user_usage.parquet",
        "user_usage.sha256",
    ]
    for month in (MARCH, APRIL):
        platform.must_agree(month)


def test_an_erased_user_leaves_the_items_too(platform: SmallPlatform) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(ANN, BOB)
    calls(platform, MARCH, (ANN, 300, "/a"), (ANN, 200, "/b"), (BOB, 1, "/a"))
    platform.bill(MARCH)
    pay(platform, MARCH)
    leave(platform)

    pseudonym = erase(platform)

    assert ANN not in everything_stored(platform)
    assert platform.lines(MARCH, pseudonym) == [("usage", 300), ("usage", 200)]
    assert [each["item"] for each in platform.explain(MARCH, pseudonym)["usage"]["items"]] == ["/a", "/b"]
    platform.must_agree(MARCH)


@pytest.mark.both_databases
@pytest.mark.parametrize("column", ["endpont", "Endpoint"])
def test_a_column_that_is_not_there_is_refused_by_name(platform: SmallPlatform, column: str) -> None:
    platform.rules = replace(BY_ENDPOINT, items_by=column)
    calls(platform, MAY, (ANN, 1, "/a"))

    if platform.url.startswith("sqlite") and column == "Endpoint":
        # SQLite's names have no case.
        platform.draft(MAY)
        return
    with pytest.raises(
        UsageError, match=rf"LINE_ITEMS_BY={column} names no column of usage_counters.*Set it to"
    ):
        platform.draft(MAY)
    assert platform.store.versions(MAY) == []


@pytest.mark.both_databases
def test_many_items_of_any_type_make_ten_lines_and_agree(platform: SmallPlatform) -> None:
    platform.rules = SourceRules(items_by="status")
    platform.sql("ALTER TABLE usage_counters ADD COLUMN status bigint")
    platform.accounts(ANN)
    calls(platform, MARCH, *((ANN, number, None) for number in range(1, 15)))
    platform.sql("UPDATE usage_counters SET status = 200 + id WHERE cost_cents > 1")

    platform.bill(MARCH, verify=True)

    assert platform.lines(MARCH, ANN) == [
        ("usage", cents) for cents in (*range(14, 5, -1), 1 + 2 + 3 + 4 + 5)
    ]
    assert texts(platform, MARCH, ANN)[-2:] == [
        "March 2025 - 206 (1 calls, $0.06)",
        "March 2025 - other (5 calls, $0.15)",
    ]
    platform.must_agree(MARCH)


def test_an_item_that_is_no_text_is_named(light_platform: SmallPlatform) -> None:
    light_platform.rules = BY_ENDPOINT
    calls(light_platform, MARCH, (ANN, 1, "/a"))
    light_platform.sql("UPDATE usage_counters SET endpoint = CAST(x'2fff' AS TEXT)")

    with pytest.raises(UsageError, match=r"The item of the row with id 1 of usage_counters is not text"):
        light_platform.draft(MARCH)


def test_items_that_were_altered_are_not_drafted(light_platform: SmallPlatform) -> None:
    platform = light_platform
    platform.rules = BY_ENDPOINT
    calls(platform, MARCH, (ANN, 300, "/a"))
    platform.draft(MARCH)
    frozen = platform.store.latest(MARCH)
    assert frozen is not None
    path = frozen.directory / "user_items.parquet"
    assert (path.with_suffix(".sha256")).read_text().endswith("  user_items.parquet\n")
    before = path.read_bytes()
    aggregate(frozen)
    assert path.read_bytes() == before

    path.write_bytes(before[:-1])

    with pytest.raises(IntegrityError, match=r"user_items\.parquet is not what was aggregated"):
        items_in_step(frozen)(ANN)


def test_items_that_hold_an_erased_users_id_are_named(light_platform: SmallPlatform) -> None:
    light_platform.rules = BY_ENDPOINT
    light_platform.accounts(ANN, BOB)
    calls(light_platform, MARCH, (BOB, 5, f"/v1/teams/{ANN}/chat"), (ANN, 7, "/v1/chat"))
    light_platform.bill(MARCH)

    assert items_naming(light_platform.store, ANN) == [f"/v1/teams/{ANN}/chat"]
    assert items_naming(light_platform.store, "v1") == [], "it stands in many texts by chance"
