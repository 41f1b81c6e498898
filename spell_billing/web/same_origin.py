"""Return whether a request comes from our own pages, so that no other site acts in a person's name."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def may_act(connection: HTTPConnection, public_url: str | None) -> bool:
    """Return whether a request with a cookie may do what it asks for.

    Looking is free, as nothing here changes by it. Anything else, a websocket included, must come from a page
    of this server: by `Sec-Fetch-Site`, which scripts cannot set, or in older browsers by `Origin`.
    See https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html.
    """
    if connection.scope["type"] == "http" and connection.scope["method"] in _SAFE_METHODS:
        return True
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    # A page with the policy no-referrer sends its forms with the origin `null`.
    if origin is None or origin == "null":
        return site == "same-origin"
    return _is_ours(origin, connection.headers.get("host", ""), public_url)


def _is_ours(origin: str, host: str, public_url: str | None) -> bool:
    if public_url is not None and origin == public_url:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and parts.netloc.lower() == host.lower()
