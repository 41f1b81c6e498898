"""Settings of what bills say and how they are collected: tax, coupons, fees, small amounts, dunning."""

from dataclasses import dataclass
from functools import cached_property

from spell_billing.core import terms
from spell_billing.settings.environment import EnvironmentSettings

_LATEST_DUNNING_DAY = 60
_LARGEST_MINIMUM_CENTS = 100_000


@dataclass(frozen=True, repr=False)
class BillSettings(EnvironmentSettings):
    """What bills say and how they are collected."""

    @cached_property
    def automatic_tax(self) -> str:
        """`AUTOMATIC_TAX`: whether Stripe Tax computes tax on top of each invoice: `off`, `on` or `enforced`.

        Where Stripe cannot place the customer, `on` sends the invoice without tax and says so, `enforced`
        fails the user. Frozen with each bill. See [data](data.md#tax).

        Default: `off`.
        """
        return self._choice("AUTOMATIC_TAX", terms.OFF, terms.ON, terms.ENFORCED)

    @cached_property
    def honour_stripe_discounts(self) -> bool:
        """`HONOUR_STRIPE_DISCOUNTS`: whether a customer's coupon at Stripe applies to invoices.

        `true` or `false`. Frozen with each bill. See [data](data.md#coupons).

        Default: `false`.
        """
        return self._choice("HONOUR_STRIPE_DISCOUNTS", "false", "true") == "true"

    @cached_property
    def fees_in_advance(self) -> bool:
        """`FEES_IN_ADVANCE`: whether a bill charges plans' fees for the month that follows its own, too.

        `true` or `false`. What changes afterwards is set right on the next bill, whichever it says then. See
        [pricing](pricing.md#plans-and-their-fees).

        Default: `false`: fees are charged with the month's usage.
        """
        return self._choice("FEES_IN_ADVANCE", "false", "true") == "true"

    @cached_property
    def small_amounts(self) -> str:
        """`SMALL_AMOUNTS`: what becomes of a total below `MINIMUM_INVOICE_CENTS`.

        `stripe`: it is invoiced, and Stripe moves what it cannot charge to the customer's next invoice.
        `carry`: no invoice; the amount is left for the user's next one. `forgive`: no invoice, and nothing is
        charged. Frozen with each bill. See [pricing](pricing.md#small-amounts).

        Default: `stripe`.
        """
        return self._choice("SMALL_AMOUNTS", terms.STRIPE, terms.CARRY, terms.FORGIVE)

    @cached_property
    def minimum_invoice_cents(self) -> int:
        """`MINIMUM_INVOICE_CENTS`: the smallest total that gets an invoice, in minor units of its currency.

        Only with `SMALL_AMOUNTS=carry` or `forgive`. 1 to 100000.

        Default: 50.
        """
        usual, most = terms.USUAL_MINIMUM_CENTS, _LARGEST_MINIMUM_CENTS
        return self._number("MINIMUM_INVOICE_CENTS", usual, of="cents", least=1, most=most)

    @property
    def policy(self) -> terms.Policy:
        """What the settings say of all bills that are drafted."""
        return terms.Policy(
            self.automatic_tax,
            self.honour_stripe_discounts,
            self.fees_in_advance,
            self.small_amounts,
            self.minimum_invoice_cents,
        )

    @cached_property
    def dunning_days(self) -> tuple[int, ...]:
        """`DUNNING_DAYS`: days after finalization on which to ask Stripe to collect an open invoice again.

        As `3,5,7`: 1 to 60, in rising order. Unset: Stripe's own retries serve. See
        [payments](payments.md).

        Default: none.
        """
        return self._rising("DUNNING_DAYS", "", of="days", most=_LATEST_DUNNING_DAY, example="3,5,7")
