"""A run of a month is seen on its pages from the moment that it is launched until it has ended."""

import re
from datetime import UTC, datetime

import dagster as dg

from spell_billing.ledger.rows import Actor
from spell_billing.ledger.runs import RunRecord, RunResult
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import OpenDoors

ONE, TWO = "user-0001", "user-0002"
MONTH, USER = "/billing/2025-03", f"/billing/2025-03/users/{TWO}"


def started(at: House, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> dg.DagsterRun:
    """Let Dagster know a run of March that is under way."""
    tags = {"dagster/partition": MARCH.partition_key}
    run = dg.DagsterRun(job_name=monthly_billing.name, tags=tags, status=status)
    return at.instance.add_run(run)


def look(at: House, path: str) -> tuple[Page, str | None]:
    """Give a page, and the address that it loads by itself, if any."""
    answer = at.admit("GET", path, accept="text/html")
    assert answer.status == 200, answer.text
    page = Page(answer.text)
    page.must_be_sound()
    found = re.fullmatch(r"5; url=(.+)", answer.headers.get("refresh", ""))
    return page, found and found[1]


def with_one_left(platform: SmallPlatform) -> SmallPlatform:
    """Give a March whose second user has no account."""
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)
    return platform


def test_while_a_run_is_under_way_the_pages_say_so_and_load_again_and_take_no_decision(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(with_one_left(light_platform)) as at:
        before, again = look(at, MONTH)
        assert again is None
        assert "Billed in part" in before.text
        assert ("button", {"name": "decision", "value": "bill", "class": ""}) in before.tags
        run = started(at)

        month, month_again = look(at, MONTH)
        user, user_again = look(at, USER)
        overview, _ = look(at, "/billing")
        searched, searched_again = look(at, f"{MONTH}?q=user")

    assert "Billed in part" not in month.text
    assert "Being billed" in month.text
    assert month.row("Under way")[1:] == ["started", "", "", run.run_id]
    assert [each for each in month.tags if each[1].get("value") == "bill"] == [
        ("button", {"name": "decision", "value": "bill", "class": "", "disabled": None})
    ]
    assert "March 2025 is being billed." in user.text
    assert "Hold" not in {text for _, text in user.headings}
    assert month.links["run in Dagster"] == user.links["run in Dagster"] == f"/runs/{run.run_id}"
    assert month_again == f"{MONTH}?run={run.run_id}"
    assert user_again == f"{USER}?run={run.run_id}"
    assert ["March 2025", "Being billed"] in [cells[:2] for cells in overview.rows]
    assert "Being billed" in searched.text
    assert searched_again is None, "nobody who searches is interrupted"


def test_a_run_that_has_not_begun_keeps_nobody_from_deciding(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(with_one_left(light_platform)) as at:
        run = started(at, dg.DagsterRunStatus.NOT_STARTED)
        user, user_again = look(at, USER)

    assert "March 2025 is being billed. The run in Dagster is not started" in user.text
    assert "Decisions wait" not in user.text
    assert "Hold" in {text for _, text in user.headings}
    assert user_again == f"{USER}?run={run.run_id}"


def test_a_month_that_a_command_bills_is_shown_so_and_takes_no_decision(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(with_one_left(light_platform)) as at:
        with light_platform.ledger() as other, other.session(MARCH, Actor("a command")):
            month, month_again = look(at, MONTH)
            user, user_again = look(at, USER)
            overview, _ = look(at, "/billing")
        after, after_again = look(at, MONTH)

    for page in (month, user):
        assert "March 2025 is being billed by a command" in page.text
    assert "Hold" not in {text for _, text in user.headings}
    assert [each[1].get("disabled", "no") for each in month.tags if each[1].get("value") == "bill"] == [None]
    assert (month_again, user_again) == (MONTH, USER)
    assert ["March 2025", "Being billed"] in [cells[:2] for cells in overview.rows]
    assert "being billed" not in after.text
    assert after_again is None


def test_when_the_run_has_ended_the_page_says_what_came_of_it(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(with_one_left(light_platform)) as at:
        for path in (MONTH, USER):
            run = started(at)
            asked = f"{path}?run={run.run_id}"
            assert "run has ended" not in look(at, asked)[0].text
            at.instance.report_run_failed(run)

            page, again = look(at, asked)
            assert "The billing run has ended: failure. Its page in Dagster says more." in page.text
            assert page.links["The run in Dagster"] == f"/runs/{run.run_id}"
            assert again is None

            now = datetime.now(UTC)
            record = RunRecord(run.run_id, str(MARCH), now, now, RunResult.USERS_LEFT, invoiced=1)
            at.ledger.record_run(record)
            page, _ = look(at, asked)
            assert "run has ended: everyone who could be billed was. The others need a person." in page.text
        assert "run has ended" not in look(at, f"{MONTH}?run=another")[0].text
