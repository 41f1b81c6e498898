"""The first proof of a freeze: what was written is what the database itself counts and sums."""

from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month
from spell_billing.usage.contract import Totals

ROWS_FILE = "rows.parquet"


def require_equal_totals(month: Month, *, frozen: Totals, control: Totals) -> None:
    """Refuse frozen rows whose number or sum is not the database's own.

    Raises:
        IntegrityError: naming both.
    """
    if frozen != control:
        raise IntegrityError(
            f"{month}: {frozen.calls} rows of {frozen.cost_cents:f} cents were read, but the database counts "
            f"{control.calls} rows of {control.cost_cents:f} cents in the same snapshot.",
            remedy="Nothing was frozen. Run it again; if it stays, do not bill this month before it is known "
            "whether the reading code or the database is wrong.",
        )
