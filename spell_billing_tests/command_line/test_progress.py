"""Progress of long work: to whoever watches, or else a line every few seconds, never one a user."""

from threading import Thread

import pytest

from spell_billing.cli.bill import shown_progress
from spell_billing.invoicing.progress import Progress, watched_by


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Shown:
    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int | None]] = []

    def show(self, step: str, done: int, total: int | None) -> None:
        self.steps.append((step, done, total))


def test_without_a_watcher_a_line_every_five_seconds_says_how_far_and_how_long() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = Progress("invoices", 10_000, lines.append, clock=clock)

    for _ in range(8):
        clock.now += 2.5
        progress.advance(500)

    assert lines == [
        "1,000 invoices, 200/s, 9,000 left, about 45 s",
        "2,000 invoices, 200/s, 8,000 left, about 40 s",
        "3,000 invoices, 200/s, 7,000 left, about 35 s",
        "4,000 invoices, 200/s, 6,000 left, about 30 s",
    ]


def test_an_unknown_total_gives_a_count_and_a_rate() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = Progress("rows frozen", None, lines.append, clock=clock)

    clock.now += 10
    progress.reached(2_500_000)

    assert lines == ["2,500,000 rows frozen, 250,000/s"]


def test_short_work_says_nothing() -> None:
    lines: list[str] = []
    progress = Progress("invoices", 2, lines.append, clock=Clock())

    progress.advance()
    progress.advance()

    assert lines == []


def test_a_total_that_turns_out_meanwhile_gives_the_time_left() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = Progress("rows frozen", None, lines.append, clock=clock)

    progress.reached(0, 10_000_000)
    clock.now += 10
    progress.reached(2_500_000, 10_000_000)

    assert lines == ["2,500,000 rows frozen, 250,000/s, 7,500,000 left, about 30 s"]


def test_a_watcher_sees_every_step_of_every_thread_and_the_log_stays_quiet() -> None:
    lines: list[str] = []
    clock, shown = Clock(), Shown()
    with watched_by(shown.show):
        progress = Progress("invoices", 3, lines.append, clock=clock)
        clock.now += 60
        progress.advance()
        progress.advance(2)
        unwatched = Thread(target=progress.reached, args=(3,))
        unwatched.start()
        unwatched.join()

    assert shown.steps == [("invoices", 1, 3), ("invoices", 3, 3), ("invoices", 3, 3)]
    assert lines == []


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    clock = Clock()

    with shown_progress(shown=False):
        progress = Progress("invoices", 40, lines.append, clock=clock)
        clock.now += 10
        progress.reached(20)

    assert lines == ["20 invoices, 2/s, 20 left, about 10 s"]
    assert capsys.readouterr() == ("", "")
