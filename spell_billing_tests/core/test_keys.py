"""The names of a bill at Stripe: short enough, distinct for distinct bills, equal for equal rows."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.keys import (
    HASH,
    KEY,
    USER,
    billing_key,
    idempotency_key,
    invoice_metadata,
)

PLAIN_IDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=160)
USER_IDS = PLAIN_IDS | st.text(max_size=2_000) | PLAIN_IDS.map(lambda text: "sha256-" + text)
STEPS = st.sampled_from(["create", "lines", "finalize"])
MONTHS = st.sampled_from(["2026-10", "2026-11"])
BILLS = st.tuples(MONTHS, USER_IDS, st.integers(1, 12), STEPS, st.integers(1, 12))


@given(bill=BILLS)
def test_every_key_fits_into_stripes_255_characters_and_an_http_header(
    bill: tuple[str, str, int, str, int],
) -> None:
    key = idempotency_key(*bill)

    assert len(key) <= 255
    assert key.isascii()
    assert key.isprintable()


@given(one=BILLS, other=BILLS)
def test_different_bills_steps_and_attempts_have_different_keys(
    one: tuple[str, str, int, str, int], other: tuple[str, str, int, str, int]
) -> None:
    assert (idempotency_key(*one) == idempotency_key(*other)) == (one == other)
    assert (billing_key(*one[:3]) == billing_key(*other[:3])) == (one[:3] == other[:3])


@given(user_id=st.text(min_size=151) | st.just("é"))
def test_an_id_that_looks_like_the_hash_of_another_id_has_a_key_of_its_own(user_id: str) -> None:
    disguised = "sha256-" + sha256(user_id.encode()).hexdigest()

    assert billing_key("2026-10", user_id, 1) != billing_key("2026-10", disguised, 1)


@pytest.mark.parametrize("user_id", ["a:g1", "a:g1:create", "a:a2", "a", "a:g1:create:a2", ""])
def test_an_id_that_looks_like_a_key_has_a_key_of_its_own(user_id: str) -> None:
    keys = {idempotency_key("2026-10", "a", 1, step, attempt) for step in ("create",) for attempt in (1, 2)}

    assert user_id == "a" or idempotency_key("2026-10", user_id, 1, "create", 1) not in keys


def test_the_first_attempt_has_no_suffix_and_a_common_id_appears_as_it_is() -> None:
    assert idempotency_key("2026-10", "user-0001", 1, "create", 1) == "spell:2026-10:user-0001:g1:create"
    assert idempotency_key("2026-10", "user-0001", 2, "lines", 3) == "spell:2026-10:user-0001:g2:lines:a3"


@given(user_id=USER_IDS, generation=st.integers(1, 10**6), calls=st.integers(-(10**15), 10**15), month=MONTHS)
def test_metadata_keeps_within_stripes_limits_and_carries_the_billing_key(
    user_id: str, generation: int, calls: int, month: str
) -> None:
    metadata = invoice_metadata(month, user_id, generation, "0" * 64, calls)

    assert len(metadata) <= 50
    assert all(len(name) <= 40 and "[" not in name for name in metadata)
    assert all(len(value) <= 500 for value in metadata.values())
    assert metadata[KEY] == billing_key(month, user_id, generation)
    assert metadata[HASH] == "0" * 64
    assert metadata[USER] == user_id[:500]


@given(bill=BILLS)
def test_equal_rows_give_equal_bytes(bill: tuple[str, str, int, str, int]) -> None:
    month, user_id, generation, _, _ = bill

    assert idempotency_key(*bill).encode() == idempotency_key(*bill).encode()
    assert list(invoice_metadata(month, user_id, generation, "h", 1).items()) == list(
        invoice_metadata(month, user_id, generation, "h", 1).items()
    )
