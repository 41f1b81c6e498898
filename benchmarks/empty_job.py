"""The floor of a small month: import Dagster and run three assets that do nothing, in this process."""

import dagster as dg


@dg.asset
def first() -> None:
    """Do nothing."""


@dg.asset(deps=[first])
def second() -> None:
    """Do nothing."""


@dg.asset(deps=[second])
def third() -> None:
    """Do nothing."""


if __name__ == "__main__":
    dg.materialize([first, second, third])
