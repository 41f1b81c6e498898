"""Serves the demo's pages: Dagster, the overview and users' pages behind the sign-in, and its daemon."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from pydantic import SecretStr

from spell_billing.demo import story
from spell_billing.web.keys import derive_key
from spell_billing.web.links import PURPOSE, Links

_LINK = timedelta(days=7)
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: spell_billing.definitions
      location_name: spell_billing
"""


def serve(environment: dict[str, str], home: Path, port: int, stripe_url: str) -> int:
    """Run the server and Dagster's daemon until Ctrl-C, or until the server ends; return its exit code."""
    (home / "workspace.yaml").write_text(_WORKSPACE, encoding="utf-8")
    programs = (
        [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", "workspace.yaml"],
        [sys.executable, "-m", "spell_billing", "serve", "--port", str(port)],
    )
    with (home / "serve.log").open("a", encoding="utf-8") as log:
        running = [
            subprocess.Popen(
                program, env=environment, cwd=home, stdout=subprocess.PIPE if last else log, stderr=log
            )
            for last, program in enumerate(programs)
        ]
        try:
            # The server says when it is ready; it says nothing where it could not start.
            assert running[-1].stdout is not None  # noqa: S101 - it is a pipe
            if running[-1].stdout.readline():
                _say_where(environment, home, stripe_url)
                return running[-1].wait()
            click.echo((home / "serve.log").read_text(encoding="utf-8")[-2_000:], err=True)
            return running[-1].wait() or 1
        except KeyboardInterrupt:
            return 0
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()


def _say_where(environment: dict[str, str], home: Path, stripe_url: str) -> None:
    address, secret = environment["SPELL_BILLING_PUBLIC_URL"], environment["ADMIN_SECRET"]
    now = datetime.now(UTC)
    links = Links(derive_key(SecretStr(secret), PURPOSE), lambda: now)
    click.echo(
        f"\nSign in with: {secret}\n"
        f"  {address}/billing      what finance sees\n"
        f"  {address}/             Dagster: Jobs -> monthly_billing bills a month\n"
        f"  {address}/openapi.json the endpoints\n"
        "Without signing in:\n"
        f"  {stripe_url}/             what the stand-in for Stripe holds\n"
        f"  {address}/u/{links.make(story.CAST[0].user_id, now + _LINK)}\n"
        f"                                     the page of user {story.CAST[0].user_id}\n"
        f"The daemon follows payments each minute ({home / 'serve.log'}). Ctrl-C ends it all."
    )
    sys.stdout.flush()
