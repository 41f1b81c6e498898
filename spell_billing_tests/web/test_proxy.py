"""Behind a proxy: its word on the client's address counts only when it was named."""

from pathlib import Path

from spell_billing_tests.web.house import house

CLIENT = "192.0.2.7"


def test_without_a_named_proxy_nobody_invents_an_address(sqlite_url: str, tmp_path: Path) -> None:
    with house(sqlite_url, tmp_path / "house") as opened:
        opened.admit("GET", "/server_info", x_forwarded_for=CLIENT, x_forwarded_proto="https")
        line = opened.lines.wait_for(path="/server_info")
        tries = [
            opened.ask("GET", "/", secret="not-it", x_forwarded_for=f"192.0.2.{n}").status for n in range(8)
        ]
        cookie = opened.ask(
            "POST", "/login", "secret=x", x_forwarded_proto="https", sec_fetch_site="same-origin"
        )

    assert line["address"] == "127.0.0.1"
    assert tries[-1] == 429, "a new name for each try does not help"
    assert "strict-transport-security" not in cookie.headers


def test_a_named_proxy_tells_who_asks_and_how(sqlite_url: str, tmp_path: Path) -> None:
    with house(sqlite_url, tmp_path / "house", FORWARDED_ALLOW_IPS="10.0.0.1,127.0.0.0/8") as opened:
        forwarded = {"x_forwarded_for": f"203.0.113.9, {CLIENT}", "x_forwarded_proto": "https"}
        answer = opened.admit("GET", "/server_info", **forwarded)
        line = opened.lines.wait_for(path="/server_info")
        tries = [opened.ask("GET", "/", secret="not-it", x_forwarded_for=CLIENT).status for _ in range(8)]
        other = opened.ask("GET", "/", secret="not-it", x_forwarded_for="192.0.2.8").status

    assert line["address"] == CLIENT, "the last one that the proxy itself saw"
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert tries[-1] == 429
    assert other == 401
