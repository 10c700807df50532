"""The door of the web server that `leora dev` starts: it answers to its own pages alone.

Dagster's web server has no login, takes GraphQL mutations by GET too, and looks at neither Host nor
Origin. Any page that is open in a browser on the same machine could launch a run: by an image's
address, a form, a WebSocket, or a name of its own that it lets point to 127.0.0.1. What does not
belong here: starting the server, which is `web_server`'s.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_NAMES = ("127.0.0.1", "localhost", "[::1]")


class OwnPagesOnly:
    """Refuses, with 403 and one line, what another page may have sent; WebSockets too.

    A browser says in Host by which name it has found the server, and in Origin and Sec-Fetch-Site
    which page asks; no page can write these headers itself. A script such as curl sends no more
    than Host.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        """Puts it before an application that is served at a port of this machine."""
        self._app = app
        self._url = f"http://{_NAMES[0]}:{port}"
        self._hosts = {f"{name}:{port}" for name in _NAMES}
        if port == 80:  # The port that a browser leaves out.
            self._hosts |= set(_NAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(f"{refusal}\n", status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        """Returns why a request is refused; None where it is not."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return f"The request is for another host; this is {self._url}"
        origin = f"http://{hosts[0].lower()}"
        # "none" is what a person typed, or has as a bookmark. Links of other sites are refused as
        # well: a frame around the page would let them lead a person's clicks.
        if any(sent.lower() != origin for sent in headers.getlist("origin")) or any(
            site not in {"same-origin", "none"} for site in headers.getlist("sec-fetch-site")
        ):
            return f"The request comes from another site; open {self._url} by its address"
        # A prefix, since the router's pattern also takes the path with a line break behind it.
        if scope["type"] == "http" and scope["path"].startswith("/graphql"):
            return _graphql_refusal(scope["method"], headers)
        return None


def _graphql_refusal(method: str, headers: Headers) -> str | None:
    """Returns why a request for GraphQL is refused: what a form or an address can send, is.

    The pages ask by POST of JSON alone. By GET there is the page to type queries into, which the
    server sends, without looking at the query, to whoever accepts HTML.
    """
    if method == "GET" and "text/html" in headers.get("accept", ""):
        return None
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media_type == "application/json":
        return None
    return "GraphQL takes POST with Content-Type: application/json alone"
