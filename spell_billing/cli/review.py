"""A month in review, in words: what was found, and what a person does about it."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from spell_billing.core.month import Month
    from spell_billing.ledger.ledger import Ledger


def write_review_of(ledger: "Ledger", month: "Month") -> bool:
    """Write what keeps the month from being sent; tell whether anything does."""
    from spell_billing.invoicing.review_month import approve_command  # noqa: PLC0415 - heavy: pyarrow
    from spell_billing.ledger.reviews import read_review  # noqa: PLC0415

    if not ledger.standing(month).in_review:
        return False
    with ledger.reading() as connection:
        review = read_review(connection, month)
    click.echo(f"{month} is in review: nothing was sent to Stripe.")
    for finding in review.findings if review else ():
        click.echo(f"  - {finding['text']}")
    click.echo(f"Compare: spell-billing preview --month {month} --against {month.previous()}")
    click.echo(f"If it is right: {approve_command(month)}")
    click.echo(f"Then, or when it is corrected: spell-billing bill --month {month}")
    return True
