"""Runs the server: Dagster's workspace, the ledger, and one uvicorn process with its limits."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__ as webserver_version
from starlette.types import ASGIApp

from spell_billing.ledger.ledger import Ledger
from spell_billing.orchestration.instance import open_instance, prepare_dagster_home
from spell_billing.orchestration.unstable import (
    ModuleTarget,
    WorkspaceFileTarget,
    WorkspaceLoadTarget,
    WorkspaceProcessContext,
)
from spell_billing.settings.billing import Settings
from spell_billing.web.access_log import log_to_standard_error
from spell_billing.web.app import create_app
from spell_billing.web.context import WebContext
from spell_billing.web.launching import DagsterRuns
from spell_billing.web.settings import WebSettings

WORKSPACE_FILE = "workspace.yaml"
LARGEST_HEADERS_BYTES = 32 * 1024
KEEP_ALIVE_SECONDS = 5
SHUTDOWN_SECONDS = 10
MOST_CONNECTIONS = 800
"""Below the 1,024 files that a process may usually open."""

POLL_MILLISECONDS = 2000
"""So often Dagster's pages ask for news, as in its own webserver."""

STATEMENT_SECONDS = 15
RECYCLE_SECONDS = 3600
MOST_OVERFLOW = 20
"""Of Dagster's connections to its storage, as in its own webserver."""

LARGEST_WEBSOCKET_MESSAGE_BYTES = 1024 * 1024
_ONLY_OURS = ("ADMIN_SECRET", "STRIPE_WEBHOOK_SECRET")


def serve(
    listener: socket.socket,
    settings: Settings,
    web: WebSettings,
    *,
    read_only: bool,
    on_ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        listener: The address, bound.
        settings: Of billing.
        web: Of the server.
        read_only: Launch and change nothing.
        on_ready: Called when requests are answered.

    Raises:
        SpellBillingError: when a setting is wrong, or the ledger or Dagster's instance cannot be opened.
    """
    log_to_standard_error()
    # uvicorn ends its work and then sends the signal again, which would leave Dagster's code server behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    # Code servers and runs inherit the environment, and have no use for the secret.
    for name in _ONLY_OURS:
        os.environ.pop(name, None)
    prepare_dagster_home(settings)
    with (
        Ledger(settings.database, read_only=read_only) as ledger,
        open_workspace(read_only=read_only) as workspace,
    ):
        dagster_app = create_app_from_workspace_process_context(
            workspace, live_data_poll_rate=POLL_MILLISECONDS
        )
        context = WebContext(settings=settings, web=web, ledger=ledger)
        app = create_app(context, dagster_app, DagsterRuns(workspace), read_only=read_only)
        server = _Server(configuration(app, web), on_ready)
        server.run(sockets=[listener])


def configuration(app: ASGIApp, web: WebSettings) -> uvicorn.Config:
    """Return uvicorn's configuration: its limits, and whose word on the client's address is believed."""
    return uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=LARGEST_HEADERS_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        limit_concurrency=MOST_CONNECTIONS,
        ws_max_size=LARGEST_WEBSOCKET_MESSAGE_BYTES,
        proxy_headers=bool(web.trusted_proxies),
        forwarded_allow_ips=list(web.trusted_proxies),
        server_header=False,
        access_log=False,
        log_level=logging.WARNING,
    )


@contextmanager
def open_workspace(*, read_only: bool) -> Iterator[WorkspaceProcessContext]:
    """Open Dagster's instance and load the code, as Dagster's webserver does.

    The workspace is the file `workspace.yaml` of the working directory where there is one, else the installed
    module.
    """
    with (
        open_instance() as instance,
        WorkspaceProcessContext(
            instance,
            workspace_load_target=_target(),
            version=webserver_version,
            read_only=read_only,
            code_server_log_level="WARNING",
        ) as workspace,
    ):
        instance.optimize_for_webserver(STATEMENT_SECONDS * 1000, RECYCLE_SECONDS, MOST_OVERFLOW)
        yield workspace


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _target() -> WorkspaceLoadTarget:
    if Path(WORKSPACE_FILE).is_file():
        return WorkspaceFileTarget(paths=[WORKSPACE_FILE])
    return ModuleTarget(
        module_name="spell_billing.definitions",
        attribute=None,
        working_directory=None,
        location_name="spell_billing",
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()
