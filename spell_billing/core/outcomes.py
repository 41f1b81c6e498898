"""States of a ledger row, and the reasons a user has no invoice, each with its remedy."""

from enum import StrEnum


class State(StrEnum):
    """Where one user's bill of one month stands."""

    PLANNED = "planned"
    HELD = "held"
    SKIPPED = "skipped"
    DRAFTED = "drafted"
    FINALIZED = "finalized"
    PAID = "paid"
    PAYMENT_FAILED = "payment_failed"
    VOID = "void"
    UNCOLLECTIBLE = "uncollectible"
    FAILED = "failed"
    PARKED = "parked"
    SETTLED = "settled"
    """A person dealt with it: billed by hand, or written off."""


CLOSED = frozenset({State.VOID, State.SETTLED, State.UNCOLLECTIBLE})
"""What such a bill is worth may change, or be nothing."""
INVOICED = frozenset({State.FINALIZED, State.PAID, State.PAYMENT_FAILED, State.UNCOLLECTIBLE})
"""A finalized invoice stands at Stripe."""

UNSENT = frozenset({State.PLANNED, State.FAILED, State.HELD, State.SKIPPED})
"""No invoice of this row is known to stand at Stripe."""

TO_DRIVE = frozenset({State.PLANNED, State.DRAFTED})
"""The next run sends these on to Stripe."""

UNDONE = frozenset({State.PLANNED, State.DRAFTED, State.FAILED, State.HELD, State.PARKED})
"""The user has a bill and no invoice, or somebody must look: the month is not billed."""


class Reason(StrEnum):
    """Why a user has no invoice: a code for programs. `REMEDIES` has the words for people."""

    NO_CHARGE = "no_charge"
    CREDIT_CARRIED = "credit_carried"
    SMALL_CARRIED = "small_amount_carried"
    SMALL_FORGIVEN = "small_amount_forgiven"
    NO_BILLING_ACCOUNT = "no_billing_account"
    NO_STRIPE_CUSTOMER = "no_stripe_customer"
    UNKNOWN_CURRENCY = "unknown_currency"
    UNKNOWN_PLAN = "unknown_plan"
    PLAN_CURRENCY = "plan_in_other_currency"
    UNKNOWN_COLLECTION = "unknown_collection"
    INVALID_NET_DAYS = "invalid_net_days"
    TEXT_TOO_LONG = "invoice_text_too_long"
    CURRENCY_CHANGED = "currency_changed"
    AMOUNT_TOO_LARGE = "amount_too_large"
    TOO_MANY_LINES = "too_many_lines"
    UNKNOWN_CUSTOMER = "unknown_customer"
    CUSTOMER_DELETED = "customer_deleted"
    CURRENCY_CONFLICT = "currency_conflict"
    TAX_LOCATION = "customer_tax_location_invalid"
    OFF_STEP = "amount_off_step"
    REJECTED = "rejected_by_stripe"
    LINES_DIFFER = "lines_differ"
    CONFLICTING_REQUEST = "conflicting_request"
    VOIDED_AT_STRIPE = "voided_at_stripe"
    DELETED_AT_STRIPE = "deleted_at_stripe"
    TWO_INVOICES = "two_invoices"
    CHANGED_AT_STRIPE = "changed_at_stripe"
    VOIDED = "voided"
    WRITTEN_OFF = "written_off"
    BILLED_BY_HAND = "billed_by_hand"
    HELD_BY_PERSON = "held_by_person"
    NOT_PLAUSIBLE = "not_plausible"
    ALREADY_GIVEN_BACK = "already_given_back"
    ACCOUNT_CHANGED = "account_changed"


SAID_BY_STRIPE = frozenset(
    {
        Reason.UNKNOWN_CUSTOMER,
        Reason.CUSTOMER_DELETED,
        Reason.CURRENCY_CONFLICT,
        Reason.TAX_LOCATION,
        Reason.OFF_STEP,
        Reason.REJECTED,
        Reason.LINES_DIFFER,
        Reason.CONFLICTING_REQUEST,
    }
)
"""Only another answer of Stripe's tells whether one of these still holds: a bill that is to be tried again
keeps it until then."""


def words(reason: Reason, message: str | None) -> str:
    """Return a reason in words, with what Stripe or the run said about it."""
    return f"{REMEDIES[reason]} ({message})" if message else REMEDIES[reason]


_AGAIN = "then bill the month again."

REMEDIES: dict[Reason, str] = {
    Reason.NO_CHARGE: "Nothing is due for the month.",
    Reason.CREDIT_CARRIED: "Refunds exceed the charges; the credit is carried to the next invoice.",
    Reason.SMALL_CARRIED: (
        "The total is below MINIMUM_INVOICE_CENTS; it is charged with the user's next invoice."
    ),
    Reason.SMALL_FORGIVEN: "The total is below MINIMUM_INVOICE_CENTS, and small amounts are not charged.",
    Reason.NO_BILLING_ACCOUNT: f"The user has no row in billing_accounts. Add one, {_AGAIN}",
    Reason.NO_STRIPE_CUSTOMER: (
        "The billing account has no stripe_customer_id. Create the customer at Stripe, "
        f"store its id, {_AGAIN}"
    ),
    Reason.UNKNOWN_PLAN: (
        f"The billing account's plan_id is not in billing_plans. Correct it, add the plan, or set it to null "
        f"if there is none, {_AGAIN}"
    ),
    Reason.PLAN_CURRENCY: "The account's currency is not that of a plan it was on in the month. Give it "
    f"the plan's currency, {_AGAIN} Between plans of two currencies, bill it by hand, and settle it.",
    Reason.UNKNOWN_CURRENCY: f"The account's currency is not a three-letter code. Correct it, {_AGAIN}",
    Reason.UNKNOWN_COLLECTION: f"The account's collection is not `charge` or `send`. Correct it, {_AGAIN}",
    Reason.INVALID_NET_DAYS: f"The account's net_days is not a number from 0 to 365. Correct it, {_AGAIN}",
    Reason.TEXT_TOO_LONG: (
        "The billing account's po_number has more than 140 characters, or its footer more than 5,000. "
        f"Shorten it, {_AGAIN}"
    ),
    Reason.CURRENCY_CHANGED: (
        "A credit, late usage or a fee of an earlier bill is in another currency than the account now has. "
        "Restore the currency, or give a credit back by hand and record that with "
        f"`spell-billing settle --credit`; {_AGAIN} With late usage or a fee in the other currency, bill the "
        "user by hand, and record that with `spell-billing settle --as billed-by-hand`."
    ),
    Reason.AMOUNT_TOO_LARGE: (
        "The total exceeds Stripe's largest amount in the currency. "
        "Check the usage; bill such a user by hand."
    ),
    Reason.TOO_MANY_LINES: "The invoice would have more than 250 lines. Bill such a user by hand.",
    Reason.UNKNOWN_CUSTOMER: (
        f"Stripe does not know this customer. Correct stripe_customer_id in billing_accounts, {_AGAIN}"
    ),
    Reason.CUSTOMER_DELETED: f"The customer was deleted at Stripe. Store the id of a new one, {_AGAIN}",
    Reason.CURRENCY_CONFLICT: (
        f"Stripe bills this customer in another currency. Correct the currency in billing_accounts, {_AGAIN}"
    ),
    Reason.TAX_LOCATION: f"Stripe cannot place the customer for tax. Complete the address there, {_AGAIN}",
    Reason.OFF_STEP: (
        "With tax, a coupon or the customer's balance, what is due is not an amount that Stripe charges in "
        "this currency (ISK and UGX are whole, three decimals end in 0). Remove the coupon or the balance "
        f"from the customer at Stripe, {_AGAIN} Or bill the user by hand, and record it with "
        "`spell-billing settle --as billed-by-hand`."
    ),
    Reason.REJECTED: f"Stripe refused the request. Correct what it names, {_AGAIN}",
    Reason.LINES_DIFFER: (
        "Stripe's draft did not match the ledger on two attempts, so it was not finalized. "
        f"Look at the customer's drafts and discounts at Stripe, {_AGAIN}"
    ),
    Reason.CONFLICTING_REQUEST: (
        "Another process sent other content for the same bill. Make sure that one ledger bills the account, "
        f"{_AGAIN}"
    ),
    Reason.VOIDED_AT_STRIPE: (
        "The invoice was voided at Stripe by hand. It is not billed again automatically: if it should be, "
        "record it with `spell-billing void`, then bill the month again."
    ),
    Reason.DELETED_AT_STRIPE: (
        "The draft was deleted at Stripe by hand. It is not billed again automatically: if it should be, "
        "record it with `spell-billing void`, then bill the month again."
    ),
    Reason.TWO_INVOICES: (
        "Two finalized invoices carry this bill's key. Void one at Stripe, then reconcile the month."
    ),
    Reason.CHANGED_AT_STRIPE: (
        "The invoice at Stripe is not what the ledger billed. Void it with `spell-billing void`, then bill "
        "the month again; or accept what stands with `spell-billing settle --as billed-by-hand`."
    ),
    Reason.VOIDED: "The invoice was voided with `spell-billing void`; bill the month again for a new one.",
    Reason.WRITTEN_OFF: (
        "Written off with `spell-billing void --for-good` or `spell-billing settle`: nothing is charged."
    ),
    Reason.BILLED_BY_HAND: "Billed by hand, as recorded with `spell-billing settle`.",
    Reason.HELD_BY_PERSON: "Held with `spell-billing hold`. Send it with `spell-billing release`.",
    Reason.NOT_PLAUSIBLE: (
        "The amount is far from what this user usually pays. Check the usage, then send it with "
        "`spell-billing release`, or correct the rows and bill the month again."
    ),
    Reason.ALREADY_GIVEN_BACK: (
        "Money of an earlier invoice was given back already, and this bill would give back more, for rows "
        "that were removed or a plan that ended. If both were meant, `spell-billing release`; if the money "
        f"was given back for these, `spell-billing settle --given-back correction`; {_AGAIN}"
    ),
    Reason.ACCOUNT_CHANGED: (
        "The account's customer or currency changed after the bill was drafted. Bill the month again: that "
        "drafts the bill with the account as it is now."
    ),
}
