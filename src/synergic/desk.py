"""The desk behind the page: takes pictures in, restores one after another, hands them out, throws them away.

Each picture has a token that cannot be guessed and a folder of its own; what its visitor calls it never becomes a path.
Safe to call from several threads. Knows nothing of HTTP: see web.py.
"""

import logging
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import dropwhile, takewhile
from math import ceil, inf
from pathlib import Path
from threading import Lock
from traceback import clear_frames
from typing import Any, Literal, Self

import numpy as np

from synergic.batch import Options
from synergic.errors import SynergicError
from synergic.explain import heat_picture
from synergic.formats import JPEG
from synergic.images import WRITABLE, Picture, check_writable, from_float, read_picture, to_float, write_picture
from synergic.restore import Restorer
from synergic.tiling import blend

log = logging.getLogger(__name__)


def forget_variables(error: BaseException) -> None:
    """Let go of what the functions held that an error, and what caused it, came through."""
    cause: BaseException | None = error
    while cause is not None:
        clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


@dataclass(frozen=True)
class Drawing:
    """A view that is drawn on demand."""

    draw: Callable[..., np.ndarray]
    """restorer, pixels H W C; by name sigma and quality as the run was told them, and progress -> uint8 H W 3"""
    legend: str
    """how to read it"""


DRAWINGS = {
    "Where it borrowed": Drawing(
        heat_picture, "Dark took more from its surroundings, bright more from similar places elsewhere."
    )
}
"""Each shows as a button of the page, under these words; the restorer is the one that the picture was restored with."""

SPARE_BYTES = 1_000_000_000
"""Pictures are refused when the disk has no more room than this."""
VIEW_QUALITY = 95
"""JPEG quality of what is only looked at: two thirds of the bytes of what is kept."""
MOST_LEFT = 1000
"""Places of the line, those included that were left again: each keeps a few kilobytes until its turn would come."""
FEW_PIXELS = 100_000
"""Below this, time hardly depends on the size."""
STRIP = 256
"""Rows that are converted at a time, to bound memory."""


@dataclass(frozen=True)
class Limits:
    """What visitors may ask for."""

    file_bytes: int = 200_000_000
    """Largest file."""
    pixels: int = 50_000_000
    """Largest width x height; restoring takes about 45 bytes of memory, and keeping the result 12 of disk, for each."""
    seconds: float = 1800.0
    """Longest upload, and longest run of one picture once its turn has come."""
    line: int = 16
    """Most pictures running or waiting for their turn, of all visitors."""
    kept: int = 100
    """Most pictures held at a time, of all visitors."""
    idle_seconds: float = 3600.0
    """After how long without use a picture is thrown away."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < inf:  # not a number, too
            raise SynergicError(f"seconds: expected a number above 0, got {self.seconds}")


class FullError(SynergicError):
    """No room now; later there may be."""

    @classmethod
    def of_disk(cls, error: OSError) -> Self:
        """What the disk says: that it is full, as a rule."""
        return cls(f"disk: {error.strerror or error}; try again later")


class BusyError(SynergicError):
    """It is being restored already."""


class GoneError(SynergicError):
    """No picture under this token, or nothing of that name to show."""


GONE = "picture: expected one that is still here, got none; hand it in again"


class StoppedError(Exception):
    """The visitor wants no result any more."""


@dataclass
class Run:
    """One use of the network, from its place in the line to its end."""

    seconds: float
    """how long it may take"""
    started: float | None = None
    done: int = 0
    total: int = 0
    """tiles"""
    ticked: float = 0.0
    """seconds that those done took"""
    expected: float | None = None
    """seconds for all, by Pace: what is known before the first tile is done"""
    result: str = "restored"
    """what its picture is when it has ended well"""
    stopped: bool = False
    future: Future[None] = field(default_factory=Future)

    def start(self) -> None:
        """Its turn has come."""
        self.started = time.monotonic()

    def tick(self, done: int, total: int) -> None:
        """Called after every tile: the only moments at which a run can end early."""
        self.done, self.total, self.ticked = done, total, self.elapsed()
        if self.stopped:
            raise StoppedError
        if self.elapsed() > self.seconds:
            allowed = f"{self.seconds:g} seconds"
            raise SynergicError(f"time: expected at most {allowed}, got more; hand in a smaller picture")

    def stop(self) -> None:
        """End it at once if its turn has not come, else after the tile at hand."""
        self.stopped = True
        self.future.cancel()

    def elapsed(self) -> float:
        """Seconds since its turn came."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        """What the page shows. `state`: waiting, running, stopped, failed or `result`. Once known, `seconds_left`, and
        the `share` of its time that is over, 0 to 1."""
        if not self.future.done():
            return {"state": "waiting"} if self.started is None else {"state": "running", **self._progress()}
        error = StoppedError() if self.future.cancelled() else self.future.exception()
        if error is None:
            return {"state": self.result}
        return {"state": "stopped"} if isinstance(error, StoppedError) else {"state": "failed", "error": said(error)}

    def _progress(self) -> dict[str, Any]:
        elapsed, whole = self.elapsed(), self.ticked / self.done * self.total if self.done else self.expected
        left = None if whole is None else max(0.0, whole - elapsed)
        share = None if left is None else elapsed / max(elapsed + left, 1e-6)
        return {"done": self.done, "total": self.total, "seconds_left": left, "share": share}


class Pace:
    """How long work of a kind takes on this machine, by the last pieces of it that were done to their end."""

    def __init__(self) -> None:
        self.last: dict[str, deque[tuple[int, float]]] = {}

    @contextmanager
    def kept(self, run: Run, kind: str, pixels: int) -> Iterator[None]:
        """Tells the run how long this is expected to take, and remembers how long it took."""
        begun, size = run.elapsed(), max(pixels, FEW_PIXELS)
        last = self.last.setdefault(kind, deque(maxlen=5))
        if last:
            run.expected = begun + size * sum(seconds for _, seconds in last) / sum(size for size, _ in last)
        yield
        last.append((size, run.elapsed() - begun))


def said(error: BaseException) -> str:
    """The line that a visitor reads. What is no SynergicError is ours to mend, and its text may name our paths."""
    if isinstance(error, SynergicError):
        return str(error)
    return f"picture: expected to restore it, got {type(error).__name__}; the log of `synergic serve` says more"


@dataclass
class Held:
    """One picture that was handed in."""

    folder: Path
    suffix: str
    last_use: float
    run: Run | None = None
    """the last one that was started"""
    restorer: Restorer | None = None
    """of the last one that was finished"""
    told: dict[str, Any] = field(default_factory=dict)
    """sigma and quality as that one was told them"""
    warnings: list[str] = field(default_factory=list)
    """what is not as in the file that came, one line each"""
    drawings: dict[str, Run] = field(default_factory=dict)
    """the last one of each of DRAWINGS"""
    gone: bool = False
    """its folder is thrown away"""

    @property
    def source(self) -> Path:
        """The file as it came."""
        return self.folder / f"source{self.suffix}"

    @property
    def result(self) -> Path:
        """The restored pixels before rounding, float32 H W C: what every strength is blended from."""
        return self.folder / "result.npy"

    def view(self, name: str) -> Path:
        """A picture that browsers show."""
        return self.folder / f"{name}.jpg"

    def under_way(self) -> list[Run]:
        """What is in the line for it."""
        runs = [self.run, *self.drawings.values()]
        return [run for run in runs if run is not None and not run.future.done()]


class Desk:
    """See the module. `folder` is its own; `defaults` are the options of every run that visitors have no say in."""

    def __init__(self, folder: Path, limits: Limits, defaults: Options) -> None:
        self.folder, self.limits, self.defaults = folder, limits, defaults
        self.held: dict[str, Held] = {}
        self.line: list[Run] = []
        self.pace = Pace()  # used by the one thread of `network`
        self.lock = Lock()  # of `held`, of what is started for each, and of `line`
        self.file_lock = Lock()
        self.network = ThreadPoolExecutor(1, "network")
        self.files = ThreadPoolExecutor(1, "files")

    # ---- in

    def accept(self, name: str, size: int = 0) -> str:
        """Make room for a picture whose name ends in a known suffix, of `size` bytes at least; returns its token."""
        suffix = Path(name).suffix.lower()
        if suffix not in WRITABLE:
            known = " ".join(sorted(WRITABLE))
            raise SynergicError(f"picture: expected a name ending in one of {known}, got {suffix or 'none'!r}")
        self.sweep()
        with self.lock:
            if len(self.held) >= self.limits.kept:
                raise FullError(f"pictures: expected at most {self.limits.kept} in all, got one more; try again later")
            self.folder.mkdir(mode=0o700, exist_ok=True)  # whoever tidies temporary folders may have taken it
            self.check_room(size)
            token = secrets.token_urlsafe(24)
            self.held[token] = Held(self.folder / token, suffix, time.monotonic())
            self.held[token].folder.mkdir(mode=0o700)
        return token

    def check_room(self, size: int = 0) -> None:
        """Raise FullError unless the disk has room for `size` bytes and some to spare."""
        if shutil.disk_usage(self.folder).free < SPARE_BYTES + size:
            raise FullError(f"disk: expected {(SPARE_BYTES + size) / 1e9:.3g} GB of room, got less; try again later")

    def find(self, token: str) -> Held:
        """The picture under a token."""
        held = self.held.get(token)
        if held is None:
            raise GoneError(GONE)
        held.last_use = time.monotonic()
        return held

    def look(self, token: str) -> dict[str, Any]:
        """Read a picture that has arrived, and make it visible; returns its size, and the task that auto chooses."""
        held = self.find(token)
        with self._files_of(held):
            picture = read_picture(held.source, max_pixels=self.limits.pixels)
            check_writable(held.source, picture)
            write_view(held.view("degraded"), visible(picture))
        height, width = picture.pixels.shape[:2]
        return {"token": token, "width": width, "height": height, "task": self.options().task_for(picture)}

    @contextmanager
    def _files_of(self, held: Held) -> Iterator[None]:
        """Reading and writing one picture's files, of all visitors one at a time: this bounds memory, what is thrown
        away stays away, and libvips, which keeps one error text for all threads, cannot tell one visitor's error to
        another. Errors name no path of ours."""
        with self.file_lock:
            if held.gone:
                raise GoneError(GONE)
            try:
                yield
            except SynergicError as error:
                ours = re.escape(str(self.folder)) + r"[/\\][^:]*"
                raise type(error)(re.sub(ours, "picture", str(error))) from error
            except OSError as error:
                raise FullError.of_disk(error) from error
            except MemoryError as error:
                raise FullError("memory: expected enough for the picture, got less; try again later") from error

    # ---- restoring

    def options(
        self,
        task: Literal["auto", "denoise", "photo", "jpeg"] = "auto",
        sigma: float | None = None,
        quality: int | None = None,
        strength: float = 1.0,
    ) -> Options:
        """What a visitor asks for, checked. Networks are loaded once for all visitors."""
        options = replace(self.defaults, task=task, sigma=sigma, quality=quality, strength=strength)
        options.check()
        return options

    def start(self, token: str, options: Options) -> Run:
        """Put a picture into the line."""
        held = self.find(token)
        with self.lock:
            if held.run is not None and not held.run.future.done():
                raise BusyError("picture: expected one run at a time, got a second; stop the first one or wait")
            held.run = self._enter(partial(self._restore, held, options))
        return held.run

    def _enter(self, work: Callable[[Run], None], result: str = "restored") -> Run:
        """To be called with the lock."""
        self.line = [*dropwhile(lambda run: run.future.done(), self.line)]  # further back `network` still holds them
        waiting = sum(not run.future.done() for run in self.line)
        if waiting >= self.limits.line or len(self.line) >= MOST_LEFT:
            raise FullError(f"line: expected at most {self.limits.line} pictures, got one more; try again later")
        run = Run(self.limits.seconds, result=result)
        run.future = self.network.submit(self._take, work, run)
        self.line.append(run)
        return run

    @staticmethod
    def _take(work: Callable[[Run], None], run: Run) -> None:
        run.start()
        try:
            work(run)
        except Exception as error:
            if not isinstance(error, SynergicError | StoppedError):
                log.exception("a run failed")
            forget_variables(error)  # the run keeps its error, which would keep the picture and its tiles
            raise

    def _restore(self, held: Held, options: Options, run: Run) -> None:
        """As batch.Work does, but the result is kept before it is blended and rounded."""
        with self._files_of(held):
            picture = read_picture(held.source, max_pixels=self.limits.pixels)
        restorer = options.restorer(picture)
        told: dict[str, Any] = {"sigma": options.sigma, "quality": options.quality_for(picture, restorer)}
        with self.pace.kept(run, "restoring", picture.pixels[..., 0].size):
            restored = restorer(to_float(picture.pixels), **told, progress=run.tick)
            self._keep(held, picture, restored)
        held.restorer, held.told, held.last_use = restorer, told, time.monotonic()

    def _keep(self, held: Held, picture: Picture, restored: np.ndarray) -> None:
        """A result in place of the last one and of what was drawn of that."""
        with self._files_of(held):
            self.check_room(restored.nbytes)
            fresh = held.folder / "new.npy"
            try:
                np.save(fresh, restored)
                write_view(held.view("restored"), visible(replace(picture, pixels=restored)))
                left_out = left_out_of(picture, held.folder / f"corner{held.suffix}")
                held.warnings = [f"left out: {', '.join(left_out)}"] if left_out else []
                fresh.replace(held.result)
            finally:
                fresh.unlink(missing_ok=True)  # half a result on a disk that is full
            for name in DRAWINGS:
                held.view(name).unlink(missing_ok=True)
        with self.lock:
            held.drawings = {name: run for name, run in held.drawings.items() if not run.future.done()}

    def state(self, token: str) -> dict[str, Any]:
        """How far a picture is: Run.state, and how many are `ahead` of a waiting one; of a restored one the `task`, and
        `warnings`, which the command tells as well; and the same of its `drawings`, once there are any."""
        held = self.find(token)
        with self.lock:
            if held.run is None:
                return {"state": "new"}
            state = self._state(held.run)
            if state["state"] == "restored" and held.restorer is not None:
                state |= {"task": held.restorer.card.task, "warnings": held.warnings}
            if held.drawings:
                state["drawings"] = {name: self._state(run) for name, run in held.drawings.items()}
        return state

    def _state(self, asked: Run) -> dict[str, Any]:
        """To be called with the lock."""
        state = asked.state()
        if state["state"] == "waiting":
            state["ahead"] = sum(not run.future.done() for run in takewhile(lambda run: run is not asked, self.line))
        return state

    # ---- out

    def save(self, token: str, strength: float) -> Path:
        """The restored picture as a new file of the format that came in, byte for byte what `synergic restore` writes
        for the same options; the caller deletes it."""
        held = self.find(token)
        self.options(strength=strength)
        with self._files_of(held):
            if not held.result.exists():
                raise GoneError("picture: expected a restored one, got one that is not restored yet; wait or start it")
            picture = read_picture(held.source, max_pixels=self.limits.pixels)
            self.check_room(picture.pixels.nbytes)
            restored = np.load(held.result, mmap_mode="r")
            pixels = in_strips(partial(blend, strength=strength), picture.pixels, restored)
            target = held.folder / f"{secrets.token_hex(8)}{held.suffix}"
            write_picture(target, replace(picture, pixels=pixels))
        return target

    def view(self, token: str, name: str) -> Path:
        """A picture for the browser: degraded, restored, or one of DRAWINGS that has been drawn."""
        path = self.find(token).view(name)
        if name not in ("degraded", "restored", *DRAWINGS) or not path.exists():
            raise GoneError(f"view: expected one that is there, got {name!r}; restore the picture first")
        return path

    def draw(self, token: str, name: str) -> Run:
        """Put one of DRAWINGS into the line, as a view of its name; what is in the line or drawn already stays."""
        held = self.find(token)
        if name not in DRAWINGS or held.restorer is None:
            raise GoneError(f"view: expected one that can be drawn, got {name!r}; restore the picture first")
        with self.lock:
            run = held.drawings.get(name)
            if run is None or run.stopped or (run.future.done() and not held.view(name).exists()):
                run = self._enter(partial(self._draw, held, name), "drawn")
                held.drawings = {**held.drawings, name: run}  # a new one: others may be reading the old one
        return run

    def _draw(self, held: Held, name: str, run: Run) -> None:
        """Of the last result when its turn comes, which may be a newer one than when it was asked for."""
        with self._files_of(held):
            picture = read_picture(held.source, max_pixels=self.limits.pixels)
        with self.pace.kept(run, name, picture.pixels[..., 0].size):
            drawn = DRAWINGS[name].draw(held.restorer, picture.pixels, **held.told, progress=run.tick)
        with self._files_of(held):
            write_view(held.view(name), Picture(drawn, None, {}, VIEW_QUALITY))

    # ---- away

    def forget(self, token: str) -> None:
        """Throw a picture away with all that came of it."""
        held = self.held.pop(token, None)
        if held is None:
            return
        for run in held.under_way():
            run.stop()
        self.files.submit(self._remove, held)

    def _remove(self, held: Held) -> None:
        with self.file_lock:
            held.gone = True
            shutil.rmtree(held.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Throw away what nobody has used for long; a picture in the line is in use."""
        for token, held in list(self.held.items()):
            if not held.under_way() and time.monotonic() - held.last_use > self.limits.idle_seconds:
                self.forget(token)

    def close(self) -> None:
        """Stop everything and throw everything away."""
        for token in list(self.held):
            self.forget(token)
        for run in self.line:
            run.stop()
        self.network.shutdown()
        self.files.shutdown()


def left_out_of(picture: Picture, path: Path) -> tuple[str, ...]:
    """What a file of the picture does not hold of the one that it was, in words. That is a matter of what stands beside
    the pixels, so a corner of them is written, to `path`, and deleted."""
    alpha = None if picture.alpha is None else picture.alpha[:1, :1]
    left_out = write_picture(path, replace(picture, pixels=picture.pixels[:1, :1], alpha=alpha), overwrite=True)
    path.unlink()
    return left_out


def visible(picture: Picture) -> Picture:
    """What browsers show as JPEG: 8-bit, over white where transparent, colour profile kept, all else left out."""
    profile = {name: value for name, value in picture.metadata.items() if name == "icc-profile-data"}
    planes = (picture.pixels,) if picture.alpha is None else (picture.pixels, picture.alpha[:, :, None])
    return Picture(in_strips(over_white, *planes), None, profile, VIEW_QUALITY)


def write_view(path: Path, picture: Picture) -> None:
    """A picture as JPEG, with every second pixel or fewer where one of its sides is longer than JPEGs can be: the page
    stretches it."""
    step = ceil(max(picture.pixels.shape[:2]) / JPEG.longest)
    write_picture(path, replace(picture, pixels=picture.pixels[::step, ::step]), overwrite=True)


def over_white(pixels: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """H W C of any dtype, alpha H W 1 -> uint8 H W C."""
    values = to_float(pixels)
    if alpha is not None:
        values = values * to_float(alpha) + (1 - to_float(alpha))
    return from_float(values, np.uint8)


def in_strips(function: Callable[..., np.ndarray], *pictures: np.ndarray) -> np.ndarray:
    """A function of pixels that stand alone, on pictures H W C of one height, without whole pictures in float32."""
    rows = range(0, len(pictures[0]), STRIP)
    return np.concatenate([function(*(picture[row : row + STRIP] for picture in pictures)) for row in rows])
