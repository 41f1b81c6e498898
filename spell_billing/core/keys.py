"""The names a bill has at Stripe: billing key, idempotency keys, metadata.

All of them depend on nothing but the ledger row, so two runs, even on two ledgers, send the same bytes.
"""

import hashlib

KEY = "spell_billing_key"
USER = "spell_user_id"
MONTH = "spell_month"
GENERATION = "spell_generation"
HASH = "spell_lines_hash"
CALLS = "spell_calls"
VOIDED = "spell_voided"
LINE_CENTS = "spell_amount"
"""Of a line from which plans were taken off for the sake of tax or a coupon: what it is in the ledger."""
WITHOUT_COUPON = "spell_without_coupon"

_LONGEST_USER_ID = 150
"""Keeps keys far below Stripe's 255 characters for an idempotency key, suffixes included."""

LONGEST_METADATA = 500
"""Characters of a metadata value at Stripe."""
_HASHED = "sha256-"


def billing_key(month: str, user_id: str, generation: int) -> str:
    """Name the bill of one user, month and generation; a long or unprintable user id appears as its hash."""
    return f"spell:{month}:{_short(user_id)}:g{generation}"


def idempotency_key(month: str, user_id: str, generation: int, step: str, attempt: int) -> str:
    """Return the Idempotency-Key of one request, of which the first attempt (1) does not show.

    Steps are `create`, `lines:{invoice id}`, `finalize:{invoice id}` and others of that form.
    """
    suffix = "" if attempt == 1 else f":a{attempt}"
    return f"{billing_key(month, user_id, generation)}:{step}{suffix}"


def invoice_metadata(
    month: str, user_id: str, generation: int, lines_hash: str, calls: int
) -> dict[str, str]:
    """Return the metadata that lets anyone find and check a bill at Stripe, with or without a ledger."""
    return {
        KEY: billing_key(month, user_id, generation),
        MONTH: month,
        USER: user_id[:LONGEST_METADATA],
        GENERATION: str(generation),
        HASH: lines_hash,
        CALLS: str(calls),
    }


def _short(user_id: str) -> str:
    plain = len(user_id) <= _LONGEST_USER_ID and user_id.isascii() and user_id.isprintable()
    # An id that looks like a hash could be the hash of another id: it is hashed too.
    if plain and not user_id.startswith(_HASHED):
        return user_id
    return _HASHED + hashlib.sha256(user_id.encode()).hexdigest()
