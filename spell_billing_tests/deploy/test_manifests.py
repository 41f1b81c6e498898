"""What no container engine runs here is checked by the schema of the program that will read it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import psycopg
import pytest
import sqlalchemy as sa
import yaml
from compose_spec import PyCompose

from spell_billing_tests.deploy.composed import DEPLOY, ROOT, Image, MissingVariableError, composition

_KUBERNETES = "1.37"
_NEEDED = {
    "PYTHON_IMAGE": f"python@sha256:{'0' * 64}",
    "POSTGRES_IMAGE": f"postgres@sha256:{'0' * 64}",
    "POSTGRES_PASSWORD": "any",
    "USAGE_DATABASE_URL": "any",
    "ADMIN_SECRET": "any",
    "STRIPE_API_KEY": "any",
}
_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def values() -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())


def objects(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_not_roots_and_its_bases_are_named_by_whoever_builds_it() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("\nFROM ${PYTHON_IMAGE}") == text.count("\nFROM ") == 2
    assert "\nARG PYTHON_IMAGE\n" in text
    assert "\nUSER 10001:10001\n" in text
    assert "--require-hashes --only-binary :all: -r requirements.lock" in text
    for source, _ in Image().copies:
        assert (ROOT / source).is_file(), source


def test_compose_is_valid_and_asks_for_what_has_no_default() -> None:
    PyCompose.from_yaml(yaml.safe_dump(composition(_NEEDED))).validate()
    for name in _NEEDED:
        with pytest.raises(MissingVariableError, match=name):
            composition({**_NEEDED, name: ""})
    for name, service in composition(_NEEDED)["services"].items():
        if name != "postgres":
            assert service["read_only"], name
            assert (service["user"], service["cap_drop"]) == ("10001:10001", ["ALL"])
            assert ("ADMIN_SECRET" in service["environment"]) == (name == "serve")


@pytest.mark.parametrize("name", ["serve.yaml", "network.yaml"])
def test_kubernetes_knows_every_field_of_the_manifests(name: str) -> None:
    for each in objects(name):
        kubernetes_validate.validate(each, _KUBERNETES, strict=True)


def test_kubernetes_knows_what_the_chart_puts_into_its_pods(values: Any) -> None:
    (code,) = values["dagster-user-deployments"]["deployments"]
    serve = objects("serve.yaml")[0]["spec"]["template"]["spec"]
    for each in (code, values["dagsterDaemon"]):
        container = {
            "name": "any",
            "securityContext": each["securityContext"],
            "resources": each["resources"],
            "volumeMounts": each["volumeMounts"],
            "envFrom": [{"secretRef": secret} for secret in each["envSecrets"]],
            # The chart takes `enabled` away, and adds what is run.
            **{
                name: {key: value for key, value in probe.items() if key != "enabled"}
                for name, probe in each.items()
                if name.endswith("Probe")
            },
        }
        pod = {
            "containers": [container],
            "volumes": each["volumes"],
            "securityContext": each["podSecurityContext"],
        }
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": pod},
            _KUBERNETES,
            strict=True,
        )
        assert each["podSecurityContext"] == serve["securityContext"]
        assert each["securityContext"] == _CONTAINER
    for container in (*serve["initContainers"], *serve["containers"]):
        assert container["securityContext"] == _CONTAINER


def test_the_chart_gets_the_limits_of_our_own_instance(values: Any) -> None:
    ours, daemon = yaml.safe_load((ROOT / "dagster.yaml").read_text()), values["dagsterDaemon"]
    queue, runs = daemon["runCoordinator"]["config"]["queuedRunCoordinator"], ours["concurrency"]["runs"]
    monitoring = daemon["runMonitoring"]
    assert queue["maxConcurrentRuns"] == runs["max_concurrent_runs"]
    assert queue["tagConcurrencyLimits"] == runs["tag_concurrency_limits"]
    assert monitoring["maxResumeRunAttempts"] == ours["run_monitoring"]["max_resume_run_attempts"]
    assert daemon["runRetries"]["maxRetries"] == ours["run_retries"]["max_retries"]
    launcher = values["runLauncher"]["config"]["customRunLauncher"]
    assert {name: launcher[name] for name in ("module", "class")} == ours["run_launcher"]


def test_dagsters_storage_works_by_the_charts_scheme(
    values: Any, postgres_server: str, tmp_path: Path
) -> None:
    """The chart writes the storage as parts of an address, and the image's SQLAlchemy has to read it."""
    server = sa.make_url(postgres_server)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE of_the_chart")
    database = {
        "username": server.username,
        "password": "any",
        "hostname": server.host or "",
        "port": server.port or 5432,
        "db_name": "of_the_chart",
        "scheme": values["postgresql"]["postgresqlScheme"],
        "params": dict(server.query),
    }
    kinds = {
        "run_storage": ("dagster_postgres.run_storage", "PostgresRunStorage"),
        "event_log_storage": ("dagster_postgres.event_log", "PostgresEventLogStorage"),
        "schedule_storage": ("dagster_postgres.schedule_storage", "PostgresScheduleStorage"),
    }
    configuration = {
        name: {"module": module, "class": kind, "config": {"postgres_db": database}}
        for name, (module, kind) in kinds.items()
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({**configuration, "telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs() == []
