"""Runs the server: Dagster's workspace, the ledger, and one uvicorn process with its limits."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__ as webserver_version
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from spell_billing.ledger.ledger import Ledger
from spell_billing.orchestration.instance import open_instance, prepare_dagster_home
from spell_billing.orchestration.unstable import (
    ModuleTarget,
    WorkspaceFileTarget,
    WorkspaceLoadTarget,
    WorkspaceProcessContext,
)
from spell_billing.settings.billing import Settings
from spell_billing.web.app import create_app
from spell_billing.web.context import WebContext
from spell_billing.web.gate import FROM_PROXY
from spell_billing.web.launching import DagsterRuns
from spell_billing.web.middleware import log_to_standard_error
from spell_billing.web.settings import WebSettings


def serve(
    listener: socket.socket,
    settings: Settings,
    web: WebSettings,
    *,
    read_only: bool,
    on_ready: Callable[[], None],
) -> None:
    """Serve on a bound address until SIGTERM or SIGINT; `on_ready` is called when requests are answered.

    Raises:
        SpellBillingError: when a setting is wrong, or the ledger or Dagster's instance cannot be opened.
    """
    log_to_standard_error()
    # uvicorn ends its work and then sends the signal again, which would leave Dagster's code server behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    # Code servers and runs inherit the environment, and have no use for the secrets.
    for name in ("ADMIN_SECRET", "ADMIN_SECRETS", "STRIPE_WEBHOOK_SECRET"):
        os.environ.pop(name, None)
    prepare_dagster_home(settings)
    with (
        Ledger(settings.database, read_only=read_only) as ledger,
        open_workspace(read_only=read_only) as workspace,
    ):
        dagster_app = create_app_from_workspace_process_context(workspace, live_data_poll_rate=2000)
        context = WebContext(settings, web, ledger, clock=lambda: datetime.now(UTC))
        app = create_app(context, dagster_app, DagsterRuns(workspace), read_only=read_only)
        _Server(configuration(app, web), on_ready).run(sockets=[listener])


def configuration(app: ASGIApp, web: WebSettings) -> uvicorn.Config:
    """Return uvicorn's configuration: its limits, and whose word on the client's address is believed."""
    return uvicorn.Config(
        FromProxies(app, list(web.trusted_proxies)) if web.trusted_proxies else app,
        http="h11",
        h11_max_incomplete_event_size=32 * 1024,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        # Below the 1,024 files that a process may usually open.
        limit_concurrency=800,
        ws_max_size=1024 * 1024,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level=logging.WARNING,
    )


class FromProxies(ProxyHeadersMiddleware):
    """Believe named proxies on the client's address, and note which requests came from one."""

    def __init__(self, app: Any, proxies: list[str]) -> None:
        super().__init__(app, trusted_hosts=proxies)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, with the client's address in place of the proxy's."""
        if scope["type"] != "lifespan":
            client = scope.get("client")
            scope[FROM_PROXY] = client is not None and client[0] in self.trusted_hosts
        await super().__call__(scope, receive, send)


@contextmanager
def open_workspace(*, read_only: bool) -> Iterator[WorkspaceProcessContext]:
    """Open Dagster's instance and load the code, as Dagster's webserver does.

    The workspace is the file `workspace.yaml` of the working directory where there is one, else the installed
    module.
    """
    target: WorkspaceLoadTarget = ModuleTarget(
        module_name="spell_billing.definitions",
        attribute=None,
        working_directory=None,
        location_name="spell_billing",
    )
    if Path("workspace.yaml").is_file():
        target = WorkspaceFileTarget(paths=["workspace.yaml"])
    with (
        open_instance() as instance,
        WorkspaceProcessContext(
            instance,
            workspace_load_target=target,
            version=webserver_version,
            read_only=read_only,
            code_server_log_level="WARNING",
        ) as workspace,
    ):
        # As Dagster's own webserver does.
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        yield workspace


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()
