"""`scripts/run_monthly_billing.sh` and the workflow that calls it, run as written against a real server."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from spell_billing.core.month import Month
from spell_billing_tests.triggering.served import ROOT, SECRET, Running, Served, free_port
from spell_billing_tests.triggering.stub import answering, as_json

SCRIPT = ROOT / "scripts" / "run_monthly_billing.sh"
WORKFLOW = ROOT / ".github" / "workflows" / "monthly-billing.yml"
EXPRESSION = re.compile(r"\$\{\{\s*([a-zA-Z_.]+)\s*\}\}")


def workflow() -> dict[str, Any]:
    # The base loader leaves `on` the word that it is: for YAML 1.1 it means true.
    content: dict[str, Any] = yaml.load(WORKFLOW.read_text(), yaml.BaseLoader)  # noqa: S506 - makes texts only
    return content


def script(served: Served, *arguments: str, **environment: str) -> Running:
    return served.run([str(SCRIPT), *arguments], environment)


def run_workflow(
    served: Served, tmp_path: Path, *, month: str, secrets: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run the job's steps as GitHub's runner does; give exit code, output and summary."""
    values = {"secrets.ADMIN_SECRET": SECRET, "secrets.API_URL": served.url, "inputs.month": month}
    values |= secrets or {}
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    summary = tmp_path / "summary.md"
    summary.touch()
    (job,) = workflow()["jobs"].values()
    output = ""
    for number, step in enumerate(each for each in job["steps"] if "run" in each):
        own = {
            name: EXPRESSION.sub(lambda found: values[found[1]], text) for name, text in step["env"].items()
        }
        file = tmp_path / f"step-{number}.sh"
        file.write_text(step["run"])
        assert step["shell"] == "bash"
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)]
        step_run = served.run(command, {**own, "GITHUB_STEP_SUMMARY": str(summary)}, cwd=tmp_path)
        code = step_run.end()
        output += step_run.output
        if code:
            return code, output, summary.read_text()
    return 0, output, summary.read_text()


def test_the_workflow_is_what_the_repository_needs() -> None:
    content = workflow()
    (job,) = content["jobs"].values()

    assert content["on"]["schedule"] == [{"cron": "0 0 1 * *"}]
    assert list(content["on"]["workflow_dispatch"]["inputs"]) == ["month"]
    assert set(content["on"]) == {"schedule", "workflow_dispatch"}, "no pull request runs it"
    assert content["permissions"] == {}
    assert job["permissions"] == {"contents": "read"}
    assert content["concurrency"] == {"group": "monthly-billing", "cancel-in-progress": "false"}
    assert 0 < int(job["timeout-minutes"]) < 360
    for step in job["steps"]:
        assert "${{" not in step.get("run", ""), "input and secrets never become part of a command"
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), "pinned to a commit"
    (run,) = [step for step in job["steps"] if "run" in step]
    assert int(run["env"]["TIMEOUT_SECONDS"]) < 60 * int(job["timeout-minutes"])


def test_the_workflow_bills_the_month_that_has_just_closed(served: Served, tmp_path: Path) -> None:
    # The server's present is the real one: the month before it is closed, whenever the test runs.
    last = str(Month.parse(served.ask("/admin/billing/months")["months"][0]["month"]).previous())
    served.usage(last, {"user-0001": 1_200})

    code, output, summary = run_workflow(served, tmp_path, month="")

    assert code == 0, output
    assert f"{last}  run: {served.url}/runs/" in output
    assert f"{last}  billed: 1 users invoiced, 0 failed" in output
    assert summary.startswith("### Every user is billed\n")
    assert f"    {last}  billed: 1 users invoiced" in summary
    assert [invoice.total_cents for invoice in served.invoices(last)] == [1_200]


def test_the_workflow_fails_where_users_are_left(served: Served, tmp_path: Path) -> None:
    served.usage("2025-02", {"user-0001": 100, "user-0009": 50}, without_account=["user-0009"])

    code, output, summary = run_workflow(served, tmp_path, month="2025-02")

    assert code == 3, output
    assert "2025-02  partial: 1 users invoiced, 1 failed, 0 held, 0 parked" in output
    assert summary.startswith("### Billed in part: users are left without an invoice\n")


@pytest.mark.parametrize(
    ("month", "secrets", "ending"),
    [
        ("", {"secrets.ADMIN_SECRET": ""}, (2, "ADMIN_SECRET is not set.")),
        ("", {"secrets.API_URL": ""}, (2, "API_URL is not set.")),
        ("", {"secrets.API_URL": "http://billing.example.com"}, (2, "would send ADMIN_SECRET unencrypted")),
        ("$(touch pwned)", {}, (2, "That is not a month.")),
        ("2025-01; touch pwned", {}, (2, "That is not a month.")),
        ("2099-01", {}, (1, "2099-01 is not closed: it ends on 2099-01-31 at 24:00 UTC.")),
        ("", {"secrets.ADMIN_SECRET": "another-secret-0123456789"}, (1, "does not accept ADMIN_SECRET")),
    ],
)
def test_the_workflow_says_what_is_wrong(
    served: Served, tmp_path: Path, month: str, secrets: dict[str, str], ending: tuple[int, str]
) -> None:
    code, said = ending
    ended, output, summary = run_workflow(served, tmp_path, month=month, secrets=secrets)

    assert ended == code, output
    assert said in output
    assert said in summary
    assert summary.startswith("### Not billed: ")
    assert "another-secret" not in output + summary
    assert not (tmp_path / "pwned").exists()


def test_the_script_waits_for_the_run_of_another_and_leaves_a_billed_month_alone(served: Served) -> None:
    served.usage("2025-03", {"user-0001": 300})
    with served.held("2025-03"):
        second = script(served, "2025-03")
        second.until("2025-03  is being billed by a process that the server does not know; waiting for it.")
        assert served.trigger("--month", "2025-03").end() == 0
        second.until("2025-03  run: ")
        hurried = script(served, "2025-03", TIMEOUT_SECONDS="1")
        assert hurried.end() == 1
        assert "Not finished within 1 s; the run continues." in hurried.output
        served.stop()
        served.start()

    assert second.end() == 0, second.output
    assert second.output.count("2025-03  is being billed by a process") == 1
    assert second.output.endswith(
        "2025-03  billed: 1 users invoiced, 0 failed, 0 held, 0 parked, 0 not sent yet, 0 skipped\n"
    )
    third = script(served, "2025-03")
    assert third.end() == 0, third.output
    assert third.output == "2025-03  is already billed: there is nothing to do.\n"
    assert len(served.runs("2025-03")) == 1
    assert len(served.invoices("2025-03")) == 1


def test_the_script_ends_with_1_where_the_run_fails(served: Served) -> None:
    served.source.execute(
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) "
        "VALUES (900, 'user-0001', 0.5, '2025-04-09T00:00:00+00:00')"
    )

    run = script(served, "2025-04")

    assert run.end() == 1, run.output
    (seen,) = served.runs("2025-04")
    assert f"The run ended with FAILURE. Its page says why: {served.url}/runs/{seen['id']}" in run.output


def test_the_secret_stands_on_no_command_line(served: Served, tmp_path: Path) -> None:
    log, real = tmp_path / "arguments", shutil.which("curl")
    watched = tmp_path / "bin" / "curl"
    watched.parent.mkdir()
    watched.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>"{log}"\nexec {real} "$@"\n')
    watched.chmod(0o755)

    run = script(served, "2099-01", PATH=f"{watched.parent}:{os.environ['PATH']}")

    assert run.end() == 1
    assert "process-monthly" in log.read_text()
    assert SECRET not in log.read_text()


def test_a_server_that_does_not_answer_at_first_is_asked_again(served: Served) -> None:
    answers = [None, as_json({}, 503), as_json({"status": "already_billed", "month": "2025-01"})]

    with answering(lambda *_: answers.pop(0)) as url:
        run = script(served, "2025-01", API_URL=url)
        assert run.end() == 0

    assert run.output == "2025-01  is already billed: there is nothing to do.\n"
    assert answers == []


def test_a_server_that_stays_away_is_given_up(served: Served, tmp_path: Path) -> None:
    real = shutil.which("curl")
    hasty = tmp_path / "bin" / "curl"
    hasty.parent.mkdir()
    hasty.write_text(f'#!/bin/sh\nexec {real} "$@" --retry-max-time 1\n')
    hasty.chmod(0o755)
    nobody = f"http://127.0.0.1:{free_port()}"

    run = script(served, API_URL=nobody, PATH=f"{hasty.parent}:{os.environ['PATH']}")

    assert run.end() == 1
    assert run.output == (
        f"Error: {nobody} does not answer. Check the address, and that `spell-billing serve` runs there.\n"
    )


def test_nothing_that_a_server_answers_commands_a_terminal_or_a_ci(served: Served) -> None:
    wild = {"error": {"message": "\x1b[31m\r\n::add-mask::x ##[error] " + "x" * 900, "remedy": "Wait."}}

    with answering(lambda *_: as_json(wild, 400)) as url:
        run = script(served, "2025-01", API_URL=url)
        assert run.end() == 1

    (line,) = run.output.splitlines()
    assert line.isprintable()
    assert "##[" not in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["2025-01", "2025-02"], {}, "one month at most"),
        (["2025-13"], {}, "That is not a month."),
        ([], {"API_URL": "https://user:password@billing.example.com"}, "not the address of a server"),
        ([], {"API_URL": "https://billing.example.com/$(id)"}, "not the address of a server"),
        ([], {"API_URL": "http://127.0.0.1.example.com"}, "unencrypted"),
        ([], {"API_URL": "ftp://127.0.0.1"}, "unencrypted"),
        ([], {"ADMIN_SECRET": "one line\nX-Other: two"}, "no HTTP header carries safely"),
        ([], {"TIMEOUT_SECONDS": "soon"}, "not a number of seconds"),
    ],
)
def test_the_script_refuses_wrong_usage(
    served: Served, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    refused = script(served, *arguments, **environment)

    assert refused.end() == 2
    assert said in refused.output
    assert "password" not in refused.output
