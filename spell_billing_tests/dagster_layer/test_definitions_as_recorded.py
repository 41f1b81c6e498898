"""All that Dagster shows of the project is as recorded in definitions.json: a review sees what changes."""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg

from spell_billing.orchestration.build import build_defs

RECORDED = Path(__file__).with_name("definitions.json")


def as_shown() -> dict[str, Any]:
    """Give what people see of each definition, without what depends on the machine or the environment."""
    defs = build_defs()
    repository = defs.get_repository_def()
    graph = defs.resolve_asset_graph()
    job = defs.resolve_job_def("monthly_billing")
    return {
        "assets": {
            spec.key.to_user_string(): {
                "description": spec.description,
                "group": spec.group_name,
                "kinds": sorted(spec.kinds),
                "owners": list(spec.owners),
                "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
                "partitioned": spec.partitions_def is not None,
                "metadata": sorted(spec.metadata),
                "freshness": type(spec.freshness_policy).__name__ if spec.freshness_policy else None,
            }
            for spec in sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key)
        },
        "checks": {
            f"{key.asset_key.to_user_string()}: {key.name}": {
                "description": graph.get_check_spec(key).description,
                "blocking": graph.get_check_spec(key).blocking,
            }
            for key in sorted(graph.asset_check_keys)
        },
        "job": {
            "description": job.description,
            "owners": list(job.owners or ()),
            "tags": dict(job.tags),
        },
        "schedules": {
            each.name: {"description": each.description, "owners": list(each.owners or ())}
            for each in repository.schedule_defs
        },
        "sensors": {
            each.name: {
                "description": each.description,
                "owners": list(each.owners or ()),
                "seconds": each.minimum_interval_seconds,
                "on": each.default_status is dg.DefaultSensorStatus.RUNNING,
            }
            for each in repository.sensor_defs
        },
        "resources": sorted(defs.resources or ()),
    }


def test_the_definitions_are_as_recorded() -> None:
    shown = as_shown()
    if os.environ.get("RECORD_DEFINITIONS"):
        RECORDED.write_text(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")

    assert shown == json.loads(RECORDED.read_text()), (
        "if meant: RECORD_DEFINITIONS=1 make test ARGS='-k recorded'"
    )
