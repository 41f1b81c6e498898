"""`SMALL_AMOUNTS` through the commands: the preview is what is billed, and status and reconcile agree."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from spell_billing.core.errors import SettingsError
from spell_billing.settings.billing import Settings

ONE, TWO = "user-0001", "user-0002"


def test_small_amounts_are_carried_and_forgiven_as_the_setting_says(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(ONE, TWO)
    shop.calls("2025-03", (ONE, 30), (TWO, 1000))
    shop.calls("2025-04", (ONE, 90), (TWO, 1000))

    carried = shop.run("preview", "--month", "2025-03", "--json", SMALL_AMOUNTS="carry")
    reasons = {row["user"]: row["reason"] for row in json.loads(carried.stdout)}
    assert reasons == {ONE: "small_amount_carried", TWO: ""}
    assert shop.run("bill", "--month", "2025-03", SMALL_AMOUNTS="carry").returncode == 0
    told = shop.run("status", "--month", "2025-03").stdout
    assert "carried to the next invoice: -$0.30" in told
    assert "small_amount_carried: The total is below MINIMUM_INVOICE_CENTS" in " ".join(told.split())

    forgiving = {"SMALL_AMOUNTS": "forgive", "MINIMUM_INVOICE_CENTS": "150"}
    assert shop.run("bill", "--month", "2025-04", **forgiving).returncode == 0
    status = json.loads(shop.run("status", "--month", "2025-04", "--json").stdout)
    assert (status["forgiven_cents"], status["carried_cents"], status["skipped"]) == (90, 0, 1)
    for month in ("2025-03", "2025-04"):
        assert shop.run("reconcile", "--month", month).returncode == 0
    assert [each.total_cents for each in shop.double.invoices()] == [1000, 1000]


@pytest.mark.parametrize(
    ("name", "text"),
    [("SMALL_AMOUNTS", "drop"), ("MINIMUM_INVOICE_CENTS", "0"), ("MINIMUM_INVOICE_CENTS", "0.5")],
)
def test_a_wrong_setting_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{text}' is"):
        Settings({name: text}).policy  # noqa: B018 - reading it checks it
