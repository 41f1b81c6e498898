"""The nginx configuration in docs/serve.md, run as written before the real server."""

import http.client
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spell_billing_tests.environments.servers import required_program
from spell_billing_tests.web.house import SECRET, House, house

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, int, Path, ssl.SSLContext]]:
    """Serve behind nginx: the server, the port with TLS, the folder of nginx, and what trusts it."""
    nginx = required_program("nginx", "no nginx is installed here")
    home, folder = tmp_path_factory.mktemp("house"), tmp_path_factory.mktemp("nginx")
    key, certificate = str(folder / "billing.key"), str(folder / "billing.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    made += ["-addext", "subjectAltName=DNS:billing.example.com", "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=certificate)
    (home / "billing.db").touch()
    proxied: dict[str, Any] = {
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "SPELL_BILLING_PUBLIC_URL": "https://billing.example.com",
        "USER_HEADER": "X-Forwarded-User",
        "ADMIN_SECRETS": "anna:approve:proxy",
    }
    with house(f"sqlite:///{home / 'billing.db'}", home, **proxied) as opened:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (block,) = re.findall(r"```nginx\n(.+?)```", DOCS.read_text(), re.DOTALL)
        text = block.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        text = text.replace("/etc/ssl/", f"{folder}/").replace(":3000", f":{opened.address[1]}")
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"pid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\nevents {{}}\n"
            f"http {{\naccess_log {folder}/access.log;\n{temporary}{text}\n}}\n"
        )
        command = [nginx, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        with subprocess.Popen(command) as running:
            _wait_for(port)
            yield opened, port, folder, trusting
            running.terminate()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx does not listen")


def _logged(folder: Path, last: str) -> str:
    """Return nginx's log once a request is in it."""
    for _ in range(200):
        logged = (folder / "access.log").read_text()
        if last in logged:
            return logged
        time.sleep(0.05)
    raise AssertionError(f"nginx does not log {last}")


def ask(
    port: int, trusting: ssl.SSLContext, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection = http.client.HTTPSConnection("billing.example.com", port, timeout=20)
    connection.sock = trusting.wrap_socket(raw, server_hostname="billing.example.com")
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, named)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_the_documented_nginx_leads_to_the_server_and_tells_it_the_client(
    behind: tuple[House, int, Path, ssl.SSLContext],
) -> None:
    server, port, _, trusting = behind
    form = f"secret={SECRET}".encode()
    status, headers, _ = ask(port, trusting, "POST", "/login", form, sec_fetch_site="same-origin")
    forged = ask(port, trusting, "GET", "/billing", x_admin_secret=SECRET, x_forwarded_for="203.0.113.9")

    assert status == 303
    assert headers["set-cookie"].startswith("__Host-")
    assert "Secure" in headers["set-cookie"]
    assert forged[0] == 200
    assert server.lines.wait_for(path="/billing")["address"] == "127.0.0.1"
    # Who is signed in is the proxy's word: what a client says of itself does not pass.
    assert ask(port, trusting, "GET", "/billing", x_forwarded_user="anna")[0] == 401


def test_it_refuses_large_bodies_and_keeps_users_links_out_of_its_log(
    behind: tuple[House, int, Path, ssl.SSLContext],
) -> None:
    _, port, folder, trusting = behind
    assert ask(port, trusting, "POST", "/graphql", b"x" * 4_200_000, x_admin_secret=SECRET)[0] == 413
    assert ask(port, trusting, "GET", "/u/a-token-that-is-secret")[0] == 403
    assert ask(port, trusting, "GET", "/health")[0] == 200
    # It answers before it writes its log.
    assert "a-token-that-is-secret" not in _logged(folder, "/health")


def test_dagsters_websocket_passes(behind: tuple[House, int, Path, ssl.SSLContext]) -> None:
    _, port, _, trusting = behind
    status, headers, _ = ask(
        port,
        trusting,
        "GET",
        "/graphql",
        X_Admin_Secret=SECRET,
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Protocol="graphql-transport-ws",
    )
    assert status == 101
    assert headers["upgrade"].lower() == "websocket"


def test_graphql_passes(behind: tuple[House, int, Path, ssl.SSLContext]) -> None:
    _, port, _, trusting = behind
    body = json.dumps({"query": "{ version }"}).encode()
    status, _, answer = ask(
        port, trusting, "POST", "/graphql", body, X_Admin_Secret=SECRET, Content_Type="application/json"
    )
    assert (status, "version" in json.loads(answer)["data"]) == (200, True)
