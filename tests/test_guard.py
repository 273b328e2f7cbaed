"""The page's door, without a server: what comes in, and the headers on what goes out."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from synergic.guard import HEADERS, Guard, Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything."""
    headers = [(b"X-Frame-Options", b"ALLOWALL"), (b"x-other", b"kept")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"here"})


def ask(
    path: str, method: str = "GET", host: str = "127.0.0.1:7860", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one request."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    given = {"host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": raw}
    asyncio.run(Guard(app, "lab.example")(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"].decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/theme.css"),
        ("GET", "/assets/index-DphvyggB.js"),
        ("GET", "/static/js/iframeResizer.contentWindow.min.js"),
        ("PUT", "/restore/photo.jpg"),
        ("DELETE", "/pictures/token"),
        ("GET", "/pictures/token/views/restored"),
    ],
)
def test_the_page_comes_in(method: str, path: str) -> None:
    assert ask(path, method)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/run/predict"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://example.com/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/static/../../etc/passwd"),
        ("GET", "/assets/.hidden"),
        ("GET", "/svelte/x"),
        ("GET", "/docs"),
        ("GET", "/pictures/"),
    ],
)
def test_the_rest_of_gradio_is_closed(method: str, path: str) -> None:
    status, _, body = ask(path, method)
    assert status == 404
    assert body == "path: expected a route of this page, got another; docs/page.md lists them\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7860", "[::1]:7860", "192.168.1.20:7860", "LAB.example:80"])
def test_own_names_and_bare_addresses_are_known(host: str) -> None:
    assert ask("/", host=host)[0] == 200


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example:7860", "localhost.evil.example"])
def test_a_foreign_name_that_points_here_is_refused(host: str) -> None:
    status, _, body = ask("/", host=host)
    assert status == 421
    assert body.startswith("host: expected this computer's name or address, got")
    assert body.count("\n") == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
def test_other_sites_are_refused(headers: dict[str, str]) -> None:
    status, answered, body = ask("/pictures/token", **headers)
    assert status == 403
    assert body == "origin: expected a request of this page, got one of another; open the page itself\n"
    assert not any(name.startswith("access-control") for name in answered)


def test_the_page_itself_and_links_to_it_are_let_in() -> None:
    assert ask("/pictures/token", origin="http://127.0.0.1:7860", sec_fetch_site="same-origin")[0] == 200
    assert ask("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert ask("/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403


@pytest.mark.parametrize(
    ("path", "cached"), [("/", None), ("/pictures/token", "no-store"), ("/restore/a.png", "no-store")]
)
def test_headers_are_on_every_answer(path: str, cached: str | None) -> None:
    for host, status in (("localhost", 200), ("evil.example", 421)):
        got, headers, _ = ask(path, host=host)
        assert got == status
        assert HEADERS.items() <= headers.items()
        assert headers.get("cache-control") == cached
        assert "X-Frame-Options" not in headers
    assert ask("/")[1]["x-other"] == "kept"
    policy = dict(part.split(" ", 1) for part in HEADERS["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == "'self'"
    assert policy["object-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"


def test_websockets_are_not_answered() -> None:
    async def unused(*_: object) -> Any:
        raise AssertionError

    asyncio.run(Guard(app, "localhost")({"type": "websocket", "path": "/", "headers": []}, unused, unused))
