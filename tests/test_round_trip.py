"""Files come back as they were: every mode and format, all the way through `restore_files`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import tiny_card, tiny_network
from pictures import ICC, MODES, XMP, chunk, png, samples, write_mode, write_tiff
from synergic import Restorer
from synergic.batch import Job, Options, restore_files
from synergic.images import read_picture, write_picture

RESTORER = Restorer(tiny_network(), tiny_card(), torch.device("cpu"), torch.float32)
KINDS = [(suffix, mode) for suffix, modes in MODES.items() for mode in modes]
sizes = st.tuples(st.integers(1, 200), st.integers(1, 200))
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def restore(source: Path, target: Path, **changes: Any) -> dict[str, Any]:
    """One file through the whole way, by default at strength 0, at which the network changes nothing."""
    options = Options(weights="tiny", loaded={"tiny": RESTORER}, overwrite=True, **({"strength": 0.0} | changes))
    (result,) = restore_files([Job(source, target)], options)
    return result


def stored(path: Path, like: np.ndarray) -> np.ndarray:
    """H W C of a file as others than the package read it; 16-bit colour PNG, which they cannot, as the package does
    (held to the specification in test_images.py)."""
    if path.suffix == ".tif":
        return np.asarray(tifffile.imread(path)).reshape(like.shape)
    if like.dtype == np.uint16:
        picture = read_picture(path)
        return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    with Image.open(path) as image:
        return np.atleast_3d(np.array(image))


@many
@given(kind=st.sampled_from(KINDS), size=sizes, seed=st.integers(0, 99), orientation=st.integers(1, 8))
def test_strength_0_gives_every_sample_back(
    tmp_path: Path, kind: tuple[str, str], size: tuple[int, int], seed: int, orientation: int
) -> None:
    suffix, mode = kind
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    wanted = write_mode(source, mode, size, seed, orientation)
    assert restore(source, target)["status"] == "restored"
    got = stored(target, wanted)
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    if suffix == ".jpg":
        assert np.abs(got.astype(int) - wanted).mean() < 3, "compressed once more"
    else:
        np.testing.assert_array_equal(got, wanted)


@many
@given(kind=st.sampled_from(KINDS), size=sizes, seed=st.integers(0, 99))
def test_restoring_changes_colours_and_nothing_else(
    tmp_path: Path, kind: tuple[str, str], size: tuple[int, int], seed: int
) -> None:
    suffix, mode = kind
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    before = write_mode(source, mode, size, seed, orientation=6)
    assert restore(source, target, strength=1.0)["status"] == "restored"
    after = stored(target, before)
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    colours = 1 if before.shape[2] < 3 else 3
    np.testing.assert_array_equal(after[..., colours:], before[..., colours:])
    assert before.size < 100 or (after[..., :colours] != before[..., :colours]).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "mode"), KINDS)
def test_profile_resolution_and_metadata_come_along(tmp_path: Path, suffix: str, mode: str, orientation: int) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write_mode(source, mode, (9, 7), orientation=orientation)
    restore(source, target)
    before, after = metadata(source), metadata(target)
    assert len(after["profile"]) == len(ICC)
    assert after["profile"] == before["profile"]
    assert after["dpi"] == pytest.approx(300, abs=0.02)
    assert (before["orientation"], after["orientation"]) == (orientation, 1)
    if suffix != ".tif":
        assert after["maker"] == "Maker"
    elif mode not in ("1", "P"):
        assert (before["xmp"], after["xmp"]) == (XMP % orientation, XMP % 1)


def metadata(path: Path) -> dict[str, Any]:
    """Read by others than the package."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            tags = {tag.code: tag.value for tag in file.pages.first.tags.values()}
        dots, unit = tags[282]
        return {"profile": tags[34675], "dpi": dots / unit, "orientation": tags.get(274, 1), "xmp": tags.get(700)}
    with Image.open(path) as image:
        exif = image.getexif()
    return {
        "profile": image.info["icc_profile"],
        "dpi": float(image.info.get("dpi", [exif.get(0x011A)])[0]),
        "orientation": exif.get(0x0112),
        "maker": exif.get(0x010F),
    }


def test_half_floats_become_floats(tmp_path: Path) -> None:
    half = np.linspace(-0.2, 2, 48, dtype=np.float16).reshape(6, 8)
    tifffile.imwrite(tmp_path / "in.tif", half)
    restore(tmp_path / "in.tif", tmp_path / "out.tif")
    got = tifffile.imread(tmp_path / "out.tif")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, half)


def test_gray_stored_as_rgb_comes_back_gray(tmp_path: Path) -> None:
    gray = np.repeat(samples("L", 60, 50), 3, axis=2)
    for suffix in (".png", ".tif", ".webp"):
        Image.fromarray(gray).save(tmp_path / f"in{suffix}", lossless=True)
        restore(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", strength=1.0)
        got = stored(tmp_path / f"out{suffix}", gray)
        assert (got == got[..., :1]).all()
        assert (got != gray).any()


def test_the_colour_space_of_a_png_comes_along(tmp_path: Path) -> None:
    wide = [
        chunk(b"gAMA", (45455).to_bytes(4, "big")),
        chunk(b"cHRM", b"".join(n.to_bytes(4, "big") for n in (31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600))),
        chunk(b"cICP", bytes([9, 16, 0, 1])),  # BT.2020 with the PQ curve: wrong in every colour without it
        chunk(b"mDCV", bytes(range(24))),
        chunk(b"cLLI", bytes(range(8))),
    ]
    (tmp_path / "in.png").write_bytes(png(samples("RGB16", 9, 7), *wide, chunk(b"tIME", bytes(7))))
    restore(tmp_path / "in.png", tmp_path / "out.png")
    after = (tmp_path / "out.png").read_bytes()
    assert all(part in after for part in wide)
    assert b"tIME" not in after
    np.testing.assert_array_equal(stored(tmp_path / "out.png", samples("RGB16", 9, 7)), samples("RGB16", 9, 7))
    restore(tmp_path / "in.png", tmp_path / "out.tif")  # where they have no place
    standard = chunk(b"sRGB", b"\0")
    for told, lost in (([standard], ()), ([standard, wide[2]], ("the colour space",))):  # cICP outranks sRGB
        (tmp_path / "in.png").write_bytes(png(samples("RGB", 9, 7), *told))
        assert write_picture(tmp_path / "out.webp", read_picture(tmp_path / "in.png"), overwrite=True) == lost


@pytest.mark.parametrize("spelling", [b'tiff:Orientation="6"', b"tiff:Orientation='6'", b"<tiff:Orientation>6<"])
def test_a_turned_picture_is_not_turned_again_by_its_xmp(tmp_path: Path, spelling: bytes) -> None:
    xmp, turned = b"<x>%s</x>" % spelling, b"<x>%s</x>" % spelling.replace(b"6", b"1")
    image, exif = Image.fromarray(samples("RGB", 8, 5)), Image.Exif()
    image.save(tmp_path / "untold.jpg", xmp=xmp)
    exif[0x0112] = 6
    image.save(tmp_path / "told.jpg", xmp=xmp, exif=exif)
    for name, wanted, shape in (("untold", xmp, (5, 8)), ("told", turned, (8, 5))):
        picture = read_picture(tmp_path / f"{name}.jpg")
        assert picture.metadata["xmp-data"] == wanted
        assert picture.pixels.shape[:2] == shape


def save_frames(path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def write_thumbnail_first(path: Path) -> None:
    """As cameras write DNG and NEF: a thumbnail, and the photograph in a folder below."""
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((4, 4, 3), np.uint8), photometric="rgb", subifds=1)
        file.write(np.zeros((64, 64), np.uint16))


REFUSED: dict[str, Callable[[Path], Any]] = {
    "cmyk.jpg": lambda path: Image.new("CMYK", (8, 8)).save(path),
    "cmyk.tif": lambda path: Image.new("CMYK", (8, 8)).save(path),
    "lab.tif": lambda path: Image.new("LAB", (8, 8)).save(path),
    "int32.tif": lambda path: Image.new("I", (8, 8)).save(path),
    "int16.tif": lambda path: tifffile.imwrite(path, np.zeros((8, 8), np.int16)),
    "double.tif": lambda path: tifffile.imwrite(path, np.zeros((8, 8), np.float64)),
    "nan.tif": lambda path: write_tiff(path, np.full((8, 8, 1), np.nan, np.float32)),
    "huge.tif": lambda path: write_tiff(path, np.full((8, 8, 3), 3e38, np.float32)),
    "levels.tif": lambda path: write_tiff(path, np.full((8, 8, 1), 255, np.float32)),
    "centred.tif": lambda path: write_tiff(path, np.full((8, 8, 1), -0.5, np.float32)),
    "unspecified.tif": lambda path: tifffile.imwrite(
        path, np.zeros((8, 8, 4), np.uint8), photometric="rgb", extrasamples=["unspecified"]
    ),
    "bands.tif": lambda path: tifffile.imwrite(path, np.zeros((8, 8, 6), np.uint8), photometric="rgb"),
    "pages.tif": lambda path: tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint8)),
    "raw.tif": write_thumbnail_first,
    "frames.png": save_frames,
    "frames.webp": save_frames,
    "frames.gif": save_frames,
    "beside.png": lambda path: path.write_bytes(png(samples("RGB", 8, 8), chunk(b"acTL", bytes([0, 0, 0, 1] * 2)))),
}
"""What is no single gray or RGB picture in a depth that comes back: never restored in part, never silently."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_come_back_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    REFUSED[name](tmp_path / name)
    result = restore(tmp_path / name, tmp_path / "out" / name, strength=1.0)
    assert result["status"] == "failed"
    assert result["error"].count("\n") == 0
    assert "expected" in result["error"] and "unexpected" not in result["error"]
    assert not (tmp_path / "out" / name).exists()
