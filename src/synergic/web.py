"""The page in the browser: `synergic serve`.

Gradio draws it. Pictures do not pass through Gradio, which would make paths of their names and fetch URLs, but through
the routes of `build_routes`; they end in desk.py, and guard.py stands before them. What the page does with them is in
page/page.js; docs/page.md describes them for other programs.
"""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from synergic.batch import Options
from synergic.card import published_weights
from synergic.desk import DRAWINGS, GONE, BusyError, Desk, FullError, GoneError, Limits, Run, StoppedError, said
from synergic.errors import SynergicError
from synergic.files import own_folder
from synergic.guard import NO_ROUTE, Guard
from synergic.weights import read_header

T = TypeVar("T")
Task = Literal["auto", "denoise", "photo", "jpeg"]

WORDS: dict[Task, str] = {"auto": "Automatic", "photo": "Camera noise", "denoise": "Even grain", "jpeg": "JPEG blocks"}
"""How the page calls the tasks."""
SWEEP_SECONDS = 60.0
PIECE = 1 << 18
"""Bytes of a file that are sent at once."""


class TooLargeError(SynergicError):
    """A file over the limit."""


STATUS: dict[type[Exception], int] = {BusyError: 409, FullError: 503, GoneError: 404, TooLargeError: 413}
"""HTTP status of an error; 400 for every other SynergicError."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused: why, in one line", "content": {"text/plain": {}}},
    500: {"description": "Broken here: in one line; the server's log says more", "content": {"text/plain": {}}},
    503: {"description": "Full: which limit, in one line; try again later", "content": {"text/plain": {}}},
}
"""What the description of the routes says of errors, in place of FastAPI's 422, which none answers with."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that browsers can reach; port 0 takes any that is free."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SynergicError(
            f"{host}:{port}: expected a free port of this computer, got {error}; try --port 0"
        ) from None


def is_private(listening: socket.socket) -> bool:
    """Can only this computer reach it?"""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def serve(listening: socket.socket, host: str, limits: Limits, ready: Callable[[], None]) -> None:
    """Answer until interrupted; then everything that was handed in is deleted, and so is at the start what a server
    that was killed has left. `ready` is called before the start."""
    with own_folder("synergic-page-", Path(tempfile.gettempdir())) as folder:
        desk = Desk(folder, limits, Options())
        config = uvicorn.Config(
            Guard(build_app(desk), host),
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=500,
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").addFilter(is_no_cancellation)
        server = uvicorn.Server(config)

        def end(*_: object) -> None:  # an exception could be lost where Python lets none out
            server.should_exit = True

        for name in {"SIGTERM", "SIGBREAK"} & signal.Signals.__members__.keys():
            signal.signal(signal.Signals[name], end)  # as Ctrl-C does: all is deleted
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, end)  # the terminal was closed
        ready()
        try:
            server.run(sockets=[listening])
        finally:
            desk.close()


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Is it worth a line? A request that the end of the server cuts off is none of its faults."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def build_routes(desk: Desk) -> FastAPI:
    """The routes without the page."""
    app = FastAPI(title="Synergic", docs_url=None, redoc_url=None, lifespan=partial(sweeping, desk), responses=REFUSALS)
    routes = Routes(desk)
    body: dict[str, Any] = {"requestBody": {"content": {"application/octet-stream": {}}}}
    app.add_api_route("/restore/{name}", routes.restore, methods=["PUT"], openapi_extra=body)
    app.add_api_route("/pictures/{name}", routes.hand_in, methods=["PUT"], openapi_extra=body, status_code=201)
    app.add_api_route("/pictures/{token}", routes.state, methods=["GET"])
    app.add_api_route("/pictures/{token}", routes.forget, methods=["DELETE"], status_code=204)
    app.add_api_route("/pictures/{token}/run", routes.start, methods=["POST"], status_code=202)
    app.add_api_route("/pictures/{token}/run", routes.stop, methods=["DELETE"], status_code=204)
    app.add_api_route("/pictures/{token}/file", routes.file, methods=["GET"])
    app.add_api_route("/pictures/{token}/views/{view}", routes.view, methods=["GET"])
    app.add_api_route("/pictures/{token}/views/{view}", routes.draw, methods=["POST"], status_code=202)
    app.add_api_route("/pictures/{token}/views/{view}", routes.stop_drawing, methods=["DELETE"], status_code=204)
    nowhere = PlainTextResponse(f"{NO_ROUTE}\n", 404)
    for path in ("/pictures/{path:path}", "/restore/{path:path}"):  # or Gradio would answer, not in a line
        app.add_route(path, nowhere, include_in_schema=False)  # an application: every method
    app.add_exception_handler(SynergicError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_parameter)
    app.add_exception_handler(Exception, break_down)
    for left in (ClientDisconnect, StoppedError):
        app.add_exception_handler(left, lambda *_: Response(status_code=499))  # nobody is there to read it
    return app


def build_app(desk: Desk) -> Any:
    """The page and its routes as an ASGI application."""
    os.environ["GRADIO_RUN_HISTORY"] = "False"  # or the browser would record what was done
    os.environ["GRADIO_TEMP_DIR"] = str(desk.folder / "gradio")  # or it would make one that all users share
    import gradio as gr  # reads them on import

    # fonts that every computer has: none is fetched; and colours that can be read
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="stone", font="sans-serif", font_mono="monospace").set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
    )
    return gr.mount_gradio_app(
        build_routes(desk),
        build_page(desk.limits),
        path="/",
        footer_links=[],
        head=f"<style>{page_path('page.css').read_text('utf-8')}</style>",  # as `css` Gradio would rewrite it
        favicon_path=str(page_path("icon.svg")),
        theme=theme,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )


@asynccontextmanager
async def sweeping(desk: Desk, _: FastAPI) -> AsyncIterator[None]:
    """Throws away what is no longer used, once a minute, while the server runs."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            desk.sweep()

    task = asyncio.create_task(sweep())
    yield
    task.cancel()


def refuse(_: Request, error: Exception) -> Response:
    """An error as one line of text."""
    return PlainTextResponse(f"{error}\n", STATUS.get(type(error), 400))


def refuse_parameter(_: Request, error: RequestValidationError) -> Response:
    """A parameter that cannot be read, as one line of text."""
    first = error.errors()[0]
    return PlainTextResponse(f"{first['loc'][-1]}: {first['msg']}, got {first.get('input')!r}\n", 400)


def break_down(_: Request, error: Exception) -> Response:
    """An error of ours as one line of text; the log gets the rest."""
    return PlainTextResponse(f"{said(error)}\n", 500)


class Routes:
    """What can be asked over HTTP. Errors are one line of text."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def restore(
        self,
        request: Request,
        name: str,
        task: Task = "auto",
        sigma: float | None = None,
        quality: int | None = None,
        strength: float = 1.0,
    ) -> StreamingResponse:
        """A file in, the restored file out: the whole service in one request. What did not come along is said in the
        header `Synergic-Warnings`."""
        options = await self._in_files(self.desk.options, task, sigma, quality, strength)
        token = await self._receive(request, name)
        try:
            run = self.desk.start(token, options)
            await finished(run, request)
            path = await self._in_files(self.desk.save, token, strength)
            warnings = self.desk.find(token).warnings
        except BaseException:
            self.desk.forget(token)
            raise
        headers = {"Synergic-Warnings": "; ".join(warnings)} if warnings else {}
        return opened(path, BackgroundTask(self.desk.forget, token), headers)

    async def hand_in(self, request: Request, name: str) -> dict[str, Any]:
        """A file in; its token, size and the task that automatic chooses out."""
        token = await self._receive(request, name)
        try:
            picture = await self._in_files(self.desk.look, token)
            if await request.is_disconnected():  # nobody learns the token
                raise ClientDisconnect
            return picture
        except BaseException:
            self.desk.forget(token)
            raise

    def state(self, token: str) -> dict[str, Any]:
        """How far it is, see Desk.state."""
        return self.desk.state(token)

    def start(
        self, token: str, task: Task = "auto", sigma: float | None = None, quality: int | None = None
    ) -> dict[str, Any]:
        """Restore it, when its turn comes."""
        self.desk.start(token, self.desk.options(task, sigma, quality))
        return self.desk.state(token)

    def stop(self, token: str) -> None:
        """Do not restore it after all."""
        if run := self.desk.find(token).run:
            run.stop()

    async def file(self, token: str, strength: float = 1.0) -> StreamingResponse:
        """The restored file."""
        path = await self._in_files(self.desk.save, token, strength)
        return opened(path, BackgroundTask(path.unlink, missing_ok=True))

    def view(self, token: str, view: str) -> StreamingResponse:
        """A picture to look at."""
        return opened(self.desk.view(token, view))

    def draw(self, token: str, view: str) -> dict[str, Any]:
        """Draw one of DRAWINGS, when its turn comes."""
        self.desk.draw(token, view)
        return self.desk.state(token)

    def stop_drawing(self, token: str, view: str) -> None:
        """Do not draw it after all."""
        if run := self.desk.find(token).drawings.get(view):
            run.stop()

    def forget(self, token: str) -> None:
        """Delete it with all that came of it."""
        self.desk.forget(token)

    async def _receive(self, request: Request, name: str) -> str:
        """The body as a new picture of the desk, its size limited while it streams in; returns the token."""
        limits, size = self.desk.limits, 0
        too_large = TooLargeError(f"file: expected at most {limits.file_bytes:,} bytes, got more; make it smaller")
        announced = int(request.headers.get("content-length", 0))
        if announced > limits.file_bytes:
            raise too_large
        token = await asyncio.to_thread(self.desk.accept, name, announced)  # a slow disk keeps nobody else waiting
        try:
            async with asyncio.timeout(limits.seconds):
                with self.desk.find(token).source.open("wb") as file:
                    async for chunk in request.stream():
                        self.desk.find(token)  # in use, however long it takes
                        size += len(chunk)
                        if size <= limits.file_bytes:
                            await asyncio.to_thread(file.write, chunk)
                        elif size > 2 * limits.file_bytes:
                            break
            if size > limits.file_bytes:  # read to its end if that is near: who is still sending loses the answer
                raise too_large
        except BaseException as error:
            self.desk.forget(token)
            if isinstance(error, TimeoutError):
                raise SynergicError(f"upload: expected it within {limits.seconds:g} seconds, got more") from None
            if isinstance(error, OSError):
                raise FullError.of_disk(error) from error
            raise
        return token

    async def _in_files(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run where decoded pictures are bounded in number."""
        return await asyncio.wrap_future(self.desk.files.submit(function, *arguments))


def opened(
    path: Path, background: BackgroundTask | None = None, headers: dict[str, str] | None = None
) -> StreamingResponse:
    """A file of a picture that may be forgotten at any time: opened now, it is sent whole. FileResponse opens it once
    the head is sent; a visitor who left in between made it an error of ours."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise GoneError(GONE) from None
    length = {"content-length": str(os.fstat(file.fileno()).st_size)}
    return StreamingResponse(
        pieces(file),
        headers=length | (headers or {}),
        media_type=guess_type(path.name, strict=False)[0],
        background=background,
    )


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """All of a file, which is then closed."""
    with file:
        yield from iter(partial(file.read, PIECE), b"")


async def finished(run: Run, request: Request) -> None:
    """Wait for a run; raises its error. A visitor who leaves stops it."""
    while not run.future.done():
        if await request.is_disconnected():
            run.stop()
        await asyncio.sleep(0.1)
    if run.stopped:
        raise StoppedError
    run.future.result()


def build_page(limits: Limits) -> Any:
    """The page as Gradio's Blocks. Its events stay in the browser: page.js talks to the routes."""
    import gradio as gr

    with gr.Blocks(title="Synergic", analytics_enabled=False) as page, gr.Row(elem_id="page"):
        with gr.Column(scale=3, elem_id="pictures"):
            gr.HTML(
                html_template=page_path("page.html").read_text("utf-8"),
                js_on_load=page_path("page.js").read_text("utf-8"),
                apply_default_css=False,
                file_bytes=limits.file_bytes,
                kept=limits.kept,
                words=WORDS,
                drawings={name: drawing.legend for name, drawing in DRAWINGS.items()},
            )
        with gr.Column(scale=1, min_width=280, elem_id="panel"):
            strength = gr.Slider(0, 100, 100, step=1, label="Strength, %", elem_id="strength", buttons=[])
            save = gr.Button("Download", variant="primary", elem_id="save")
            save_all = gr.Button("Download all", elem_id="save-all")
            task = gr.Radio(
                [(WORDS[task], task) for task in offered_tasks()],
                value="auto",
                label="What to remove",
                info="Automatic suits most pictures.",
                elem_id="task",
            )
            sigma = gr.Textbox(label="Grain, 0 to 255 (sigma)", placeholder="not known", elem_id="sigma")
            quality = gr.Textbox(label="JPEG quality, 1 to 100", placeholder="as in the file", elem_id="quality")
            again = gr.Button("Restore again", elem_id="again")
            again_all = gr.Button("Restore all again", elem_id="again-all")
        strength.change(None, strength, None, js="(percent) => synergic.blend(percent / 100)")
        save.click(None, None, None, js="() => synergic.save(false)")
        save_all.click(None, None, None, js="() => synergic.save(true)")
        asked = [task, sigma, quality]
        gr.on([part.change for part in asked], None, asked, None, js="(...asked) => synergic.ask(...asked)")
        again.click(None, None, None, js="() => synergic.again(false)")
        again_all.click(None, None, None, js="() => synergic.again(true)")
    return page


def offered_tasks() -> list[Task]:
    """Automatic, and every task that there are weights for."""
    published = {read_header(path)[1].task for path in published_weights().values()}
    return [task for task in WORDS if task == "auto" or task in published]


def page_path(name: str) -> Path:
    """A file of the page."""
    return Path(str(files("synergic"))) / "page" / name
