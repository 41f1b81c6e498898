"""Parts of the SQL that reads usage from PostgreSQL: whose rows, of which time, and in what form."""

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from spell_billing.core.items import OTHER
from spell_billing.core.month import Month
from spell_billing.usage.frozen import Detail

_BLANKS = r"E' \t\r\n'"


def is_one_of(users: Collection[str]) -> str:
    """Return the condition that a row's user is one of some, whatever their ids hold."""
    ids = _quoted(json.dumps(sorted(users)))
    return f"user_id::text IN (SELECT json_array_elements_text({ids}::json))"


def is_user(user_id: str) -> str:
    """Return the condition that a row is of one user; refused by the server where no row can have such an id.

    The value takes the column's own type, so that an index serves; the text then refuses another spelling of
    it: 007 is not user 7.
    """
    value = _quoted(user_id)
    return f'user_id = {value} AND user_id::text = {value}::text COLLATE "C"'


def is_wanted(user_id: str | None) -> str:
    """Return the condition that a row is of one user, or of any."""
    return "true" if user_id is None else is_user(user_id)


def _quoted(text: str) -> str:
    # Between dollar quotes nothing has a meaning but the tag, which no text can foresee.
    tag = f"$text_{secrets.token_hex(8)}$"
    return f"{tag}{text}{tag}"


def is_blank(user_id: str) -> str:
    """Return the condition that a text is empty or nothing but blanks."""
    return f"btrim({user_id}::text, {_BLANKS}) = ''"


def item_of(detail: Detail) -> str:
    """Return the item of a row; what has none is of the rest."""
    if detail.items_by is None:
        return f"'{OTHER}'::text"
    return f"coalesce(nullif(btrim(\"{detail.items_by}\"::text, {_BLANKS}), ''), '{OTHER}')"


class Stretch(NamedTuple):
    """A part of a month: from its first moment to the first one after it."""

    start: datetime
    end: datetime


def stretches(month: Month, count: int) -> list[Stretch]:
    """Cut a month into a number of stretches of equal length."""
    length = (month.end - month.start) / count
    marks = [month.start + number * length for number in range(count)] + [month.end]
    return [Stretch(*ends) for ends in pairwise(marks)]


@dataclass(frozen=True, slots=True)
class CostForm:
    """How amounts travel: as bigint units of 10**-scale cents, or (too large for that) as text.

    `all_clean`: the month was found to have no bad row, so rows need not be judged while they are read.
    """

    scale: int = 0
    as_text: bool = False
    all_clean: bool = False
