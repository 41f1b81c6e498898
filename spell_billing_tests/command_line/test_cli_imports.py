"""What a whole command loads: no pandas, which alone takes 0.4 s."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_billing_a_month_loads_no_pandas(make_shop: Callable[..., Any], backend: str) -> None:
    shop = make_shop(backend)
    shop.accounts("user-0001")
    shop.calls("2025-03", ("user-0001", 100))

    billed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spell_billing", "bill", "--month", "2025-03"],
        capture_output=True,
        text=True,
        env=shop.environment,
        check=True,
    )

    imported = {line.rpartition("|")[2].strip() for line in billed.stderr.splitlines()}
    assert "pyarrow.compute" in imported
    assert "pandas" not in imported
