"""How `spell-billing trigger` is called, and what it makes of being called wrongly."""

import sys
from subprocess import run as run_process

import pytest
from click.testing import CliRunner, Result

from spell_billing.cli import main
from spell_billing.cli import trigger as trigger_command
from spell_billing_tests.triggering.served import SECRET, free_port


def called(*arguments: str, secret: str | None = SECRET) -> Result:
    return CliRunner(env={"ADMIN_SECRET": secret, "API_URL": None}).invoke(main, ["trigger", *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing option '--url'"),
        (["--url", "http://billing.example.com"], "would send ADMIN_SECRET unencrypted"),
        (["--url", "http://127.0.0.1.example.com"], "would send ADMIN_SECRET unencrypted"),
        (["--url", "https://u:hidden@billing.example.com"], "That is not the address of a server."),
        (["--url", "https://billing.example.com/path"], "That is not the address of a server."),
        (["--url", "billing.example.com"], "That is not the address of a server."),
        (["--url", "https://billing.example.com:port"], "That is not the address of a server."),
        (["--url", "https://a", "--month", "2025-13"], "is not a month"),
        (["--url", "https://a", "--backfill", "2025-01"], "Write it as 2026-01..2026-06."),
        (["--url", "https://a", "--backfill", "2025-02..2025-01"], "2025-01 precedes 2025-02"),
        (["--url", "https://a", "--backfill", "2005-01..2025-01"], "more than 120 months"),
        (
            ["--url", "https://a", "--backfill", "2025-01..2025-02", "--verify"],
            "neither --month nor --verify",
        ),
        (["--url", "https://a", "--secret", "x"], "No such option"),
    ],
)
def test_wrong_usage_ends_it_with_2(arguments: list[str], words: str) -> None:
    result = called(*arguments)

    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())
    assert "hidden" not in result.output


@pytest.mark.parametrize(
    ("secret", "words"), [(None, "ADMIN_SECRET is not set."), ("two words", "no HTTP header carries safely")]
)
def test_the_secret_comes_from_the_environment_only(secret: str | None, words: str) -> None:
    result = called("--url", "https://billing.example.com", secret=secret)

    assert result.exit_code == 1
    assert words in result.output


def test_a_server_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigger_command, "PATIENCE_SECONDS", 0.0)
    nobody = f"http://127.0.0.1:{free_port()}"

    result = called("--url", nobody, "--month", "2025-01")

    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {nobody} does not answer: ")
    assert result.output.endswith("Check the address, and that `spell-billing serve` runs there.\n")


def test_the_command_loads_no_dagster() -> None:
    code = "import sys, spell_billing.cli.trigger; sys.exit('dagster' in sys.modules)"

    assert run_process([sys.executable, "-c", code], check=False).returncode == 0
