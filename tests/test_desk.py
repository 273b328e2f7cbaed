"""The page's desk, without HTTP: the same bytes as the command, visitors kept apart, limits, nothing left behind."""

import gc
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

import synergic.desk as module
from conftest import save
from synergic.batch import Job, Options, restore_files
from synergic.desk import Desk, Drawing, FullError, GoneError, Limits, Pace, Run, StoppedError
from synergic.errors import SynergicError
from synergic.explain import heat_picture
from synergic.images import Picture, read_picture, read_pixels, write_picture
from synergic.restore import Restorer
from synergic.tags import CENTIMETRE, Resolution
from synergic.tiling import Progress

MakeWeights = Callable[..., Path]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OPTIONS = {"device": "cpu", "precision": "float32", "tile_size": 128}


@pytest.fixture
def desk(tmp_path: Path, make_weights: MakeWeights) -> Iterator[Desk]:
    """A desk with a tiny network and small tiles."""
    (tmp_path / "desk").mkdir()
    made = Desk(tmp_path / "desk", Limits(), Options(weights=str(make_weights()), **OPTIONS))  # type: ignore[arg-type]
    yield made
    made.close()


def hand_in(desk: Desk, path: Path) -> str:
    token = desk.accept(path.name)
    desk.find(token).source.write_bytes(path.read_bytes())
    desk.look(token)
    return token


def restored(desk: Desk, token: str, **asked: float) -> None:
    desk.start(token, desk.options(**asked)).future.result()  # type: ignore[arg-type]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def picture(random: np.random.Generator, dtype: type, channels: int, alpha: bool) -> Picture:
    """140 x 190: tiles, with a profile and a resolution."""
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    pixels: np.ndarray = (random.random((140, 190, channels)) * top).astype(dtype)
    profile = {"icc-profile-data": PROFILE} if channels == 3 else {}
    metadata = {"resolution": Resolution(Fraction(50), Fraction(50), CENTIMETRE), **profile}
    return Picture(pixels, pixels[:, ::-1, 0] if alpha else None, metadata, None)


def film(path: Path) -> Path:
    """A JPEG that says that a film stands behind it."""
    Image.new("RGB", (8, 8)).save(path, xmp=b'<x GCamera:MotionPhoto="1"/>')
    return path


def scan(path: Path) -> Path:
    """A TIFF with a tag that nobody knows, alpha, and 16 bits."""
    pixels = np.zeros((4, 3, 4), np.uint16)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], extratags=[(65000, 4, 1, 7, True)])
    return path


@pytest.mark.parametrize(
    ("make", "name", "line"),
    [
        (film, "a.jpg", "left out: what stands behind the picture (a film, a gain map or another picture)"),
        (scan, "a.tif", "left out: tag 65000"),
    ],
)
def test_what_cannot_come_along_is_told_as_by_the_command(
    desk: Desk, tmp_path: Path, make: Callable[[Path], Path], name: str, line: str
) -> None:
    source = make(tmp_path / name)
    token = hand_in(desk, source)
    restored(desk, token)
    assert desk.state(token)["warnings"] == [line]
    (by_command,) = restore_files([Job(source, tmp_path / f"by-command-{name}")], desk.defaults)
    assert by_command["warnings"] == [f"{source}: {line}"]
    assert not [*desk.find(token).folder.glob("corner*")]


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "alpha"),
    [
        ("a.jpg", np.uint8, 3, False),
        ("a.JPEG", np.uint8, 1, False),
        ("a.png", np.uint16, 3, True),
        ("a.webp", np.uint8, 3, True),
        ("a.tif", np.float32, 3, False),
        ("a.tiff", np.uint16, 1, True),
    ],
)
def test_the_bytes_are_the_commands(
    desk: Desk, tmp_path: Path, random: np.random.Generator, name: str, dtype: type, channels: int, alpha: bool
) -> None:
    source = tmp_path / name
    write_picture(source, picture(random, dtype, channels, alpha))
    token = hand_in(desk, source)
    restored(desk, token, sigma=20.0)
    for strength in (1.0, 0.37, 0.0):
        target = tmp_path / "command" / str(strength) / name
        (by_command,) = restore_files([Job(source, target)], desk.options(sigma=20.0, strength=strength))
        assert by_command["status"] == "restored"
        assert desk.save(token, strength).read_bytes() == target.read_bytes()


def test_orientation_is_applied_once_and_shown(desk: Desk, data: Path) -> None:
    source = data / "hostile" / "orientation" / "Landscape_6.jpg"
    token = hand_in(desk, source)
    restored(desk, token)
    upright = read_pixels(source)
    assert read_pixels(desk.save(token, 0.0)).shape == upright.shape
    assert read_pixels(desk.view(token, "degraded")).shape == upright.shape


def test_a_view_is_8_bit_over_white_and_keeps_the_profile(desk: Desk, tmp_path: Path) -> None:
    pixels = np.full((10, 10, 3), 65535 // 2, np.uint16)
    alpha = np.full((10, 10), 65535, np.uint16)
    alpha[:, 5:] = 0
    source = tmp_path / "a.png"
    write_picture(source, Picture(pixels, alpha, {"icc-profile-data": PROFILE, "xmp-data": b"<where/>"}, None))
    view = read_picture(desk.view(hand_in(desk, source), "degraded"))
    assert view.pixels.dtype == np.uint8
    assert abs(int(view.pixels[5, 1, 0]) - 127) <= 2
    assert view.pixels[5, 8].min() >= 253
    assert view.metadata["icc-profile-data"] == PROFILE
    assert "xmp-data" not in view.metadata


def test_visitors_are_kept_apart(desk: Desk, tmp_path: Path) -> None:
    """Ten pictures of their own gray, restored in one line: each token gives its own."""
    tokens = [
        hand_in(desk, save(tmp_path / f"{gray}.png", np.full((8, 8, 1), gray, np.uint8))) for gray in range(0, 250, 25)
    ]
    assert len(set(tokens)) == 10
    assert min(map(len, tokens)) >= 32  # 24 random bytes
    runs = [desk.start(token, desk.options()) for token in reversed(tokens)]
    for run in runs:
        run.future.result()
    for token, gray in zip(tokens, range(0, 250, 25), strict=True):
        assert (read_pixels(desk.save(token, 0.0)) == gray).all()


@pytest.mark.parametrize("name", ["notes.txt", "picture", ".png", "a.png/../../b", "photo.heic"])
def test_a_name_gives_its_suffix_and_nothing_else(desk: Desk, name: str) -> None:
    with pytest.raises(
        SynergicError, match=r"expected a name ending in one of .jfif .jpe .jpeg .jpg .png .tif .tiff .webp, got"
    ):
        desk.accept(name)
    folder = desk.find(desk.accept("../../../etc/<evil>.PNG")).folder
    assert folder.parent == desk.folder
    assert desk.find(folder.name).source.name == "source.png"


def test_errors_name_no_path_of_ours(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(SynergicError, match="^picture: cannot be read: .*expected a whole PNG") as error:
        hand_in(desk, tmp_path / "broken.jpg")
    assert str(desk.folder) not in str(error.value)
    write_picture(tmp_path / "deep.png", Picture(np.zeros((4, 4, 1), np.uint16), None, {}, None))
    (tmp_path / "deep.png").rename(tmp_path / "deep.jpg")
    with pytest.raises(SynergicError, match="^picture: JPEG cannot hold uint16 pixels; write PNG or TIFF instead"):
        hand_in(desk, tmp_path / "deep.jpg")


def test_too_little_memory_is_one_line(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: Any, **__: Any) -> None:
        raise MemoryError

    path = save(tmp_path / "a.png", np.zeros((10, 10, 1), np.uint8))
    monkeypatch.setattr("synergic.desk.read_picture", starved)
    with pytest.raises(FullError, match="memory: expected enough for the picture, got less; try again later"):
        hand_in(desk, path)


def test_pixels_are_counted_before_they_are_decoded(desk: Desk, tmp_path: Path) -> None:
    desk.limits = Limits(pixels=99)
    with pytest.raises(SynergicError, match="picture: expected at most 99 pixels, got 10 x 10"):
        hand_in(desk, save(tmp_path / "a.png", np.zeros((10, 10, 1), np.uint8)))


def test_room_is_limited_in_number_and_on_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.limits = Limits(kept=2)
    token = desk.accept("a.png")
    desk.accept("a.png")
    with pytest.raises(FullError, match="pictures: expected at most 2 in all, got one more; try again later"):
        desk.accept("a.png")
    desk.forget(token)
    desk.accept("a.png")
    desk.limits = Limits()
    with pytest.raises(FullError, match="disk: expected .* GB of room, got less"):
        desk.accept("a.png", 2**62)
    monkeypatch.setattr(module, "SPARE_BYTES", 2**62)
    with pytest.raises(FullError, match="disk: expected .* GB of room, got less"):
        desk.accept("a.png")


def test_a_result_that_has_no_room_is_no_fault(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)))
    free = shutil.disk_usage(desk.folder).free
    monkeypatch.setattr(module, "SPARE_BYTES", free * 2)
    with pytest.raises(FullError, match="disk: expected .* GB of room, got less; try again later"):
        restored(desk, token)
    assert caplog.text == ""
    monkeypatch.undo()
    restored(desk, token)
    assert desk.save(token, 1.0).exists()
    monkeypatch.setattr(module, "SPARE_BYTES", free * 2)
    with pytest.raises(FullError, match="disk: expected .* GB of room, got less; try again later"):
        desk.save(token, 1.0)


def test_what_is_longer_than_a_jpeg_is_looked_at_smaller(desk: Desk, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", np.full((1, 65_501, 1), 90, np.uint8))
    token = desk.accept(source.name)
    desk.find(token).source.write_bytes(source.read_bytes())
    handed = desk.look(token)
    assert (handed["width"], handed["height"]) == (65_501, 1)
    assert read_pixels(desk.view(token, "degraded")).shape == (1, 32_751, 1)
    restored(desk, token)
    assert read_pixels(desk.view(token, "restored")).shape == (1, 32_751, 1)
    assert read_pixels(desk.save(token, 1.0)).shape == (1, 65_501, 1)


def test_a_folder_that_was_tidied_away_is_made_again(desk: Desk, tmp_path: Path) -> None:
    shutil.rmtree(desk.folder)
    hand_in(desk, save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)))


def test_the_line_is_limited_tells_its_length_and_can_be_left(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run stands still, so that those behind it wait."""
    desk.limits = Limits(line=3)
    source = save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
    first, second, third, fourth = (hand_in(desk, source) for _ in range(4))
    begun, go_on = Event(), Event()
    call = Restorer.__call__

    def waits(*arguments: object, **named: object) -> np.ndarray:
        begun.set()
        assert go_on.wait(10)
        return call(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Restorer, "__call__", waits)
    runs = [desk.start(token, desk.options()) for token in (first, second, third)]
    assert begun.wait(10)
    unknown = {"seconds_left": None, "share": None}
    assert desk.state(first) == {"state": "running", "done": 0, "total": 0, **unknown}
    assert desk.state(third) == {"state": "waiting", "ahead": 2}
    assert desk.state(fourth) == {"state": "new"}
    with pytest.raises(FullError, match="line: expected at most 3 pictures, got one more; try again later"):
        desk.start(fourth, desk.options())
    with pytest.raises(SynergicError, match="picture: expected one run at a time"):
        desk.start(first, desk.options())
    runs[1].stop()
    assert desk.state(second) == {"state": "stopped"}
    assert desk.state(third) == {"state": "waiting", "ahead": 1}
    desk.start(fourth, desk.options())
    go_on.set()
    runs[2].future.result(10)
    assert desk.state(third) == {"state": "restored", "task": "denoise", "warnings": []}


def test_a_run_stops_after_the_tile_at_hand_and_keeps_an_earlier_result(
    desk: Desk, tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hand_in(desk, save(tmp_path / "a.png", random.integers(0, 256, (380, 380, 1), np.uint8)))
    restored(desk, token)
    before = desk.save(token, 1.0).read_bytes()
    tick = Run.tick

    def stop_at_the_third(run: Run, done: int, total: int) -> None:
        run.stopped = done == 3
        tick(run, done, total)

    monkeypatch.setattr(Run, "tick", stop_at_the_third)
    run = desk.start(token, desk.options(sigma=50.0))
    assert isinstance(run.future.exception(), StoppedError)
    assert (run.done, run.total) == (3, 25)
    assert desk.state(token) == {"state": "stopped"}
    assert desk.save(token, 1.0).read_bytes() == before


@pytest.mark.parametrize("error", [StoppedError(), SynergicError("a"), ValueError("b"), MemoryError()])
def test_a_run_that_ends_early_keeps_no_picture(
    error: Exception, desk: Desk, tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error stays, by which the visitor is told; a picture would be 15 bytes a pixel."""
    held = []

    def read(path: Path, **limits: int) -> Picture:
        held.append(weakref.ref(picture := read_picture(path, **limits)))
        return picture

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("synergic.desk.read_picture", read)
    monkeypatch.setattr(Run, "tick", fail)
    token = hand_in(desk, save(tmp_path / "a.png", random.integers(0, 256, (38, 38, 1), np.uint8)))
    run = desk.start(token, desk.options(sigma=50.0))
    assert run.future.exception() is not None
    desk.network.submit(int).result()  # its thread has gone on
    gc.collect()
    assert held and all(picture() is None for picture in held)


def test_time_is_limited_and_what_is_left_is_told(desk: Desk, tmp_path: Path) -> None:
    run = Run(seconds=10, started=time.monotonic() - 6)
    run.tick(3, 4)
    assert run.state()["seconds_left"] == pytest.approx(2, abs=0.1)
    assert run.state()["share"] == pytest.approx(0.75, abs=0.02)
    desk.limits = Limits(seconds=1e-6)
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)))
    with pytest.raises(
        SynergicError, match="time: expected at most 1e-06 seconds, got more; hand in a smaller picture"
    ):
        restored(desk, token)
    assert desk.state(token)["state"] == "failed"


def test_what_is_left_is_expected_by_the_last_runs() -> None:
    """2 seconds for a megapixel, and 5 for two: 7 / 3 seconds for each."""
    pace = Pace()

    def run(pixels: int, seconds: float) -> dict[str, Any]:
        run = Run(seconds=100, started=time.monotonic())
        with pace.kept(run, "restoring", pixels):
            assert run.started is not None
            run.started -= seconds
            return run.state()

    assert run(1_000_000, 2)["seconds_left"] is None
    assert run(2_000_000, 5)["seconds_left"] == 0  # 4 were expected
    state = run(6_000_000, 7)
    assert (state["seconds_left"], state["share"]) == (pytest.approx(7, abs=0.1), pytest.approx(0.5, abs=0.01))
    tiny = run(64, 0.0)["seconds_left"]
    assert tiny == pytest.approx(0.1 * 14 / 9, abs=0.1), "14 seconds for 9 megapixels, a tenth at the least"


def test_every_picture_after_the_first_is_expected(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, call = [], Restorer.__call__
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((40, 40, 1), np.uint8)))

    def told(*arguments: object, **named: object) -> np.ndarray:
        states.append(desk.state(token))
        return call(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Restorer, "__call__", told)
    for _ in range(2):
        restored(desk, token)
    assert [state["seconds_left"] is None for state in states] == [True, False]
    for _ in range(2):
        restored(desk, token)
        run = desk.draw(token, "Where it borrowed")
        run.future.result()
    assert run.expected is not None


def test_an_error_of_ours_is_told_without_its_text(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)))
    monkeypatch.setattr(Restorer, "__call__", breaks)
    with pytest.raises(RuntimeError):
        restored(desk, token)
    line = "picture: expected to restore it, got RuntimeError; the log of `synergic serve` says more"
    assert desk.state(token) == {"state": "failed", "error": line}
    assert "/secret/path" in caplog.text


def test_what_is_thrown_away_is_gone(desk: Desk, tmp_path: Path) -> None:
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)))
    held = desk.find(token)
    with pytest.raises(GoneError, match="not restored yet"):
        desk.save(token, 1.0)
    restored(desk, token)
    desk.save(token, 0.5)
    desk.forget(token)
    wait_until(lambda: not held.folder.exists())
    with pytest.raises(GoneError, match="picture: expected one that is still here, got none; hand it in again"):
        desk.save(token, 1.0)
    with pytest.raises(GoneError), desk._files_of(held):
        pass  # what was on its way to be written is not written
    desk.forget(token)


def test_idle_pictures_are_swept_and_used_ones_stay(desk: Desk, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
    idle, used = hand_in(desk, source), hand_in(desk, source)
    for token in (idle, used):
        desk.find(token).last_use -= 2 * desk.limits.idle_seconds
    desk.find(used)
    desk.sweep()
    assert list(desk.held) == [used]


def test_a_drawing_is_in_use_ends_early_and_can_be_asked_for_again(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tiles: the first drawing stands still, the second is stopped between them, the third comes out."""
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((128, 190, 1), np.uint8)))
    restored(desk, token)
    begun, go_on = Event(), Event()

    def slow(restorer: Restorer, pixels: np.ndarray, progress: Progress, **told: object) -> np.ndarray:
        begun.set()
        assert go_on.wait(10)
        return heat_picture(restorer, pixels, progress=progress)

    monkeypatch.setitem(module.DRAWINGS, "Slow", Drawing(slow, "-"))
    run = desk.draw(token, "Slow")
    assert desk.draw(token, "Slow") is run
    assert begun.wait(10)
    assert desk.state(token)["drawings"]["Slow"]["state"] == "running"
    desk.held[token].last_use -= 2 * desk.limits.idle_seconds
    desk.sweep()
    assert list(desk.held) == [token]
    run.stop()
    again = desk.draw(token, "Slow")
    assert desk.state(token)["drawings"] == {"Slow": {"state": "waiting", "ahead": 1}}
    go_on.set()
    again.future.result(10)
    assert isinstance(run.future.exception(), StoppedError)
    assert (run.done, run.total) == (1, 2)
    assert desk.state(token)["drawings"] == {"Slow": {"state": "drawn"}}
    assert desk.draw(token, "Slow") is again
    begun.clear()
    go_on.clear()
    monkeypatch.setitem(module.DRAWINGS, "Slower", Drawing(slow, "-"))
    last = desk.draw(token, "Slower")
    assert begun.wait(10)
    desk.forget(token)
    go_on.set()
    assert isinstance(last.future.exception(10), StoppedError)


def test_time_is_limited_for_drawings_too(desk: Desk, tmp_path: Path) -> None:
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((128, 190, 1), np.uint8)))
    restored(desk, token)
    desk.limits = Limits(seconds=1e-6)
    run = desk.draw(token, "Where it borrowed")
    with pytest.raises(SynergicError, match="time: expected at most 1e-06 seconds, got more"):
        run.future.result(10)
    assert (run.done, run.total) == (1, 2)


def test_a_drawing_shows_the_run_as_it_was_told(
    desk: Desk, tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def flat(_: Restorer, pixels: np.ndarray, **named: object) -> np.ndarray:
        told.append((named["sigma"], named["quality"]))
        return np.zeros((*pixels.shape[:2], 3), np.uint8)

    monkeypatch.setitem(module.DRAWINGS, "Flat", Drawing(flat, "-"))
    token = hand_in(desk, save(tmp_path / "a.png", random.integers(0, 256, (40, 40, 1), np.uint8)))
    for sigma in (None, 30.0):
        restored(desk, token, **({} if sigma is None else {"sigma": sigma}))
        desk.draw(token, "Flat").future.result()
    assert told == [(None, None), (30.0, None)]


def test_what_is_left_again_takes_no_memory_without_end(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a run that takes long: places that are left cost the line nothing, up to a bound."""
    monkeypatch.setattr(module, "MOST_LEFT", 50)
    desk.limits = Limits(line=2)
    token = hand_in(desk, save(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8)))
    go_on, begun = Event(), Event()

    def wait(_: Run) -> None:
        begun.set()
        assert go_on.wait(10)

    with desk.lock:
        long = desk._enter(wait)
    assert begun.wait(10)
    for _ in range(49):
        desk.start(token, desk.options()).stop()
    with pytest.raises(FullError, match="line: expected at most 2 pictures, got one more; try again later"):
        desk.start(token, desk.options())
    go_on.set()
    long.future.result(10)
    restored(desk, token)
    assert desk.state(token)["state"] == "restored"


def test_closing_leaves_nothing(desk: Desk, tmp_path: Path, random: np.random.Generator) -> None:
    source = save(tmp_path / "a.png", random.integers(0, 256, (380, 380, 1), np.uint8))
    for token in [hand_in(desk, source) for _ in range(3)]:
        desk.start(token, desk.options())
    desk.close()
    assert list(desk.folder.iterdir()) == []


def test_a_view_can_be_drawn_on_demand(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def negative(restorer: Restorer, pixels: np.ndarray, **_: object) -> np.ndarray:
        assert restorer.card.task == "denoise"
        return np.broadcast_to(255 - pixels, (*pixels.shape[:2], 3))

    monkeypatch.setitem(module.DRAWINGS, "Negative", Drawing(negative, "-"))
    token = hand_in(desk, save(tmp_path / "a.png", np.full((8, 8, 1), 55, np.uint8)))
    with pytest.raises(GoneError, match="restore the picture first"):
        desk.draw(token, "Negative")
    restored(desk, token)
    with pytest.raises(GoneError):
        desk.view(token, "Negative")
    desk.draw(token, "Negative").future.result()
    assert abs(int(read_pixels(desk.view(token, "Negative"))[4, 4, 0]) - 200) <= 1
    assert desk.state(token)["drawings"] == {"Negative": {"state": "drawn"}}
    restored(desk, token)
    assert "drawings" not in desk.state(token)
    with pytest.raises(GoneError):  # it showed the run before
        desk.view(token, "Negative")
    with pytest.raises(GoneError):
        desk.view(token, "../source")


def test_what_cannot_be_asked_is_refused_before_a_run(desk: Desk) -> None:
    with pytest.raises(SynergicError, match="strength: expected 0 to 1, got 1.5"):
        desk.options(strength=1.5)
    with pytest.raises(SynergicError, match="sigma: expected 0 to 255, got 300"):
        desk.options(sigma=300)
