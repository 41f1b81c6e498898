"""Our values are of the names and types that Dagster's chart takes.

What is held here was read in the chart's two `values.schema.json`, of Dagster's repository at commit 2bdb239
(September 2026, and so of a chart near to 1.13.27): of each key that we set its type, what must stand beside
it, and whether other keys are refused. What the chart's own values add is not repeated.
"""

from typing import Any

import jsonschema_rs
import pytest
import yaml

from spell_billing_tests.deploy.composed import DEPLOY

TEXT, NUMBER, SWITCH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
LIST, ANY_OBJECT = {"type": "array"}, {"type": "object"}


def taking(properties: dict[str, Any], required: str = "", *, others: bool = False) -> dict[str, Any]:
    """Give the schema of an object with these keys, and with no others unless they may be there."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": others,
    }


POD = {
    "image": taking(
        {
            "repository": TEXT,
            "tag": {"type": ["string", "integer"]},
            "digest": TEXT,
            "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        },
        "repository pullPolicy",
    ),
    "env": {"type": "object", "additionalProperties": TEXT},
    "envSecrets": LIST,
    "podSecurityContext": ANY_OBJECT,
    "securityContext": ANY_OBJECT,
    "resources": ANY_OBJECT,
    "volumes": LIST,
    "volumeMounts": LIST,
}
CODE = {
    "name": TEXT,
    "port": NUMBER,
    "dagsterApiGrpcArgs": {"type": "array", "items": TEXT},
    "livenessProbe": ANY_OBJECT,
    # Of the three probes, this one alone has to say that it is meant.
    "readinessProbe": taking({"enabled": SWITCH}, "enabled", others=True),
    "startupProbe": taking({"enabled": SWITCH}, others=True),
}
LAUNCHER = taking({"module": TEXT, "class": TEXT, "config": ANY_OBJECT}, "module class config")
EACH_VALUE = taking({"applyLimitPerUniqueValue": SWITCH}, "applyLimitPerUniqueValue")
LIMIT = taking({"key": TEXT, "limit": NUMBER, "value": {"anyOf": [TEXT, EACH_VALUE]}}, "key limit")
QUEUE = taking({"maxConcurrentRuns": NUMBER, "tagConcurrencyLimits": {"type": "array", "items": LIMIT}})
DAEMON = {
    "runCoordinator": taking(
        {
            "enabled": SWITCH,
            "type": {"const": "QueuedRunCoordinator"},
            "config": taking({"queuedRunCoordinator": QUEUE}, "queuedRunCoordinator"),
        },
        "enabled type config",
    ),
    # The chart lets anything pass here; `dagster.yaml` is held beside it in another test.
    "runMonitoring": ANY_OBJECT,
    "runRetries": taking({"enabled": SWITCH, "maxRetries": NUMBER}, "enabled"),
    "sensors": taking({"useThreads": SWITCH, "numWorkers": NUMBER}, "useThreads"),
}
CHART = taking(
    {
        "global": taking({"postgresqlSecretName": TEXT}),
        "generatePostgresqlPasswordSecret": SWITCH,
        "postgresql": taking(
            {
                "enabled": SWITCH,
                "postgresqlHost": TEXT,
                "postgresqlUsername": TEXT,
                "postgresqlDatabase": TEXT,
                "postgresqlScheme": TEXT,
                "service": taking({"port": NUMBER}, "port"),
            }
        ),
        "dagster-user-deployments": taking(
            {
                "enabled": SWITCH,
                "enableSubchart": SWITCH,
                "deployments": {"type": "array", "items": taking(POD | CODE, "name image port")},
            }
        ),
        "runLauncher": taking(
            {
                "type": {"const": "CustomRunLauncher"},
                "config": taking({"customRunLauncher": LAUNCHER}, "customRunLauncher"),
            },
            "type config",
        ),
        # Not in the chart's schema, which lets other keys pass at the top; its `role.yaml` asks for it.
        "rbacEnabled": SWITCH,
        "dagsterDaemon": taking(POD | DAEMON),
        "dagsterWebserver": taking({"replicaCount": NUMBER}),
        "ingress": taking({"enabled": SWITCH}),
        "telemetry": taking({"enabled": SWITCH}, "enabled"),
    }
)


@pytest.fixture
def values() -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())


def refused(values: Any) -> list[str]:
    errors = jsonschema_rs.validator_for(CHART).iter_errors(values)
    return sorted("/".join(map(str, error.instance_path)) for error in errors)


def test_the_chart_takes_our_values(values: Any) -> None:
    assert refused(values) == []


def test_a_slip_in_our_values_is_seen(values: Any) -> None:
    (code,) = values["dagster-user-deployments"]["deployments"]
    del code["readinessProbe"]["enabled"]
    values["dagsterDaemon"]["runRetries"]["maxretries"] = 2
    values["dagsterDaemon"]["env"] = {"SPELL_BILLING_USAGE_STORE": 1}

    assert refused(values) == [
        "dagster-user-deployments/deployments/0/readinessProbe",
        "dagsterDaemon/env/SPELL_BILLING_USAGE_STORE",
        "dagsterDaemon/runRetries",
    ]
