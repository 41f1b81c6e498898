"""The whole server over a small platform on each database; Dagster's own pages are left out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
from starlette.applications import Starlette

from spell_billing.ledger.ledger import Ledger
from spell_billing.settings.billing import Settings
from spell_billing.web.app import create_app
from spell_billing.web.context import WebContext
from spell_billing.web.launching import DagsterRuns
from spell_billing.web.settings import WebSettings
from spell_billing_tests.proof.platform_fixtures import double, light_platform, platform, shared_double
from spell_billing_tests.proof.small_platform import SmallPlatform, bill_march
from spell_billing_tests.web.house import SECRET, Clock, House, Lines, serving
from spell_billing_tests.web_pages.world import OpenDoors

__all__ = ["double", "light_platform", "platform", "shared_double"]


@contextmanager
def _open_doors(platform: SmallPlatform, **environment: str) -> Iterator[House]:
    values = {
        "DATABASE_URL": platform.url,
        "SPELL_BILLING_HOME": str(platform.store_path.parent),
        "SPELL_BILLING_USAGE_STORE": str(platform.store_path),
        "ADMIN_SECRET": SECRET,
        **environment,
    }
    clock, nothing = Clock(), cast("Any", None)
    with Ledger(Settings(values).database) as ledger, dg.DagsterInstance.ephemeral() as instance:
        context = WebContext(Settings(values), WebSettings(values), ledger, clock)
        # Runs are looked for; none is launched, which takes the code location too.
        runs = DagsterRuns(cast("Any", SimpleNamespace(instance=instance)))
        app = create_app(context, Starlette(), runs, read_only=False)
        with serving(app) as address:
            yield House(address, context, clock, instance, nothing, Lines(), app)


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture
def open_doors() -> OpenDoors:
    """Give a function that serves a platform; its clock says 3 April 2025, 9:30 UTC."""
    return _open_doors


@pytest.fixture
def doors(platform: SmallPlatform) -> Iterator[House]:
    """Serve a platform on each database whose March is billed."""
    with _open_doors(bill_march(platform)) as house:
        yield house


@pytest.fixture(scope="session")
def kept_march(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name the folder in which a billed March is kept, for tests to take a copy."""
    return tmp_path_factory.mktemp("march") / "kept"


@pytest.fixture
def light_doors(light_platform: SmallPlatform, tmp_path: Path, kept_march: Path) -> Iterator[House]:
    """Serve a platform on SQLite whose March is billed."""
    if kept_march.exists():
        shutil.copytree(kept_march, tmp_path, dirs_exist_ok=True)
    else:
        bill_march(light_platform)
        shutil.copytree(tmp_path, kept_march)
    with _open_doors(light_platform) as house:
        yield house
