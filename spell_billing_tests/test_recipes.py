"""The recipes of docs/recipes do what they say: their own SQL and Python, run as it stands there."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from spell_billing.cli import main
from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month, require_billable
from spell_billing.demo.tables import billing_accounts, metadata, usage_counters
from spell_billing.settings.databases import create_engine_for, parse_database_url
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import MARCH, NOW

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"


def blocks(recipe: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (RECIPES / recipe).read_text(), re.DOTALL)
    assert found
    return [str(block) for block in found]


def preview(monkeypatch: pytest.MonkeyPatch, home: Path, **settings: str) -> dict[str, Any]:
    """Preview March 2025 by the command line; give the drafts by user."""
    for name, value in {"SPELL_BILLING_HOME": str(home), **settings}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["preview", "--month", "2025-03", "--json"])
    assert done.exit_code == 0, done.output
    return {row["user"]: row for row in json.loads(done.stdout)}


def test_a_view_over_an_own_table_is_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "billing.db") as connection:
        connection.executescript("\n".join(blocks("your-own-table.md", "sql")))
    connection.close()

    drafts = preview(monkeypatch, tmp_path)

    assert {user: (row["calls"], row["total_cents"]) for user, row in drafts.items()} == {
        "acme": (2, 50),
        "brot": (1, 110),
    }


def test_prices_as_known_platforms_have_them_come_to_what_the_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'billing.db'}")
    metadata.create_all(engine)
    rows = [("bea", "sms")] * 200 + [("cid", "search")] * 25
    with engine.begin() as connection:
        for statement in ";".join(blocks("api-pricing.md", "sql")).split(";"):
            if statement.strip():
                connection.execute(text(statement))
        for user, plan in (("bea", None), ("cid", "grow")):
            connection.execute(
                text("INSERT INTO billing_accounts VALUES (:user, :user, 'usd', NULL, :plan, NULL)"),
                {"user": user, "plan": plan},
            )
        for user, item in rows:
            connection.execute(
                text(
                    "INSERT INTO usage_counters (user_id, cost_cents, created_at, endpoint) "
                    "VALUES (:user, 0, '2025-03-05 12:00:00', :item)"
                ),
                {"user": user, "item": item},
            )
    engine.dispose()

    drafts = preview(monkeypatch, tmp_path, LINE_ITEMS_BY="endpoint")

    table = (RECIPES / "api-pricing.md").read_text()
    for user, name in (("bea", "bea, 200 messages"), ("cid", "cid on Grow, 25 searches")):
        (charged,) = re.findall(rf"\| {name} \|.*\| \$([\d.]+) \|", table)
        assert drafts[user]["total_cents"] == int(Decimal(charged) * 100), user
    told = CliRunner().invoke(main, ["preview", "--month", "2025-03"]).output
    assert re.search(r"^user +plan +state", told, re.MULTILINE), told
    assert re.search(r"^cid +grow +planned", told, re.MULTILINE), told


def test_the_grants_of_the_recipe_are_taken_and_the_promotional_one_pays_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path))
    engine = create_engine(f"sqlite:///{tmp_path / 'billing.db'}")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO billing_accounts VALUES ('ada', 'cus_ada', 'usd', NULL, NULL, 0)")
        )
    engine.dispose()
    words = re.findall(r"spell-billing (.*)", blocks("api-pricing.md", "sh")[0])
    for line in (re.sub(r"--expires \S+", "--expires 2099-01-01", each) for each in words):
        arguments = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', line)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output

    listed = json.loads(CliRunner().invoke(main, ["grants", "--user", "ada", "--json"]).stdout)

    assert sorted((each["grant_id"], each["granted_cents"]) for each in listed) == [
        ("order-1", 5000),
        ("welcome-1", 500),
    ]


def test_the_reader_of_the_replica_recipe_reads_usage_and_may_change_nothing(postgres_url: str) -> None:
    engine = create_engine_for(parse_database_url(postgres_url, setting="DATABASE_URL"))
    metadata.create_all(engine, tables=[usage_counters, billing_accounts])
    with engine.begin() as connection:
        connection.execute(text(blocks("replica.md", "sql")[0]))
    url = engine.url.set(username="billing_reader", password="change-me")
    reader = parse_database_url(url.render_as_string(hide_password=False), setting="USAGE_DATABASE_URL")

    assert open_usage_source(reader).accounts([]).num_rows == 0
    refused = create_engine_for(reader)
    with pytest.raises(Exception, match="permission denied"), refused.begin() as connection:
        connection.execute(text("DELETE FROM usage_counters"))
    refused.dispose()
    # Roles are of the whole server.
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY billing_reader; DROP ROLE billing_reader"))
    engine.dispose()


def test_the_second_code_location_has_the_billing_job_and_is_served_beside_the_first(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    code, report = blocks("second-code-location.md", "python")
    exec(compile(code, "billing.py", "exec"), names)  # noqa: S102 - the recipe's own code
    (workspace,) = blocks("second-code-location.md", "yaml")
    project = tmp_path / "your_project"
    project.mkdir()
    for file, text_of in (
        (tmp_path / "billing.py", code),
        (project / "__init__.py", ""),
        (project / "definitions.py", report),
        (tmp_path / "workspace.yaml", workspace),
    ):
        file.write_text(text_of)
    # Each location in a process of its own, as Dagster's server and daemon load them.
    served = subprocess.run(
        [str(Path(sys.executable).with_name("dagster")), "definitions", "validate", "-w", "workspace.yaml"],
        cwd=tmp_path,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert served.returncode == 0, served.stderr
    assert "All code locations passed validation" in served.stdout + served.stderr

    defs = names["defs"]
    assert isinstance(defs, dg.Definitions)
    assert defs.resolve_job_def("monthly_billing")
    locations = yaml.safe_load(workspace)["load_from"]
    assert [next(iter(each.values()))["location_name"] for each in locations] == ["your_project", "billing"]


def test_months_that_the_script_billed_are_refused() -> None:
    (setting,) = re.findall(r"SPELL_BILLING_FIRST_MONTH=(\S+)", (RECIPES / "from-a-script.md").read_text())
    first = Month.parse(setting)

    require_billable(MARCH, first=first, now=NOW)
    with pytest.raises(MonthError, match="precedes the first billed month"):
        require_billable(MARCH.previous(), first=first, now=NOW)
