"""The page's door: which requests come in, and the headers on what goes out. SECURITY.md says against what.

Pure ASGI (asgi.readthedocs.io, HTTP connection scope): it stands before everything else and imports nothing.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OURS = re.compile(r"/(pictures|restore)/.+|/openapi\.json")
NO_ROUTE = "path: expected a route of this page, got another; docs/page.md lists them"
GRADIO = re.compile(r"/|/(theme\.css|manifest\.json|favicon\.ico)|/(assets|static)(/[\w-][\w.-]*)+")
"""What Gradio's page loads. Its other routes take files, fetch URLs, run functions: they are closed."""

CONTENT = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's page is made of both
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "content-security-policy": "; ".join(f"{kind} {sources}" for kind, sources in CONTENT.items()),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Refuses what is not for this page, with one line; `host` is the name or address that the server is bound to."""

    def __init__(self, app: App, host: str) -> None:
        self.app = app
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, with_headers(send, private=OURS.fullmatch(scope["path"]) is not None))
        # a websocket that nobody accepts is closed by the server

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, line = refusal
        # without "connection: close", which would cost whoever is still sending a body the answer
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f"{line}\n".encode()})

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and line for a request that is not let in."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, path, method = headers.get("host", ""), scope["path"], scope["method"]
        if not self.known(host):
            return 421, f"host: expected this computer's name or address, got {host!r}; open the page under one of them"
        origin = headers.get("origin", f"http://{host}")
        site = headers.get("sec-fetch-site", "none")
        arriving = path == "/" and headers.get("sec-fetch-mode") == "navigate"  # a link from anywhere to the page
        if origin.partition("://")[2] != host or (site not in ("same-origin", "none") and not arriving):
            return 403, "origin: expected a request of this page, got one of another; open the page itself"
        if OURS.fullmatch(path) or (GRADIO.fullmatch(path) and method in ("GET", "HEAD")):
            return None
        return 404, NO_ROUTE

    def known(self, host: str) -> bool:
        """Is a Host header one of our names, or a bare address? Another site's name that was made to point here (DNS
        rebinding) is neither."""
        name = re.sub(r":\d+$", "", host).lower()
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self.names
        return True


def with_headers(send: Send, private: bool) -> Send:
    """`send`, with HEADERS on every response; private ones are kept in no cache."""
    ours = {**HEADERS, "cache-control": "no-store"} if private else HEADERS

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", []) if name.decode().lower() not in ours]
            message["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in ours.items())]
        await send(message)

    return wrapped
