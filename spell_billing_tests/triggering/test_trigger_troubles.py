"""What `spell-billing trigger` makes of a server that is away, refuses, or is another one altogether."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from spell_billing.core.month import Month
from spell_billing.triggering import client
from spell_billing.triggering.client import Server, ServerLostError, TriggerError
from spell_billing.triggering.trigger import Ending
from spell_billing.triggering.trigger import bill as bill_months
from spell_billing_tests.triggering.served import SECRET
from spell_billing_tests.triggering.stub import Answer, answering, as_json, asked

MONTH = Month(2025, 1)
RUN = "aaaaaaaa-0000-0000-0000-000000000001"
PLACE = {
    "repositoriesOrError": {
        "__typename": "RepositoryConnection",
        "nodes": [{"name": "there", "location": {"name": "here"}, "jobs": [{"name": "monthly_billing"}]}],
    }
}
PARTITIONS = {
    "pipelineOrError": {
        "__typename": "Pipeline",
        "partitionKeysOrError": {"partitionKeys": ["2025-01-01", "2025-02-01"]},
    }
}


class Scripted:
    """A server whose answers a test changes: GraphQL by its first field, else by path."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {**PLACE, **PARTITIONS, "runsOrError": runs(), "state": "unbilled"}
        self.seen: list[str] = []
        self.requests: list[dict[str, str]] = []

    def __call__(self, path: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        self.requests.append(headers)
        if path != "/graphql":
            self.seen.append(path)
            return as_json({"month": path.rpartition("/")[2], "state": self.answers["state"]})
        field, variables = asked(body)
        self.seen.append(field)
        answer = self.answers[field]
        answer = answer(variables) if callable(answer) else answer
        if answer is None or isinstance(answer, tuple):
            return answer
        return as_json({"data": answer if field in answer else {field: answer}})


def runs(*found: dict[str, Any]) -> dict[str, Any]:
    return {"__typename": "Runs", "results": list(found)}


def a_run(run_id: str, status: str, **tags: str) -> dict[str, Any]:
    partition = {"key": "dagster/partition", "value": "2025-01-01"}
    others = [{"key": f"dagster/{name}", "value": value} for name, value in tags.items()]
    return {
        "runId": run_id,
        "jobName": "monthly_billing",
        "status": status,
        "assetSelection": None,
        "tags": [partition, *others],
    }


def news(status: str, *events: dict[str, Any], **tags: str) -> dict[str, Any]:
    return {
        "runOrError": {"__typename": "Run", **a_run(RUN, status, **tags), "repositoryOrigin": {"id": "1"}},
        "logsForRun": {
            "__typename": "EventConnection",
            "cursor": "1",
            "hasMore": False,
            "events": list(events),
        },
    }


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE_SECONDS", 0.01)


def bill(answer: Callable[..., Answer | None], *, patience_seconds: float = 0.05) -> tuple[Ending, list[str]]:
    said: list[str] = []

    async def go(url: str) -> Ending:
        opened = Server.open(url, SecretStr(SECRET), said.append, patience_seconds=patience_seconds)
        async with opened as server:
            return await bill_months(server, [MONTH], actor="test", wait=True)

    with answering(answer) as url:
        return asyncio.run(go(url)), said


def test_a_launch_whose_answer_is_lost_is_found_again_and_not_repeated(scripted: Scripted) -> None:
    launched: list[dict[str, str]] = []

    def launch(variables: dict[str, Any]) -> None:
        launched.append(
            {tag["key"]: tag["value"] for tag in variables["params"]["executionMetadata"]["tags"]}
        )

    def listed(variables: dict[str, Any]) -> dict[str, Any]:
        token = (
            {"key": "spell_billing/trigger", "value": launched[0]["spell_billing/trigger"]} if launched else 0
        )
        return runs(a_run(RUN, "STARTED")) if token in variables["filter"]["tags"] else runs()

    def ended(_: dict[str, Any]) -> dict[str, Any]:
        scripted.answers["state"] = "billed"
        return news("SUCCESS")

    scripted.answers |= {"launchRun": launch, "runsOrError": listed, "runOrError": ended}

    ending, said = bill(scripted)

    assert ending is Ending.DONE
    assert scripted.seen.count("launchRun") == 1
    assert any("Looking whether the launch went through." in line for line in said)
    assert launched[0]["dagster/partition"] == "2025-01-01"
    assert launched[0]["spell_billing/actor"] == "test"


def test_a_run_whose_worker_died_is_followed_into_its_second_try(scripted: Scripted) -> None:
    again = RUN.replace("1", "2")

    def listed(variables: dict[str, Any]) -> dict[str, Any]:
        if {"key": "dagster/parent_run_id", "value": RUN} in variables["filter"]["tags"]:
            return runs(a_run(again, "QUEUED", parent_run_id=RUN))
        return runs(a_run(RUN, "STARTED")) if "statuses" in variables["filter"] else runs()

    def looked(variables: dict[str, Any]) -> dict[str, Any]:
        if variables["id"] == RUN:
            return news("FAILURE", {"__typename": "RunFailureEvent", "message": "it died"}, will_retry="true")
        scripted.answers["state"] = "billed"
        return news("SUCCESS")

    scripted.answers |= {"runsOrError": listed, "runOrError": looked}

    ending, said = bill(scripted)

    assert ending is Ending.DONE
    assert any(f"run {RUN} died; Dagster tries again: " in line and again in line for line in said)


def test_a_run_of_a_bill_command_that_died_is_not_waited_for(scripted: Scripted) -> None:
    """Dagster says that it runs it again, and cannot: no code location launched it."""
    died = news("FAILURE", {"__typename": "RunFailureEvent", "message": "it died"}, will_retry="true")
    died["runOrError"]["repositoryOrigin"] = None
    scripted.answers |= {"runsOrError": runs(a_run(RUN, "STARTED")), "runOrError": died}

    ending, said = bill(scripted)

    assert ending is Ending.DID_NOT_RUN
    assert said[-1] == "2025-01  the run ended with failure: it died"


def test_a_failure_is_looked_at_twice_before_it_counts(scripted: Scripted) -> None:
    """Dagster notes a moment after the failure that it tries again."""
    looks: list[None] = []

    def looked(_: dict[str, Any]) -> dict[str, Any]:
        looks.append(None)
        return news("FAILURE", {"__typename": "RunFailureEvent", "message": "out of memory"})

    scripted.answers |= {"runsOrError": runs(a_run(RUN, "STARTED")), "runOrError": looked}

    ending, said = bill(scripted)

    assert ending is Ending.DID_NOT_RUN
    assert len(looks) == 2
    assert said[-1] == "2025-01  the run ended with failure: out of memory"


@pytest.mark.parametrize(
    ("field", "answer", "words"),
    [
        (
            "launchRun",
            {"__typename": "UnauthorizedError", "message": "Authorization failed"},
            "The server refuses: UnauthorizedError: Authorization failed. This server only reads; ",
        ),
        (
            "launchRun",
            {"__typename": "PipelineNotFoundError", "message": "Could not find it."},
            "The server refuses: PipelineNotFoundError: Could not find it. The server's code location did",
        ),
        (
            "launchRun",
            {"__typename": "RunConfigValidationInvalid", "errors": [{"message": "a"}, {"message": "b"}]},
            "The server refuses: RunConfigValidationInvalid: a; b. Use the spell-billing of the",
        ),
        ("launchRun", {"__typename": "RunConflict"}, "The server refuses: RunConflict. Try again."),
        (
            "repositoriesOrError",
            {"__typename": "RepositoryConnection", "nodes": []},
            "The server has no job monthly_billing: its code location did not load.",
        ),
        (
            "launchRun",
            (400, {}, b'{"errors": [{"message": "Cannot query field"}]}'),
            "The server's GraphQL refuses the question: Cannot query field. Use the spell-billing of",
        ),
        (
            "repositoriesOrError",
            (403, {}, b'{"error": {"code": "x", "message": "It only reads.", "remedy": "Use another."}}'),
            "It only reads. Use another.",
        ),
        (
            "repositoriesOrError",
            (200, {"Content-Type": "text/html"}, b"<h1>Welcome</h1>"),
            "is not spell-billing (HTTP 200 for /graphql).",
        ),
    ],
)
def test_what_the_server_refuses_is_one_clear_line(
    scripted: Scripted, field: str, answer: Any, words: str
) -> None:
    scripted.answers[field] = answer

    with pytest.raises(TriggerError) as refused:
        bill(scripted)

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_secret_goes_in_a_header_and_follows_no_redirect(scripted: Scripted) -> None:
    with answering(scripted) as elsewhere:
        moved = (307, {"Location": f"{elsewhere}/graphql"}, b"")
        with pytest.raises(TriggerError, match="redirects are not followed"):
            bill(lambda *_: moved)

    assert scripted.requests == []
    with pytest.raises(TriggerError):
        bill(lambda _, __, headers: as_json({"given": headers["x-admin-secret"]}, 400))


def test_nothing_that_a_server_says_commands_a_terminal_or_a_ci(scripted: Scripted) -> None:
    wild = f"\x1b[31m\r\n::add-mask::x ##[error] {SECRET} " + "x" * 1_000
    scripted.answers["repositoriesOrError"] = as_json({"errors": [{"message": wild}]}, 400)

    with pytest.raises(TriggerError) as refused:
        bill(scripted)

    text = str(refused.value)
    assert text.isprintable()
    assert SECRET not in text
    assert "##[" not in text
    assert len(text) < 600

    event = {"__typename": "LogMessageEvent", "message": "::set-output\n\x1b]0;x\x07", "level": "INFO"}
    scripted = Scripted()
    scripted.answers |= {
        "runsOrError": runs(a_run(RUN, "STARTED")),
        "runOrError": news("SUCCESS", event),
        "state": "billed",
    }

    _, said = bill(scripted)

    assert "2025-01  ::set-output ]0;x" in said
    assert all(line.isprintable() for line in said)


def test_a_server_that_is_busy_is_asked_again_when_it_says_so(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("spell_billing.triggering.client.asyncio.sleep", sleep)
    too_many = as_json(
        {"error": {"message": "Too many wrong secrets came from this address.", "remedy": "Wait."}},
        429,
        Retry_After="7",
    )
    answers = [too_many, (502, {}, b"<h1>Bad gateway</h1>"), None]

    def answer(path: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        return answers.pop(0) if answers else scripted(path, body, headers)

    scripted.answers["state"] = "billed"
    ending, said = bill(answer, patience_seconds=30)

    assert ending is Ending.DONE
    assert pauses[0] == 7
    assert len(pauses) == 3
    assert said == [
        "Too many wrong secrets came from this address. Asking again.",
        "The server answers again.",
        "2025-01  is already billed: there is nothing to do.",
    ]


def test_a_server_that_stays_away_is_given_up_after_a_while() -> None:
    with pytest.raises(ServerLostError, match=r"does not answer: .*Check the address"):
        bill(lambda *_: None)


def test_a_backfill_that_dagster_gives_up_is_an_error(scripted: Scripted) -> None:
    status = {"__typename": "PartitionBackfill", "status": "FAILED", "error": {"message": "no code location"}}
    scripted.answers |= {
        "launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"},
        "partitionBackfillOrError": status,
    }

    async def go(url: str) -> Ending:
        async with Server.open(url, SecretStr(SECRET), lambda _: None, patience_seconds=0) as server:
            months = [MONTH, MONTH.next()]
            return await bill_months(server, months, actor="test", wait=True, as_backfill=True)

    with (
        answering(scripted) as url,
        pytest.raises(TriggerError, match=r"Backfill abc ended .*no code location"),
    ):
        asyncio.run(go(url))
