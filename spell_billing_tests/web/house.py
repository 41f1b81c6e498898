"""A whole server in this process, on a port of its own: every door, over a real ledger and a real Dagster."""

import atexit
import http.client
import json
import logging
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import uvicorn
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.types import ASGIApp

from spell_billing.ledger.ledger import Ledger
from spell_billing.settings.billing import Settings
from spell_billing.web.app import create_app
from spell_billing.web.context import WebContext
from spell_billing.web.launching import DagsterRuns
from spell_billing.web.middleware import LOGGER
from spell_billing.web.server import configuration
from spell_billing.web.settings import WebSettings

SECRET = "a-secret-of-the-tests-0001"
WEBHOOK_SECRET = "whsec_of_the_tests_0001"
NOW = datetime(2025, 4, 3, 9, 30, tzinfo=UTC)
"""March 2025 is the last closed month."""


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **span: float) -> None:
        self.now += timedelta(**span)


class Lines(logging.Handler):
    """Keeps the access log's lines; a line is written after its answer has left, so readers wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = threading.Condition()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        with self._arrived:
            self.texts.append(record.getMessage())
            self._arrived.notify_all()

    def wait_for(self, **wanted: object) -> dict[str, Any]:
        """Give the newest line that has these values."""
        with self._arrived:

            def found() -> dict[str, Any] | None:
                lines = (json.loads(text) for text in reversed(self.texts))
                return next((line for line in lines if wanted.items() <= line.items()), None)

            line = self._arrived.wait_for(found, timeout=60)
        assert line is not None, f"no line with {wanted} among {self.texts}"
        return line


@dataclass
class House:
    """The server, and what stands behind it."""

    address: tuple[str, int]
    context: WebContext
    clock: Clock
    instance: dg.DagsterInstance
    dagster_app: Any
    lines: Lines
    app: ASGIApp = field(repr=False)

    @property
    def ledger(self) -> Ledger:
        return self.context.ledger

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        *,
        secret: str | None = None,
        cookie: str | None = None,
        **headers: str,
    ) -> Answer:
        """Send a request exactly as given; a header's name has underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret is not None:
            named["X-Admin-Secret"] = secret
        if cookie is not None:
            named["Cookie"] = cookie
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()

    def admit(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        """Send a request with the secret."""
        return self.ask(method, path, body, secret=SECRET, **headers)

    def sign_in(self) -> str:
        """Sign in as a browser does, and give the cookie."""
        answer = self.ask("POST", "/login", f"secret={SECRET}", sec_fetch_site="same-origin")
        assert answer.status == 303, answer.text
        return answer.headers["set-cookie"].partition(";")[0]


class _Thread(threading.Thread):
    """Runs uvicorn until it is told to stop."""

    def __init__(self, app: ASGIApp, listener: socket.socket, environment: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self.server = uvicorn.Server(configuration(app, WebSettings(environment)))
        self._listener = listener

    def run(self) -> None:
        self.server.run(sockets=[self._listener])


@contextmanager
def serving(app: ASGIApp, **environment: str) -> Iterator[tuple[str, int]]:
    """Serve an app on a free port; give its address, on which a connection is taken from now on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = _Thread(app, listener, environment)
        thread.start()
        try:
            host, port = listener.getsockname()[:2]
            yield host, port
        finally:
            thread.server.should_exit = True
            thread.join(timeout=20)


@cache
def _empty_dagster_home() -> str:
    """Make Dagster's own tables once: it takes seconds, and copies will do."""
    home = tempfile.mkdtemp(prefix="spell-billing-dagster-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    with dg.DagsterInstance.local_temp(home) as instance:
        instance.get_runs()
        instance.all_asset_keys()
        instance.all_instigator_state()
    return home


@contextmanager
def dagster_workspace(
    home: Path, *, read_only: bool = False, module: str = "spell_billing.definitions"
) -> Iterator[WorkspaceProcessContext]:
    """Open a Dagster instance with our code in this process; runs that are launched stay in its queue."""
    overrides = {
        "run_coordinator": {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"},
        "telemetry": {"enabled": False},
    }
    if not home.exists():
        shutil.copytree(_empty_dagster_home(), home)
    target = InProcessWorkspaceLoadTarget(
        InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=module), location_name="spell_billing")
    )
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.local_temp(str(home), overrides=overrides))
        with warnings.catch_warnings():
            # Dagster reads a schedule's deprecated property itself.
            warnings.filterwarnings("ignore", message=".*environment_vars.* is deprecated")
            workspace = WorkspaceProcessContext(instance, target, version="test", read_only=read_only)
        yield stack.enter_context(workspace)


@contextmanager
def house(
    database_url: str,
    home: Path,
    *,
    read_only: bool = False,
    module: str = "spell_billing.definitions",
    **environment: str,
) -> Iterator[House]:
    """Open everything, and serve it.

    Args:
        database_url: Of the ledger.
        home: An empty folder.
        read_only: As `serve --read-only`.
        module: What the workspace loads.
        environment: Further settings.
    """
    values = {
        "DATABASE_URL": database_url,
        "SPELL_BILLING_HOME": str(home),
        "ADMIN_SECRET": SECRET,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        **environment,
    }
    settings, clock, lines = Settings(values), Clock(), Lines()
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    with ExitStack() as stack:
        workspace = stack.enter_context(
            dagster_workspace(home / "dagster", read_only=read_only, module=module)
        )
        ledger = stack.enter_context(Ledger(settings.database))
        context = WebContext(settings, WebSettings(values), ledger, clock)
        dagster_app = create_app_from_workspace_process_context(workspace)
        app = create_app(context, dagster_app, DagsterRuns(workspace), read_only=read_only)
        address = stack.enter_context(serving(app, **values))
        logger.addHandler(lines)
        stack.callback(logger.removeHandler, lines)
        yield House(address, context, clock, workspace.instance, dagster_app, lines, app)
