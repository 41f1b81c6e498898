"""Why a payment failed, in words that a person understands.

Stripe's documentation, "Decline codes", tells what each means and what the customer can do.
"""

from spell_billing.invoicing.payment_facts import AUTHENTICATION_REQUIRED, NO_PAYMENT_METHOD, NOT_GIVEN

_WORDS = {
    NO_PAYMENT_METHOD: "The customer has no payment method on file.",
    NOT_GIVEN: "Stripe gives no reason.",
    AUTHENTICATION_REQUIRED: "The bank wants the customer to confirm the payment.",
    "card_declined": "The bank declined the card.",
    "card_not_supported": "The card does not support this kind of purchase.",
    "card_velocity_exceeded": "The card is over its limit.",
    "currency_not_supported": "The card does not support the currency.",
    "do_not_honor": "The bank declined the card without a reason.",
    "expired_card": "The card has expired.",
    "fraudulent": "The payment was stopped as possibly fraudulent.",
    "generic_decline": "The bank declined the card without a reason.",
    "incorrect_number": "The card number is wrong.",
    "insufficient_funds": "The card has too little money on it.",
    "invalid_account": "The card, or its account, is not valid.",
    "lost_card": "The card is reported lost.",
    "pickup_card": "The card cannot be used.",
    "processing_error": "An error occurred while the card was charged.",
    "stolen_card": "The card is reported stolen.",
    "transaction_not_allowed": "The bank does not allow the payment.",
    "try_again_later": "The bank declined the card for now.",
}


def reason_in_words(decline_code: str | None, message: str | None) -> str:
    """Return a reason in words, with its code.

    Args:
        decline_code: Stripe's, or one of `payment_facts`; None: Stripe was not asked yet.
        message: Stripe's own words, for a code that has none here.
    """
    if decline_code is None:
        return "not known yet."
    words = _WORDS.get(decline_code) or message or "The payment was declined."
    return words if decline_code == NOT_GIVEN else f"{words} ({decline_code})"
