"""The page as its visitors meet it: a server of its own process, asked over HTTP and through Chromium."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import numpy as np
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Download, Page, Route, sync_playwright
from skimage.data import chelsea

from conftest import find_chromium, save
from soak import LIMITS, Server, soak, wait_until
from synergic import cli, desk
from synergic.batch import Options
from synergic.desk import GoneError, Limits
from synergic.errors import SynergicError
from synergic.images import Picture, write_picture
from synergic.restore import Restorer
from test_desk import film

pytest.importorskip("gradio", reason="the page's extra is not installed: pip install 'synergic[serve]'")
from synergic import web

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests. At the end: it left by Ctrl-C, asked nobody outside, logged nothing, left nothing."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.end()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A noisy photograph as JPEG, 451 x 300."""
    noise = np.random.default_rng(0).normal(0, 12, (300, 451, 3))
    noisy = np.clip(np.ascontiguousarray(chelsea()) + noise, 0, 255).astype(np.uint8)
    return save(tmp_path / "photo.jpg", noisy)


def by_command(source: Path, *options: object) -> bytes:
    """What `synergic restore` writes."""
    target = source.parent / "command" / source.name
    command = [sys.executable, "-m", "synergic", "restore", source, "-o", target, "--overwrite", *options]
    subprocess.run([str(part) for part in command], check=True, env=ENVIRONMENT)
    return target.read_bytes()


# ---- the command


def serve(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, list[Limits]]:
    """The command in this process, up to where it would serve: its exit code, and the limits it would serve with."""
    given: list[Limits] = []

    def ready_at_once(_listening: object, _host: str, limits: Limits, ready: Callable[[], None]) -> None:
        given.append(limits)
        ready()

    monkeypatch.setattr(web, "serve", ready_at_once)
    monkeypatch.setattr(sys, "argv", ["synergic", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0), given


def test_only_other_addresses_than_this_computers_are_warned_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        assert serve(monkeypatch, "--host", host, "--port", 0) == (0, [Limits()])
        captured = capsys.readouterr()
        assert captured.out.startswith(f"http://{host}:")
        line = f"synergic: warning: everyone who reaches {host} can use it; see SECURITY.md\n"
        assert captured.err == (line if warned else "")


def test_a_taken_port_and_an_unknown_host_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with web.listen("127.0.0.1", 0) as taken:
        assert serve(monkeypatch, "--port", taken.getsockname()[1]) == (2, [])
    assert serve(monkeypatch, "--host", "256.256.256.256") == (2, [])
    assert serve(monkeypatch, "--host", "foo..bar") == (2, [])
    first, second, third = capsys.readouterr().err.splitlines()
    assert third.startswith("synergic: foo..bar:7860: expected a free port of this computer, got")
    assert re.match(r"synergic: 127.0.0.1:\d+: expected a free port of this computer, got .*; try --port 0", first)
    assert second.startswith("synergic: 256.256.256.256:7860: expected a free port of this computer, got")


def test_limits_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Limits(file_bytes=2_000_000, pixels=3_000_000, seconds=5.0, line=6)
    assert serve(monkeypatch, "--port", 0, "--max-seconds", 5, *LIMITS) == (0, [expected])


@pytest.mark.parametrize(
    ("option", "value"),
    [("bytes", -5), ("pixels", 0), ("line", 0), ("seconds", 0), ("seconds", "nan"), ("seconds", "inf")],
)
def test_a_limit_that_refuses_or_allows_all_is_refused(
    option: str, value: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serve(monkeypatch, "--port", 0, f"--max-{option}", value) == (2, [])
    assert capsys.readouterr().err.startswith("synergic: ")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_termination_deletes_everything_too(tmp_path: Path, name: str) -> None:
    code = "import signal\nimport synergic.web as web\nfrom synergic.cli import main\n"
    code += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # or tests under nohup would wait for ever
    code += "web.build_app = lambda desk: desk.accept('a.png') and print(len(desk.held), flush=True)\nmain()"
    command = [sys.executable, "-c", code, "serve", "--port", "0"]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        assert "is ready" in process.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_the_end_cuts_off_is_no_error(tmp_path: Path) -> None:
    """And what a server that was killed has left is deleted."""
    (tmp_path / "synergic-page-left" / "token").mkdir(parents=True)
    command = [sys.executable, "-m", "synergic", "serve", "--port", "0"]
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **piped, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None and process.stderr is not None
        port = int(re.findall(r":(\d+) is ready", process.stdout.readline())[0])
        assert not (tmp_path / "synergic-page-left").exists()
        with socket.create_connection(("127.0.0.1", port)) as upload:
            head = f"PUT /pictures/a.png HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 9\r\n\r\nhalf"
            upload.sendall(head.encode())
            wait_until(lambda: any(tmp_path.rglob("*.png")))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        told = [line for line in process.stderr.read().splitlines() if line]  # one ends the terminal's ^C
    assert [line for line in told if "Cancel 1 running task" not in line] == []
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_one_line_and_keeps_no_half_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(path: Path, _: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    class Body:
        headers: ClassVar[dict[str, str]] = {}

        async def stream(self) -> AsyncIterator[bytes]:
            yield b"x"
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fill)
    monkeypatch.setattr(Restorer, "__call__", lambda _, pixels, **__: pixels)
    held = desk.Desk(tmp_path / "desk", Limits(), Options())
    held.folder.mkdir()
    line = "disk: No space left on device; try again later"
    with TestClient(web.build_routes(held)) as client:
        picture = save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8)).read_bytes()
        path = f"/pictures/{client.put('/pictures/a.png', content=picture).json()['token']}"
        client.post(f"{path}/run")
        wait_until(lambda: client.get(path).json()["state"] == "failed")
        assert client.get(path).json()["error"] == line
        assert list(held.folder.rglob("new*")) == []
        assert client.put("/restore/a.png", content=picture).text == f"{line}\n"
        assert client.put("/restore/a.png", content=picture).status_code == 503
    with pytest.raises(desk.FullError, match=line):
        asyncio.run(web.Routes(held)._receive(Body(), "a.png"))
    held.close()
    assert caplog.text == ""


def test_the_page_offers_the_tasks_that_there_are_weights_for(
    make_weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "published_weights", lambda: {"photo": make_weights("photo"), "x": make_weights("jpeg")})
    assert web.offered_tasks() == ["auto", "photo", "jpeg"]


@pytest.mark.parametrize(("sent", "read"), [(15, 15), (1000, 21)])
def test_what_is_a_little_too_large_is_read_to_its_end(tmp_path: Path, sent: int, read: int) -> None:
    """Whoever is still sending when the connection is closed would lose the answer. What is far too large is not."""
    taken = []

    class Large:
        headers: ClassVar[dict[str, str]] = {}

        async def stream(self) -> AsyncIterator[bytes]:
            for number in range(sent):
                taken.append(number)
                yield bytes(10)

    held = desk.Desk(tmp_path, Limits(file_bytes=100), Options())
    with pytest.raises(SynergicError, match="file: expected at most 100 bytes, got more"):
        asyncio.run(web.Routes(held)._receive(Large(), "a.png"))
    assert len(taken) == read
    assert held.held == {}
    held.close()


def test_an_upload_that_takes_too_long_ends(tmp_path: Path) -> None:
    class Slow:
        headers: ClassVar[dict[str, str]] = {}

        async def stream(self) -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.sleep(60)

    held = desk.Desk(tmp_path, Limits(seconds=0.05), Options())
    with pytest.raises(SynergicError, match="upload: expected it within 0.05 seconds, got more"):
        asyncio.run(web.Routes(held)._receive(Slow(), "a.png"))
    assert held.held == {}
    held.close()
    assert list(tmp_path.iterdir()) == []


def test_an_upload_is_in_use_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep between two of its pieces, each after long idleness; every touch of the disk in a thread of its own."""
    touched = []
    accept = desk.Desk.accept

    def accepts(self: desk.Desk, name: str, size: int) -> str:
        touched.append(threading.current_thread())
        return accept(self, name, size)

    class Long:
        headers: ClassVar[dict[str, str]] = {}

        async def stream(self) -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x"
                held.sweep()
                for picture in held.held.values():
                    picture.last_use -= 0.6 * held.limits.idle_seconds

    monkeypatch.setattr(desk.Desk, "accept", accepts)
    held = desk.Desk(tmp_path, Limits(), Options())
    token = asyncio.run(web.Routes(held)._receive(Long(), "a.png"))
    assert held.find(token).source.read_bytes() == b"xxx"
    assert touched[0] is not threading.main_thread()
    held.close()


def test_what_breaks_here_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Restorer, "__call__", breaks)
    held = desk.Desk(tmp_path / "desk", Limits(), Options())
    held.folder.mkdir()
    picture = save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8)).read_bytes()
    with TestClient(web.build_routes(held), raise_server_exceptions=False) as client:
        answer = client.put("/restore/a.png", content=picture)
    line = "picture: expected to restore it, got RuntimeError; the log of `synergic serve` says more\n"
    assert (answer.status_code, answer.text) == (500, line)
    assert held.held == {}
    held.close()


# ---- over HTTP


def test_the_documented_curl_lines_give_the_commands_bytes(server: Server, photo: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    document = (Path(__file__).parents[1] / "docs" / "page.md").read_text()
    lines = re.findall(r"^curl .+$", document, re.MULTILINE)
    assert len(lines) == 2
    for line, options in zip(lines, [(), ("--task", "denoise", "--sigma", "20", "--strength", "0.8")], strict=True):
        (photo.parent / "clean.jpg").unlink(missing_ok=True)
        here = line.replace("http://127.0.0.1:7860", server.url)
        subprocess.run([*shlex.split(here), "--silent", "--show-error"], check=True, cwd=photo.parent)
        assert (photo.parent / "clean.jpg").read_bytes() == by_command(photo, *options)
    wait_until(lambda: server.files() == [])


def test_a_picture_from_hand_in_to_forgetting(server: Server, photo: Path) -> None:
    handed = server.tell("PUT", "/pictures/x.jpg", photo.read_bytes())
    assert {key: handed[key] for key in ("width", "height", "task")} == {"width": 451, "height": 300, "task": "photo"}
    picture = f"/pictures/{handed['token']}"
    assert server.tell("GET", picture) == {"state": "new"}
    assert server.ask("GET", f"{picture}/file")[0] == 404
    assert server.tell("POST", f"{picture}/run?task=photo")["state"] in ("waiting", "running")
    wait_until(lambda: server.tell("GET", picture)["state"] == "restored")
    status, half = server.ask("GET", f"{picture}/file?strength=0.5")
    assert status == 200
    assert half == by_command(photo, "--strength", "0.5")
    assert server.ask("GET", f"{picture}/views/restored")[1][:2] == b"\xff\xd8"
    assert server.ask("GET", f"{picture}/views/source")[0] == 404
    assert server.ask("DELETE", picture)[0] == 204
    assert server.ask("GET", picture)[0] == 404
    wait_until(lambda: server.files() == [])


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        (
            "/restore/a.txt",
            400,
            "picture: expected a name ending in one of .jfif .jpe .jpeg .jpg .png .tif .tiff .webp, got '.txt'",
        ),
        ("/restore/a.png", 400, "picture: cannot be read: "),
        ("/restore/a.png?task=cook", 400, "task: Input should be 'auto', 'denoise', 'photo' or 'jpeg', got 'cook'"),
        ("/restore/a.png?sigma=much", 400, "sigma: Input should be a valid number"),
        ("/restore/a.png?sigma=300", 400, "sigma: expected 0 to 255, got 300.0"),
        ("/restore/a.png?sigma=nan", 400, "sigma: expected 0 to 255, got nan"),
        ("/restore/a.png?quality=0", 400, "quality: expected 1 to 100, got 0"),
        ("/restore/a.png?task=jpeg&quality=101", 400, "quality: expected 1 to 100, got 101"),
        ("/restore/a.png?strength=2", 400, "strength: expected 0 to 1, got 2.0"),
        ("/pictures/..%2F..%2Fa.png", 404, ""),
    ],
)
def test_bad_requests_are_one_line(server: Server, path: str, status: int, line: str) -> None:
    got, body = server.ask("PUT", path, b"not a picture")
    assert got == status
    assert body.decode().startswith(line)
    assert body.count(b"\n") <= 1
    assert str(server.temporary).encode() not in body
    wait_until(lambda: server.files() == [])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/restore/a.png"),
        ("PUT", "/restore/a%2Fb.png"),
        ("PUT", "/pictures/token/run"),
        ("PATCH", "/pictures/token"),
        ("GET", "/pictures/token/other"),
        ("PROPFIND", "/pictures/token"),
        ("TRACE", "/restore/a.png"),
    ],
)
def test_what_no_route_takes_is_one_line(server: Server, method: str, path: str) -> None:
    line = b"path: expected a route of this page, got another; docs/page.md lists them\n"
    assert server.ask(method, path) == (404, line)


def test_size_is_limited_while_it_streams_in(server: Server, tmp_path: Path) -> None:
    line = b"file: expected at most 2,000,000 bytes, got more; make it smaller\n"
    assert server.ask("PUT", "/restore/a.png", b"x" * 2_000_001) == (413, line)
    chunks = (b"x" * 100_000 for _ in range(21))  # 2.1 MB, the length not told
    assert server.ask("PUT", "/restore/a.png", chunks, **{"transfer-encoding": "chunked"}) == (413, line)
    large = save(tmp_path / "a.png", np.zeros((2000, 1501, 1), np.uint8))
    status, body = server.ask("PUT", "/restore/a.png", large.read_bytes())
    assert (status, b"expected at most 3,000,000 pixels, got 1501 x 2000" in body) == (400, True)
    wait_until(lambda: server.files() == [])


def test_a_full_line_says_so(server: Server, tmp_path: Path) -> None:
    large = save(tmp_path / "a.png", np.zeros((1500, 1500, 3), np.uint8))
    tokens = [server.hand_in(large) for _ in range(7)]
    answers = [server.ask("POST", f"/pictures/{token}/run") for token in tokens]
    assert [status for status, _ in answers] == [202] * 6 + [503]
    assert answers[6][1] == b"line: expected at most 6 pictures, got one more; try again later\n"
    assert server.ask("DELETE", f"/pictures/{tokens[5]}/run")[0] == 204
    assert server.tell("GET", f"/pictures/{tokens[5]}") == {"state": "stopped"}
    for token in tokens:
        server.ask("DELETE", f"/pictures/{token}")
    wait_until(lambda: server.files() == [])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_visitors_get_what_is_theirs(server: Server) -> None:
    """`python tests/soak.py --count 500` is the same at length."""
    given, before, after = soak(server, 100)
    kinds = {"restored": 30, "restored step by step": 10, "left": 10, "status 400": 30, "status 403": 10}
    assert given == {**kinds, "status 413": 10}
    assert after < 1.05 * before


def test_other_sites_and_the_rest_of_gradio_are_shut_out(server: Server) -> None:
    assert server.ask("GET", "/")[0] == 200
    assert server.ask("GET", "/", host="evil.example")[0] == 421
    assert server.ask("PUT", "/restore/a.png", b"", origin="https://evil.example")[0] == 403
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/0", "/gradio_api/cancel"):
        assert server.ask("POST", path, b"{}")[0] == 404
    for path in ("file=/etc/hostname", "proxy=http://127.0.0.1/", "info", "openapi.json", "runs"):
        assert server.ask("GET", f"/gradio_api/{path}")[0] == 404


def test_a_picture_forgotten_while_it_is_sent_is_sent_whole(tmp_path: Path) -> None:
    """And one forgotten before that is gone, in one line."""
    file, content = tmp_path / "restored.jpg", bytes(range(256)) * 3000
    file.write_bytes(content)
    response = web.opened(file)
    file.unlink()

    async def body() -> bytes:
        return b"".join([bytes(piece) async for piece in response.body_iterator])

    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["content-length"] == "768000"
    assert asyncio.run(body()) == content
    with pytest.raises(GoneError, match="expected one that is still here, got none; hand it in again"):
        web.opened(file)


def test_who_sends_on_after_a_refusal_reads_it(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as sender:
        for _ in range(2):  # and asks again on the same connection
            sender.sendall(b"POST /runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
            answer = sender.recv(4)
            sender.sendall(bytes(1_000_000))
            while not answer.endswith(b"0\r\n\r\n"):
                more = sender.recv(1000)
                assert more, "hung up"
                answer += more
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"path: expected a route of this page, got another" in answer


def test_the_description_names_every_route(server: Server) -> None:
    described = server.tell("GET", "/openapi.json")["paths"]
    document = (Path(__file__).parents[1] / "docs" / "page.md").read_text()
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert len(routes) == 10
    assert all({"4XX", "503"} < set(said["responses"]) for methods in described.values() for said in methods.values())
    assert not any("422" in said["responses"] for methods in described.values() for said in methods.values())
    assert routes == set(re.findall(r"^\| `([A-Z]+ /[^`?]+)", document, re.MULTILINE))


def test_a_view_is_drawn_when_asked_for(server: Server, tmp_path: Path) -> None:
    picture = f"/pictures/{server.hand_in(save(tmp_path / 'a.png', np.zeros((40, 60, 3), np.uint8)))}"
    view = f"{picture}/views/Where%20it%20borrowed"
    line = b"view: expected one that can be drawn, got 'Where it borrowed'; restore the picture first\n"
    assert server.ask("POST", view) == (404, line)
    server.tell("POST", f"{picture}/run")
    wait_until(lambda: server.tell("GET", picture)["state"] == "restored")
    assert server.ask("GET", view)[0] == 404
    assert server.tell("POST", view)["drawings"]["Where it borrowed"]["state"] in ("waiting", "running")
    wait_until(lambda: server.tell("GET", picture)["drawings"]["Where it borrowed"] == {"state": "drawn"})
    assert server.ask("GET", view)[1][:2] == b"\xff\xd8"
    assert server.ask("DELETE", view)[0] == 204
    assert server.ask("DELETE", picture)[0] == 204


# ---- through Chromium


@pytest.mark.parametrize(("ci", "end"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_chromium_tests_are_skipped_but_fail_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, end: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(end, match="chromium: expected it for tests of pages, got none; apt-get install chromium"):
        find_chromium()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    chromium = find_chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """Opens the page; returns it with the list of requests, which grows. At the end: none left this machine, nothing
    was blocked, no script failed."""
    opened, requests, troubles = [], list[str](), list[str]()

    def open_it(width: int = 1280, height: int = 860, touch: bool = False) -> tuple[Page, list[str]]:
        context = browser.new_context(viewport={"width": width, "height": height}, has_touch=touch)
        opened.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.goto(server.url)
        page.wait_for_selector(".drop")
        return page, requests

    yield open_it
    for context in opened:
        context.close()
    local = re.compile(rf"\w+ (blob:)?{re.escape(server.url)}/|\w+ data:")
    assert [request for request in requests if not local.match(request)] == []
    # a bad upload, what is no longer there, what runs already; and what tests let a proxy say, or a connection lose
    expected = re.compile("the server responded with a status of (40[049]|50[234])|net::ERR_FAILED")
    assert [trouble for trouble in troubles if not expected.search(trouble)] == []


def states(page: Page) -> list[str]:
    return [str(name.get_attribute("class")) for name in page.locator(".names li").all()]


def test_drop_restore_slide_download(
    open_page: Callable[..., tuple[Page, list[str]]], server: Server, photo: Path, tmp_path: Path
) -> None:
    page, requests = open_page()
    assert page.locator("#panel").is_hidden()
    page.set_input_files(".drop input", photo)
    wait_until(lambda: states(page) == ["restored"])
    after, viewer = page.locator("img.restored"), page.locator(".viewer")
    wait_until(lambda: after.evaluate("image => image.naturalWidth") == 451)
    assert page.locator("img.degraded").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [451, 300]

    box = viewer.bounding_box()
    assert box is not None
    assert page.locator(".handle").get_attribute("aria-valuenow") == "50"
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert page.locator(".handle").get_attribute("aria-valuenow") == "25"
    cut = float(re.findall(r"[\d.]+(?=px)", after.evaluate("image => image.style.clipPath"))[-1])
    assert cut == pytest.approx(451 / 4, abs=1)  # in pixels of the picture

    page.locator(".in").click()
    page.mouse.wheel(0, -300)
    assert "zoomed" in str(viewer.get_attribute("class"))
    page.locator(".fit").click()
    assert "zoomed" not in str(viewer.get_attribute("class"))

    before = len([request for request in requests if request.startswith("POST")])
    page.locator("#strength input[type=number]").fill("40")
    wait_until(lambda: after.evaluate("image => image.style.opacity") == "0.4", 5)
    assert len([request for request in requests if request.startswith("POST")]) == before == 1
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "photo-restored.jpg"
    download.value.save_as(tmp_path / "downloaded.jpg")
    assert (tmp_path / "downloaded.jpg").read_bytes() == by_command(photo, "--strength", "0.4")

    assert server.files() != []
    page.goto("about:blank")
    wait_until(lambda: server.files() == [], 10)


def test_several_on_a_phone_with_a_broken_one_and_another_task(
    open_page: Callable[..., tuple[Page, list[str]]], photo: Path, tmp_path: Path
) -> None:
    page, requests = open_page(390, 844, touch=True)
    (tmp_path / "<b>broken.png").write_bytes(b"not a picture")
    deep = np.random.default_rng(1).integers(0, 65536, (40, 30, 3), np.uint16)
    write_picture(tmp_path / "deep.tif", Picture(deep, None, {}, None))
    page.set_input_files(".drop input", [photo, tmp_path / "<b>broken.png", tmp_path / "deep.tif"])
    wait_until(lambda: states(page) == ["restored", "failed", "restored"])
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    names = page.locator(".names li button:first-child")
    assert names.all_inner_texts() == ["photo.jpg", "<b>broken.png", "deep.tif"]
    names.nth(1).click()
    assert page.locator(".trouble").inner_text().startswith("<b>broken.png: cannot be read: ")
    names.nth(2).click()
    assert page.locator(".trouble").is_hidden()
    wait_until(lambda: page.locator("img.restored").evaluate("image => image.naturalWidth") == 30)

    offered = [web.WORDS[task] for task in web.offered_tasks()]
    assert page.locator("#task label").all_inner_texts() == offered
    assert page.locator("#sigma").is_hidden()
    assert page.locator("#again").is_hidden()
    page.locator("#task label", has_text="Even grain").click()
    page.locator("#sigma input, #sigma textarea").fill("25")
    page.locator("#again").click()
    wait_until(lambda: any("run?task=denoise&sigma=25" in request for request in requests), 5)
    wait_until(lambda: states(page)[2] == "restored")
    assert page.locator("#again").is_hidden()
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "downloaded.tif")
    asked = ("--task", "denoise", "--sigma", "25")
    assert (tmp_path / "downloaded.tif").read_bytes() == by_command(tmp_path / "deep.tif", *asked)
    page.get_by_role("button", name="Remove photo.jpg").click()
    assert states(page) == ["failed", "restored"]


def test_progress_and_cancel(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    page, _ = open_page()
    flat = save(tmp_path / "large.png", np.zeros((1500, 1900, 3), np.uint8))
    page.set_input_files(".drop input", flat)
    status = page.locator(".progress span")
    wait_until(lambda: re.fullmatch(r"About \d+ (seconds|minutes) left", status.inner_text()) is not None)
    bar = page.locator("progress")
    assert 0 < bar.evaluate("bar => bar.value") < bar.evaluate("bar => bar.max") == 1
    page.set_viewport_size({"width": 390, "height": 844})
    places = [bar.bounding_box(), page.locator(".cancel").bounding_box()]
    (top, left, right), (cancel_top, cancel_left, cancel_right) = (
        (place["y"], place["x"], place["x"] + place["width"]) for place in places if place is not None
    )
    assert cancel_top < top and 0 < left < right < cancel_left < cancel_right < 390, (
        "beside the bar, on a phone as well"
    )
    page.locator(".cancel").click()
    wait_until(lambda: states(page) == ["stopped"])
    assert page.locator(".progress").is_hidden()
    assert page.locator("#again").is_visible()


def test_where_it_borrowed(open_page: Callable[..., tuple[Page, list[str]]], photo: Path, tmp_path: Path) -> None:
    page, requests = open_page()
    button, legend, drawing = (page.locator(part) for part in (".drawings button", ".legend", "img.drawing"))
    assert button.is_hidden()
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    page.set_input_files(".drop input", tmp_path / "broken.png")
    wait_until(lambda: states(page) == ["failed"])
    assert button.is_hidden()
    page.set_input_files(".drop input", photo)
    wait_until(lambda: states(page) == ["failed", "restored"])

    button.click()
    assert page.locator(".progress span").inner_text() == "Drawing…"
    page.locator(".cancel").click()
    assert page.locator(".progress").is_hidden()
    assert any(re.match("DELETE .*/views/Where%20it%20borrowed", request) for request in requests)
    assert button.get_attribute("aria-pressed") == "false"

    button.click()
    wait_until(lambda: button.get_attribute("aria-pressed") == "true")
    wait_until(lambda: drawing.evaluate("image => image.naturalWidth") == 451)
    assert page.locator(".progress").is_hidden()
    assert legend.inner_text() == desk.DRAWINGS["Where it borrowed"].legend
    over = [page.locator(f".viewer .{part}") for part in ("handle", "before", "after")]
    assert [part.is_visible() for part in over] == [False] * 3
    button.click()
    assert [part.is_visible() for part in over] == [True] * 3
    assert drawing.is_hidden()
    assert legend.is_hidden()

    names = page.locator(".names li button:first-child")
    names.first.click()
    assert button.is_hidden()
    names.last.click()
    button.click()
    drawing.wait_for()
    page.locator("#task label", has_text="Even grain").click()
    page.locator("#again").click()
    wait_until(lambda: page.locator("#again").is_hidden() and states(page)[1] == "restored")
    assert drawing.is_hidden(), "it showed the run before"


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_drawing_that_fails_says_so_and_can_be_tried_again(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path, method: str
) -> None:
    page, _ = open_page()
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])
    button, trouble = page.locator(".drawings button"), page.locator(".trouble")

    def refuse(route: Route) -> None:
        if route.request.method == method:
            route.fulfill(status=400, body="line: expected room, got none")
        else:
            route.continue_()

    page.route("**/views/Where*", refuse)
    button.click()
    trouble.wait_for()
    said = {"POST": "line: expected room, got none", "GET": "drawing: expected to get it, got no answer; try again"}
    assert trouble.inner_text() == f"a.png: {said[method]}"
    assert button.get_attribute("aria-pressed") == "false"
    page.unroute("**/views/Where*")
    button.click()
    wait_until(lambda: page.locator("img.drawing").evaluate("image => image.naturalWidth") == 60)
    assert trouble.is_hidden()


def test_fields_are_checked_and_the_choice_is_told(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, requests = open_page()
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])
    made, trouble, name = page.locator(".made"), page.locator(".trouble"), page.locator(".names button").first
    assert made.inner_text() == "Camera noise removed, as Automatic chose"
    assert page.locator(".told").inner_text() == made.inner_text(), "and a screen reader says so"
    assert re.fullmatch("a.png, 60 . 40, Camera noise removed, as Automatic chose", str(name.get_attribute("title")))
    for task, field, top, given in (
        ("Even grain", "#sigma", "Grain: expected 0 to 255", "much"),
        ("JPEG blocks", "#quality", "JPEG quality: expected 1 to 100", "7.5"),
        ("JPEG blocks", "#quality", "JPEG quality: expected 1 to 100", "0"),
    ):
        page.locator("#task label", has_text=task).click()
        box = page.locator(f"{field} input, {field} textarea")
        box.fill(given)
        trouble.wait_for()
        assert trouble.inner_text() == f"{top}, got {given}; leave it empty if it is not known"
        page.locator("#again").click()
        page.wait_for_timeout(300)
        assert len([request for request in requests if request.startswith("POST")]) == 1
        box.fill("")
        trouble.wait_for(state="hidden")
    page.locator("#quality input, #quality textarea").fill("35")
    page.locator("#again").click()
    wait_until(lambda: made.inner_text() == "JPEG blocks removed")
    assert any("run?task=jpeg&quality=35" in request for request in requests)


def test_what_could_not_come_along_stands_under_the_picture(
    open_page: Callable[..., tuple[Page, list[str]]], server: Server, tmp_path: Path
) -> None:
    page, _ = open_page()
    source, plain = film(tmp_path / "a.jpg"), save(tmp_path / "b.png", np.zeros((8, 8, 3), np.uint8))
    page.set_input_files(".drop input", [source, plain])
    wait_until(lambda: states(page) == ["restored"] * 2)
    warnings = page.locator(".warnings")
    line = "left out: what stands behind the picture (a film, a gain map or another picture)"
    assert warnings.text_content() == line
    page.locator(".names button", has_text="b.png").first.click()
    assert warnings.is_hidden()
    for path, wanted in ((source, line), (plain, None)):
        request = Request(f"{server.url}/restore/{path.name}", path.read_bytes(), method="PUT")
        with urlopen(request) as response:
            assert response.headers.get("Synergic-Warnings") == wanted


def test_all_again_and_one_too_many(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    page, requests = open_page()
    gray = save(tmp_path / "a.png", np.zeros((40, 60, 1), np.uint8))
    page.set_input_files(".drop input", [gray] * 101)
    line = "pictures: expected at most 100 in all, got 101; remove some first"
    assert page.locator(".trouble").inner_text() == line
    assert states(page) == []
    page.set_input_files(".drop input", [gray] * 2)
    wait_until(lambda: states(page) == ["restored"] * 2)
    assert page.locator(".trouble").is_hidden()
    assert len([request for request in requests if request.startswith("PUT")]) == 2
    assert page.locator("#again-all").is_hidden()
    page.locator("#task label", has_text="Even grain").click()
    page.locator("#again-all").click()
    wait_until(lambda: page.locator("#again-all").is_hidden() and states(page) == ["restored"] * 2)
    assert len([request for request in requests if "run?task=denoise" in request]) == 2


CANCEL_AT = """(moment) => {
  window.lost = 0;
  const real = fetch, cancel = () => document.querySelector(".cancel").click();
  window.fetch = async (path, options) => {
    if (options.method === "DELETE" && (moment === "lost" || (moment === "lost once" && !window.lost++)))
      throw new TypeError("no network");
    if (moment === "asking" && options.method === "POST") cancel();
    const response = await real(path, options);
    const json = response.json.bind(response);
    response.json = async () => {
      const read = await json();
      if (moment === "sent" && options.method === "PUT") cancel();
      return read;
    };
    return response;
  };
}"""
"""Cancels when an upload has just ended ("sent"), or while the run is asked for; or loses the connection to cancel."""


@pytest.mark.parametrize(("moment", "asked"), [("sent", []), ("asking", ["POST", "DELETE"])])
def test_a_cancel_is_never_lost(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path, moment: str, asked: list[str]
) -> None:
    page, requests = open_page()
    page.evaluate(CANCEL_AT, moment)
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((400, 600, 3), np.uint8)))
    wait_until(lambda: states(page) == ["stopped"])
    assert page.locator(".progress").is_hidden()
    assert [request.split()[0] for request in requests if re.search(r"/run(\?|$)", request)] == asked


def test_a_cancel_that_does_not_arrive_is_sent_again(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, _ = open_page()
    page.evaluate(CANCEL_AT, "lost once")
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((1700, 1700, 3), np.uint8)))
    page.locator(".names .running").wait_for()
    page.locator(".cancel").click()
    wait_until(lambda: states(page) == ["stopped"])
    assert page.evaluate("window.lost") >= 1


def test_a_proxy_that_fails_for_a_moment_costs_nothing(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    """Neither one of the questions how far it is, nor the answer to the start of a run."""
    page, _ = open_page()
    failing = [502, 503, 504]

    def poll(route: Route) -> None:
        route.fulfill(status=failing.pop(), body="no upstream") if failing else route.continue_()

    def start(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route(re.compile(r"/pictures/[\w-]{32}$"), poll)
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((900, 900, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])
    assert failing == []
    page.route("**/run?*", start)
    page.locator("#task label", has_text="Even grain").click()
    page.locator("#again").click()
    page.locator(".trouble").wait_for()
    assert page.locator(".trouble").inner_text() == "a.png: no connection to Synergic; is it still running?"
    page.unroute("**/run?*")
    page.locator("#again").click()
    wait_until(lambda: page.locator(".made").inner_text() == "Even grain removed")
    assert page.locator(".trouble").is_hidden()


def test_what_went_wrong_stays_and_is_said_once(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, _ = open_page()
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((900, 900, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])
    page.route("**/file*", lambda route: route.fulfill(status=400, body="disk: expected room, got none"))
    page.locator("#task label", has_text="Even grain").click()
    page.locator("#again").click()
    page.locator(".names .running").wait_for()
    page.locator("#save").click()
    page.locator(".trouble").wait_for()
    page.evaluate("""() => {
      window.said = 0;
      new MutationObserver(() => window.said++).observe(
        document.querySelector(".trouble"), { childList: true, characterData: true, subtree: true });
    }""")
    wait_until(lambda: states(page) == ["restored"])
    assert page.locator(".trouble").inner_text() == "a.png: disk: expected room, got none"
    assert page.evaluate("window.said") == 0
    page.unroute("**/file*")
    with page.expect_download():
        page.locator("#save").click()
    assert page.locator(".trouble").is_hidden()


@pytest.mark.parametrize("status", [404, 400])
def test_a_picture_removed_while_it_is_fetched_is_not_missed(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path, status: int
) -> None:
    page, _ = open_page()
    paths = [save(tmp_path / f"{name}.png", np.zeros((20, 30, 1), np.uint8)) for name in "ab"]
    page.set_input_files(".drop input", paths)
    wait_until(lambda: states(page) == ["restored"] * 2)

    def gone(route: Route) -> None:
        page.get_by_role("button", name="Remove a.png").click()
        route.fulfill(status=status, body="picture: expected one that is still here, got none")

    page.route("**/file*", gone)
    page.locator("#save").click()
    wait_until(lambda: page.locator("#save").inner_text() == "Download")
    assert page.locator(".trouble").is_hidden()
    assert states(page) == ["restored"]
    assert page.locator(".names [aria-current=true]").inner_text() == "b.png"


def test_by_keys_the_place_is_seen_and_kept(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    page, _ = open_page()
    paths = [save(tmp_path / f"{name}.png", np.zeros((20, 30, 1), np.uint8)) for name in "ab"]
    page.set_input_files(".drop input", paths)
    wait_until(lambda: states(page) == ["restored"] * 2)
    slider = page.locator("#strength input[type=range]")
    slider.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert (
        slider.evaluate("slider => slider === document.activeElement && getComputedStyle(slider).outlineStyle")
        == "solid"
    )
    assert page.get_by_role("group", name=re.compile("Picture: plus and minus zoom")).count() == 1
    page.get_by_role("button", name="Remove b.png").press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove a.png"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.type") == "file"


def test_a_phone_that_is_turned_fits_the_picture_in_again(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, _ = open_page(844, 390, touch=True)
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((400, 600, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])

    def shown() -> tuple[bool, float]:
        """Is it zoomed, and how wide is it, as a share of what fits?"""
        told = str(page.locator(".stage").evaluate("stage => stage.style.transform"))
        wide, high = page.locator(".viewer").evaluate("viewer => [viewer.clientWidth, viewer.clientHeight]")
        scale = float(re.findall(r"scale\(([\d.]+)\)", told)[0])
        return "zoomed" in str(page.locator(".viewer").get_attribute("class")), scale / min(wide / 600, high / 400)

    page.set_viewport_size({"width": 390, "height": 844})
    wait_until(lambda: page.locator(".viewer").evaluate("viewer => viewer.clientWidth") < 390)
    wait_until(lambda: shown()[0] is False and shown()[1] == pytest.approx(1, rel=0.01), 5)
    page.locator(".viewer").focus()
    page.keyboard.press("+")
    page.set_viewport_size({"width": 360, "height": 844})
    wait_until(lambda: shown()[0] is True and shown()[1] == pytest.approx(1.5 * 390 / 360, rel=0.05), 5)


def test_without_a_connection_cancel_and_remove_fail_in_silence(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, _ = open_page()
    page.evaluate(CANCEL_AT, "lost")
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((900, 900, 3), np.uint8)))
    page.locator(".names .running").wait_for()
    page.locator(".cancel").click()
    assert page.locator(".progress span").inner_text() == "Stopping…"
    page.get_by_role("button", name="Remove a.png").click()
    assert states(page) == []


def test_a_picture_is_restored_as_it_was_asked_for_and_keeps_its_result(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, requests = open_page()
    paths = [save(tmp_path / name, np.zeros((400, 600, 3), np.uint8)) for name in ("a.png", "b.png")]
    page.set_input_files(".drop input", paths)
    page.locator("#task label", has_text="Even grain").click()
    wait_until(lambda: states(page) == ["restored"] * 2)
    posted = [request.partition("?")[2] for request in requests if request.startswith("POST")]
    assert posted == ["task=auto"] * 2

    page.route("**/run?*", lambda route: route.fulfill(status=400, body="line: expected room, got none"))
    page.locator("#again").click()
    page.locator(".trouble").wait_for()
    assert page.locator(".trouble").inner_text() == "a.png: line: expected room, got none"
    assert states(page) == ["restored"] * 2
    assert page.locator("#save").is_visible()


def test_download_all(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    page, _ = open_page()
    paths = [save(tmp_path / f"{gray}.png", np.full((20, 30, 1), gray, np.uint8)) for gray in (60, 180)]
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    page.set_input_files(".drop input", [paths[0], tmp_path / "broken.png", paths[1]])
    wait_until(lambda: states(page) == ["restored", "failed", "restored"])
    downloads: list[Download] = []
    page.on("download", lambda download: downloads.append(download))  # noqa: PLW0108 - its signature is looked at
    button = page.locator("#save-all")
    button.click()
    wait_until(lambda: button.inner_text() == "Download all" and len(downloads) == 2, 10)
    assert [download.suggested_filename for download in downloads] == ["60-restored.png", "180-restored.png"]
    for download, path in zip(downloads, paths, strict=True):
        assert download.path().read_bytes() == by_command(path)


def test_download_all_goes_past_what_is_gone(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    """One fails and says so, one comes back that the server threw away, one is removed while they are fetched."""
    page, requests = open_page()
    paths = [save(tmp_path / f"{gray}.png", np.full((20, 30, 1), gray, np.uint8)) for gray in (60, 90, 120, 180)]
    page.set_input_files(".drop input", paths)
    wait_until(lambda: states(page) == ["restored"] * 4)
    tokens = [request.split("/")[4] for request in requests if request.startswith("POST")]
    page.evaluate("token => fetch(`pictures/${token}`, { method: 'DELETE' })", tokens[1])

    def fail(route: Route) -> None:
        page.get_by_role("button", name="Remove 120.png").click()
        route.fulfill(status=400, body="disk: expected room, got none")

    page.route(f"**/{tokens[0]}/file*", fail)
    downloads: list[Download] = []
    page.on("download", lambda download: downloads.append(download))  # noqa: PLW0108 - its signature is looked at
    button = page.locator("#save-all")
    button.click()
    wait_until(lambda: button.inner_text() == "Download all" and states(page) == ["restored"] * 3)
    assert button.is_enabled()
    assert [download.suggested_filename for download in downloads] == ["180-restored.png"]
    assert page.locator(".trouble").inner_text().splitlines() == [
        "60.png: disk: expected room, got none",
        "the server had thrown pictures away; they are being restored again",
    ]
    page.locator(".names button", has_text="90.png").click()
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.path().read_bytes() == by_command(paths[1])


def test_what_the_server_lost_comes_back(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    """By being looked at: it is handed in once more, and nothing shows the result that is gone."""
    page, requests = open_page()
    paths = [save(tmp_path / f"{name}.png", np.zeros((20, side, 1), np.uint8)) for name, side in (("a", 30), ("b", 40))]
    page.set_input_files(".drop input", paths)
    wait_until(lambda: states(page) == ["restored"] * 2)
    tokens = [request.split("/")[4] for request in requests if request.startswith("POST")]
    page.evaluate("token => fetch(`pictures/${token}`, { method: 'DELETE' })", tokens[1])
    page.locator(".names button", has_text="b.png").first.click()
    page.locator(".trouble").wait_for()
    wait_until(lambda: states(page) == ["restored"] * 2)
    assert len([request for request in requests if request.startswith("POST")]) == 3
    assert page.locator(".trouble").inner_text() == "the server had thrown pictures away; they are being restored again"
    wait_until(lambda: page.locator("img.restored").evaluate("image => image.naturalWidth") == 40)
    assert len([request for request in requests if request.startswith("PUT")]) == 3
    assert len({request.split("/")[4] for request in requests if "views/restored" in request}) == 3


def test_a_run_on_what_the_server_lost_shows_nothing_old(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, requests = open_page()
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((900, 900, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])
    token = next(request.split("/")[4] for request in requests if request.startswith("POST"))
    page.evaluate("token => fetch(`pictures/${token}`, { method: 'DELETE' })", token)
    page.locator("#task label", has_text="Even grain").click()
    page.locator("#again").click()
    page.locator(".names .running").wait_for()
    assert page.locator("#save").is_hidden()
    assert page.locator("img.restored").is_hidden()
    wait_until(lambda: states(page) == ["restored"])
    assert page.locator("img.restored").is_visible()
    assert len([request for request in requests if request.startswith("PUT")]) == 2


def test_what_cannot_be_read_is_no_lost_connection(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    """A folder that is dropped, or a file that changed since it was chosen."""
    page, requests = open_page()
    path = save(tmp_path / "a.png", np.zeros((20, 30, 1), np.uint8))
    page.evaluate("File.prototype.slice = () => ({ arrayBuffer: () => Promise.reject(new DOMException('gone')) })")
    page.set_input_files(".drop input", path)
    wait_until(lambda: states(page) == ["failed"])
    line = "a.png: file: expected one that can be read, got a folder, or one that has changed; choose it again"
    assert page.locator(".trouble").inner_text() == line
    assert not [request for request in requests if request.startswith("PUT")]


def test_a_slow_click_and_the_focus_outlive_what_is_drawn_anew(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, _ = open_page()
    paths = [save(tmp_path / f"{name}.png", np.zeros((900, 900, 3), np.uint8)) for name in "ab"]
    page.set_input_files(".drop input", paths)
    page.locator(".names .running").wait_for()
    name = page.locator(".names button", has_text="b.png")
    name.focus()
    name.hover()
    page.mouse.down()
    wait_until(lambda: states(page) == ["restored"] * 2)
    assert name.evaluate("button => button === document.activeElement")
    page.mouse.up()
    assert name.get_attribute("aria-current") == "true"


def test_pictures_of_an_open_page_are_in_use(open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path) -> None:
    page, requests = open_page()
    page.clock.install()
    page.reload()
    page.wait_for_selector(".drop")
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((20, 30, 1), np.uint8)))

    def done() -> bool:
        page.clock.run_for(1_000)
        return states(page) == ["restored"]

    wait_until(done)
    asked = len(requests)
    page.clock.run_for(int(Limits().idle_seconds * 1000 / 2))
    kept = [request for request in requests[asked:] if re.search(r"GET .*/pictures/[\w-]+$", request)]
    assert len(kept) == Limits().idle_seconds / 2 / 300


def test_zoom_by_keys_double_click_and_two_fingers(
    open_page: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    page, _ = open_page(390, 844, touch=True)
    page.set_input_files(".drop input", save(tmp_path / "a.png", np.zeros((300, 600, 3), np.uint8)))
    wait_until(lambda: states(page) == ["restored"])
    viewer = page.locator(".viewer")
    box = viewer.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def scale() -> float:
        """Of the picture to what fits the viewer."""
        told = str(page.locator(".stage").evaluate("stage => stage.style.transform"))
        return float(re.findall(r"scale\(([\d.]+)\)", told)[0]) * 600 / box["width"]

    viewer.focus()
    for key, expected in (("+", 1.5), ("+", 2.25), ("Control+0", 2.25), ("-", 1.5), ("0", 1), ("-", 1)):
        page.keyboard.press(key)
        assert scale() == pytest.approx(expected, rel=0.01), key
    page.mouse.dblclick(x, y)
    assert scale() == pytest.approx(2, rel=0.01), "twice as large, and a pixel for a pixel at least"

    def place() -> list[float]:
        told = str(page.locator(".stage").evaluate("stage => stage.style.transform"))
        return [float(number) for number in re.findall(r"(-?[\d.]+)px", told)]

    viewer.focus()  # not the line, which the arrows move
    left, top = place()
    for key, (x_moved, y_moved) in {"Left": (40, 0), "Up": (40, 40), "Right": (0, 40), "Down": (0, 0)}.items():
        page.keyboard.press(f"Arrow{key}")
        assert place() == pytest.approx([left + x_moved, top + y_moved], abs=0.5), key
    page.mouse.dblclick(x, y)
    assert scale() == pytest.approx(1, rel=0.01)

    touch = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 100), ("touchEnd", 0)):
        points = [{"x": x + side * apart / 2, "y": y, "id": side} for side in (-1, 1)] if apart else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert scale() == pytest.approx(2.5, rel=0.02), "as far apart as the fingers went"
