"""All that we use of Dagster and it does not promise to keep: private names, and features in beta.

What an upgrade of Dagster may break is here and nowhere else; `test_dagster_unstable.py` says which of it.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget, WorkspaceLoadTarget
from dagster._serdes import ConfigurableClassData

__all__ = [
    "OWNERS",
    "ConfigurableClassData",
    "ModuleTarget",
    "PartitionBackfill",
    "WorkspaceFileTarget",
    "WorkspaceLoadTarget",
    "WorkspaceProcessContext",
    "WorkspaceRequestContext",
    "create_schema",
    "sensor",
    "with_source_code_references",
]

warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)

OWNERS = ["team:billing"]
"""Of assets; and of jobs, schedules and sensors, where it is in beta."""


def with_source_code_references(assets: Sequence[dg.AssetsDefinition | dg.AssetSpec]) -> Sequence[Any]:
    """Return the assets with links to the lines that define them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.with_source_code_references(assets)


def create_schema() -> Any:
    """Make Dagster's GraphQL schema."""
    from dagster_graphql import schema  # noqa: PLC0415 - heavy: 0.4 s that runs do without

    return schema.create_schema()


def sensor(
    name: str, description: str, *, seconds: int = 60, job: Any = None
) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Define a sensor that ticks at this interval in seconds, unless it is turned off."""
    return dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=seconds,
        owners=OWNERS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
