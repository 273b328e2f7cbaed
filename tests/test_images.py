"""Pictures in and out: every mode and depth, profile, orientation, atomic writing, refusals, JPEG in numbers."""

import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips  # type: ignore[import-untyped]
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin

from pictures import END, chunk, png, png_header
from synergic.errors import SynergicError
from synergic.images import (
    READABLE,
    WRITABLE,
    Picture,
    compress_jpeg,
    find_pictures,
    read_picture,
    read_pixels,
    write_picture,
)
from synergic.metadata import standard_tables

DATA = Path(__file__).parents[2] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared pictures are not at {DATA}")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"


def samples(channels: int, dtype: str, height: int = 5, width: int = 7) -> np.ndarray:
    """H W C of noise over the whole range of the type (-1 to 2 for float)."""
    noise = np.random.default_rng(channels).random((height, width, channels))
    return (noise * 3 - 1).astype(dtype) if dtype == "float32" else (noise * np.iinfo(dtype).max).astype(dtype)


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """H W 3, uint8, what JPEG takes well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x % 256, 5 * y, 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)


def picture(channels: int = 3, dtype: str = "uint8", alpha: bool = False) -> Picture:
    return Picture(samples(channels, dtype), samples(1, dtype)[:, :, 0] if alpha else None, {}, None)


def psnr(clean: np.ndarray, degraded: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((clean.astype(float) - degraded.astype(float)) ** 2)))


# every mode and depth


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", "uint8"),
        (".png", "uint16"),
        (".tif", "uint8"),
        (".tiff", "uint16"),
        (".TIF", "float32"),
        (".webp", "uint8"),
    ],
)
def test_lossless_round_trip(tmp_path: Path, suffix: str, dtype: str, channels: int, alpha: bool) -> None:
    path, before = tmp_path / f"picture{suffix}", picture(channels, dtype, alpha)
    write_picture(path, before)
    after = read_picture(path)
    wanted = np.repeat(before.pixels, 3, axis=2) if suffix == ".webp" and channels == 1 else before.pixels
    assert after.pixels.dtype == dtype
    assert np.array_equal(after.pixels, wanted)
    assert (after.alpha is None) == (before.alpha is None)
    if before.alpha is not None:
        assert after.alpha is not None and after.alpha.dtype == dtype
        assert np.array_equal(after.alpha, before.alpha)
    assert after.jpeg_quality is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_reads_png_by_the_specification(tmp_path: Path, bands: int, dtype: str) -> None:
    stored = samples(bands, dtype)
    (tmp_path / "a.png").write_bytes(png(stored))
    got = read_picture(tmp_path / "a.png")
    channels = 1 if bands < 3 else 3
    assert got.pixels.dtype == dtype
    assert np.array_equal(got.pixels, stored[:, :, :channels])
    assert (got.alpha is None) == (bands in (1, 3))
    if got.alpha is not None:
        assert np.array_equal(got.alpha, stored[:, :, channels])


PILLOW_MODES = {
    ".png": ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"],
    ".tif": ["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "F"],
    ".webp": ["L", "LA", "RGB", "RGBA"],
}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in PILLOW_MODES.items() for mode in modes]
)
def test_agrees_with_pillow(tmp_path: Path, mode: str, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    make = {"I;16": lambda: samples(1, "uint16")[:, :, 0], "F": lambda: samples(1, "float32")[:, :, 0]}
    stored = Image.fromarray(make[mode]() if mode in make else samples(4, "uint8"))
    stored = stored if mode in make else stored.convert("RGB").quantize(8) if mode == "P" else stored.convert(mode)
    exact: dict[str, Any] = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    stored.save(source, **exact)
    got = read_picture(source)
    wide = {"P": "RGB", "1": "L"}.get(mode, mode)
    wide = {"L": "RGB", "LA": "RGBA"}.get(wide, wide) if suffix == ".webp" else wide
    wanted = np.atleast_3d(np.array(stored.convert(wide)))
    bands = got.pixels if got.alpha is None else np.dstack([got.pixels, got.alpha])
    assert bands.dtype == wanted.dtype
    assert np.array_equal(bands, wanted)
    write_picture(tmp_path / f"out{suffix}", got)
    with Image.open(tmp_path / f"out{suffix}") as reread:
        assert reread.mode == wide
        assert np.array_equal(np.atleast_3d(np.array(reread)), wanted)


def test_pixels_alone_and_smallest_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "one.png", Picture(np.full((1, 1, 1), 9, np.uint8), np.zeros((1, 1), np.uint8), {}, None))
    for path in (tmp_path / "one.png", str(tmp_path / "one.png")):
        pixels = read_pixels(path)
        assert pixels.shape == (1, 1, 1) and pixels[0, 0, 0] == 9
    write_picture(str(tmp_path / "two.png"), read_picture(str(tmp_path / "one.png")))
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_second_read_sees_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    for value in (10, 200):
        write_picture(path, Picture(np.full((4, 4, 3), value, np.uint8), None, {}, None), overwrite=True)
        assert read_pixels(path).mean() == value


def test_odd_file_names(tmp_path: Path) -> None:
    for name in ("a[1].png", "b[Q=5]/c.png", "ünï çødé.png", os.fsdecode(b"\xff\xfe.png")):
        write_picture(tmp_path / name, picture())
        assert np.array_equal(read_pixels(tmp_path / name), picture().pixels)
    (tmp_path / "a[1].png").rename(tmp_path / "a.png[page=7]")
    assert np.array_equal(read_pixels(tmp_path / "a.png[page=7]"), picture().pixels)


# metadata and orientation


def exif_with(orientation: int, resolution: float = 300.0) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    exif[0x011A], exif[0x011B], exif[0x0128] = resolution, resolution, 2
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0x927C: b"MAKER\0NOTE\1\2"})
    return exif


@pytest.mark.parametrize("after", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("before", [".jpg", ".png", ".webp"])
def test_metadata_survives(tmp_path: Path, before: str, after: str) -> None:
    source, target = tmp_path / f"in{before}", tmp_path / f"out{after}"
    xmp: dict[str, Any] = {} if before == ".png" else {"xmp": XMP}
    Image.fromarray(smooth()).save(source, exif=exif_with(6), icc_profile=ICC, dpi=(300, 300), **xmp)
    got = read_picture(source)
    assert got.pixels.shape == (64, 48, 3)
    write_picture(target, got)
    with Image.open(target) as image:
        image.load()
        assert image.size == (48, 64)
        assert image.info["icc_profile"] == ICC
        assert image.getexif().get(0x0112, 1) == 1
        assert float(image.getexif()[0x011A]) == pytest.approx(300, abs=0.01)
        if xmp:
            assert XMP in (image.info.get("xmp"), image.info.get("XML:com.adobe.xmp", "").encode())
        if after != ".tif":
            assert image.getexif()[0x010F] == "Maker"
            details = image.getexif().get_ifd(0x8769)
            assert details[0x9003] == "2020:01:02 03:04:05" and details[0x927C] == b"MAKER\0NOTE\1\2"
    assert read_picture(target).metadata["icc-profile-data"] == ICC


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_no_metadata_is_made_up(tmp_path: Path, suffix: str) -> None:
    write_picture(tmp_path / f"a{suffix}", picture())
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert not {"exif", "icc_profile", "xmp"} & image.info.keys()
        assert suffix == ".tif" or "dpi" not in image.info  # of a TIFF without one Pillow says 1


@needs_data
def test_thumbnail_of_the_old_picture_goes(tmp_path: Path) -> None:
    source = DATA / "hostile/mixed/flower2.jpg"
    write_picture(tmp_path / "a.jpg", read_picture(source))
    with Image.open(source) as before, Image.open(tmp_path / "a.jpg") as after:
        assert 0x0201 in before.getexif().get_ifd(ExifTags.IFD.IFD1)
        assert 0x0201 not in after.getexif().get_ifd(ExifTags.IFD.IFD1)
        assert after.getexif()[0x0131] == before.getexif()[0x0131] == "Adobe Photoshop CS6 (Macintosh)"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    exact: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(smooth(6, 9)).save(path, exif=exif_with(orientation), **exact)
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    got = read_picture(path)
    assert np.array_equal(got.pixels, upright)
    write_picture(tmp_path / "again.png", got)
    assert np.array_equal(read_pixels(tmp_path / "again.png"), upright)


@needs_data
@pytest.mark.parametrize("layout", ["Landscape", "Portrait"])
def test_orientation_references(layout: str) -> None:
    folder = DATA / "hostile/orientation"
    reference = read_pixels(folder / f"{layout}_1.jpg")
    for orientation in (0, *range(2, 9)):
        turned = read_pixels(folder / f"{layout}_{orientation}.jpg")
        assert turned.shape == reference.shape
        assert psnr(reference, turned) > 28, (
            f"orientation {orientation}"
        )  # each is a JPEG of its own; a wrong turn is below 15


# refusals


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "a.jpg",
            picture(dtype="uint16"),
            "a.jpg: JPEG cannot hold uint16 pixels; write PNG or TIFF instead",
        ),
        ("a.jpg", picture(dtype="float32"), "a.jpg: JPEG cannot hold float32 pixels; write TIFF instead"),
        ("a.jpeg", picture(alpha=True), "a.jpeg: JPEG cannot hold alpha; write PNG or TIFF or WebP instead"),
        (
            "a.webp",
            picture(dtype="uint16"),
            "a.webp: WebP cannot hold uint16 pixels; write PNG or TIFF instead",
        ),
        ("a.png", picture(dtype="float32"), "a.png: PNG cannot hold float32 pixels; write TIFF instead"),
        (
            "a.tif",
            Picture(np.zeros((2, 2, 3)), None, {}, None),
            "TIFF cannot hold float64 pixels; convert them to uint8",
        ),
        (
            "a.webp",
            Picture(np.zeros((1, 16384, 3), np.uint8), None, {}, None),
            "a.webp: WebP cannot hold sides of 16,384 pixels; write PNG or TIFF or JPEG instead",
        ),
        (
            "a.jpg",
            Picture(np.zeros((65501, 1, 1), np.uint8), None, {}, None),
            "a.jpg: JPEG cannot hold sides of 65,501 pixels; write PNG or TIFF instead",
        ),
        (
            "a.gif",
            picture(),
            "expected a name ending in one of .jfif .jpe .jpeg .jpg .png .tif .tiff .webp, got '.gif'",
        ),
    ],
)
def test_write_refuses_what_a_format_cannot_hold(tmp_path: Path, name: str, given: Picture, message: str) -> None:
    with pytest.raises(SynergicError) as error:
        write_picture(tmp_path / name, given)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def refused(path: Path, **options: int) -> str:
    with pytest.raises(SynergicError) as error:
        read_picture(path, **options)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def test_read_refuses_other_colours(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    Image.new("CMYK", (8, 8)).save(path)
    assert refused(path) == "expected gray or RGB, got CMYK; convert it to RGB first"
    Image.new("I", (8, 8)).save(path)
    assert refused(path).startswith("expected 8-bit, 16-bit or 32-bit float samples, got int samples")
    pyvips.Image.black(8, 8).cast("double").tiffsave(str(path))
    assert refused(path).startswith("expected 8-bit, 16-bit or 32-bit float samples, got 64-bit samples")


def test_white_as_zero_is_turned_or_refused(tmp_path: Path) -> None:
    """libvips turns integers, and takes floats as they are: they would be written inverted."""
    path, ramp = tmp_path / "photo.tif", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    tifffile.imwrite(path, (ramp * 255).astype(np.uint8), photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(path).pixels[..., 0], 255 - (ramp * 255).astype(np.uint8))
    tifffile.imwrite(path, ramp, photometric="miniswhite")
    assert refused(path) == "expected floats of which 0 is black, got 0 as white; invert them first"
    pixels = np.full((8, 8, 2), 90, np.uint8)
    tifffile.imwrite(path, pixels, photometric="miniswhite", extrasamples=["assocalpha"], planarconfig="contig")
    assert refused(path).startswith("expected colours multiplied by transparency of which 0 is black, got 0 as white")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_multiplied_by_its_transparency_comes_as_it_is_without(tmp_path: Path, dtype: type) -> None:
    path, top = tmp_path / "photo.tif", 1 if dtype is np.float32 else np.iinfo(dtype).max
    gray = np.linspace(0.1, 0.9, 64).reshape(8, 8)
    pixels: np.ndarray = (np.stack([gray * 0.5, np.full_like(gray, 0.5)], 2) * top).astype(dtype)
    tifffile.imwrite(path, pixels, photometric="minisblack", extrasamples=["assocalpha"], planarconfig="contig")
    found = read_picture(path)
    assert found.pixels[..., 0] / top == pytest.approx(gray, abs=0.01)
    assert found.alpha is not None and found.alpha / top == pytest.approx(0.5, abs=0.01)


def test_what_libvips_reads_wrongly_is_refused(tmp_path: Path) -> None:
    """Planes of few bits or with transparency, and YCbCr outside of JPEG; planes of 8 bits it reads well."""
    path, ramp = tmp_path / "photo.tif", np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4
    Image.fromarray(ramp > 120).save(path, compression="group4", tiffinfo={284: 2})
    planes = "expected samples side by side (PlanarConfiguration 1), got planes; save it anew"
    assert refused(path) == planes
    separate: dict[str, Any] = {"planarconfig": "separate", "metadata": None}
    two = np.stack([ramp, ramp.T])
    tifffile.imwrite(path, two, photometric="minisblack", extrasamples=["unassalpha"], **separate)
    assert refused(path) == planes
    Image.fromarray(ramp).save(path, tiffinfo={284: 2})
    np.testing.assert_array_equal(read_pixels(path)[..., 0], ramp)
    colour = np.stack([ramp, ramp[::-1], ramp[:, ::-1]])
    tifffile.imwrite(path, colour, photometric="rgb", **separate)
    np.testing.assert_array_equal(read_pixels(path), colour.transpose(1, 2, 0))
    flat = Image.new("RGB", (32, 32), (200, 100, 50))
    flat.convert("YCbCr").save(path, compression="tiff_lzw")
    assert refused(path) == "expected gray or RGB, got YCbCr; convert it to RGB first"
    flat.save(path, compression="jpeg")
    assert read_pixels(path)[16, 16] == pytest.approx([200, 100, 50], abs=3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_read_refuses_pages_and_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert refused(tmp_path / f"a{suffix}") == "expected one picture, got 3 pages or frames; split it into files first"


def test_a_stack_of_imagej_that_names_its_first_picture_alone_is_refused(tmp_path: Path) -> None:
    path, stack = tmp_path / "a.tif", np.zeros((3, 16, 20), np.uint16)
    tifffile.imwrite(path, stack, imagej=True, truncate=True)
    assert refused(path) == "expected one picture, got 3 pages or frames; split it into files first"
    tifffile.imwrite(path, stack[0], description="ImageJ=1.54\nimages=3\n", metadata=None)
    assert read_pixels(path).shape == (16, 20, 1), "a page of a stack, taken out of it with its text"


def test_read_refuses_bombs_by_the_header(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", picture())
    assert refused(tmp_path / "a.png", max_pixels=34).startswith("expected at most 34 pixels, got 7 x 5")
    assert read_picture(tmp_path / "a.png", max_pixels=35).pixels.shape == (5, 7, 3)
    bomb = png_header(100_000, 100_000) + chunk(b"IDAT", zlib.compress(bytes(10))) + END
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert refused(tmp_path / "bomb.png").startswith("expected at most 500,000,000 pixels, got 100000 x 100000")


@pytest.mark.parametrize("suffix", sorted(WRITABLE))
def test_read_refuses_half_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(samples(3, "uint8", 64, 64), None, {}, None))
    whole = path.read_bytes()
    for part in (0, 1, 10, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:part])
        assert refused(path).startswith("cannot be read: ")


def test_read_refuses_a_jpeg_closed_too_early(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_picture(path, Picture(samples(3, "uint8", 64, 64), None, {}, None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    assert "premature end of data segment" in refused(path)
    path.write_bytes(whole[:2] + b"junk" + whole[2:])  # libjpeg warns and skips it: nothing is lost
    assert read_pixels(path).shape == (64, 64, 3)
    (tmp_path / "b.jpg").write_bytes(b"not a picture")
    assert "junk" not in refused(tmp_path / "b.jpg") and "extraneous" not in refused(tmp_path / "b.jpg")


def test_read_refuses_a_jpeg_in_a_tiff_closed_too_early(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(samples(3, "uint8", 64, 64)).tiffsave(str(path), compression="jpeg", Q=90)
    assert read_pixels(path).shape == (64, 64, 3)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 500] = b"\xff\xd9" + bytes(498)
    path.write_bytes(whole)
    assert refused(path).startswith("cannot be read: its contents are damaged")


def test_read_refuses_what_is_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.png") == "expected a picture file, but there is none; check the path"
    assert refused(tmp_path) == "expected a picture file, got something else; check the path"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert refused(tmp_path / "pipe") == "expected a picture file, got something else; check the path"


@pytest.mark.parametrize(
    "said", ["jpegload: out of memory -- size == 231MB\n", "webpsave: failed to allocate 243000000 bytes\n"]
)
def test_too_little_memory_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    def starved(*_: Any, **__: Any) -> None:
        error = pyvips.Error("unable to call")
        error.detail = said
        raise error

    picture = Picture(np.zeros((8, 8, 3), np.uint8), None, {}, None)
    write_picture(tmp_path / "a.png", picture)
    monkeypatch.setattr("synergic.images._open", starved)
    with pytest.raises(MemoryError):
        read_picture(tmp_path / "a.png")
    with pytest.raises(MemoryError):
        write_picture(tmp_path / "b.png", picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_a_tiff_packed_as_this_library_does_not_know_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        error = pyvips.Error("unable to call")
        error.detail = "tiffload: ZSTD compression support is not configured\n"
        raise error

    write_picture(tmp_path / "a.tif", Picture(np.zeros((8, 8, 3), np.uint8), None, {}, None))
    monkeypatch.setattr("synergic.images._open", unknown)
    wanted = "cannot be read: ZSTD compression support is not configured; save it with deflate or LZW first"
    assert refused(tmp_path / "a.tif") == wanted


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_what_is_too_large_to_be_read_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    picture = Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), None, {}, None)
    monkeypatch.setattr("synergic.images._MOST_IN_MEMORY", 1000)
    assert write_picture(tmp_path / f"a{suffix}", picture) == ()
    with pytest.raises(SynergicError, match=r"expected at most 1,000 bytes of JPEG or WebP, got .*; split it"):
        read_picture(tmp_path / f"a{suffix}")


@needs_data
def test_hostile_files_read_or_raise() -> None:
    outcomes = {}
    for path in [
        *sorted((DATA / "hostile/pngsuite").glob("x*.png")),
        *sorted((DATA / "hostile/mixed").glob("*r*.tif*")),
    ]:
        try:
            pixels = read_pixels(path)
            assert pixels.ndim == 3 and pixels.shape[2] in (1, 3)
        except SynergicError as error:
            outcomes[path.name] = str(error)
    assert all("\n" not in line for line in outcomes.values())
    assert {name for name in outcomes if name.startswith("x")} == {
        path.name for path in (DATA / "hostile/pngsuite").glob("x*.png")
    }


# folders


def test_find_pictures(tmp_path: Path) -> None:
    names = [
        "b.PNG",
        "a.jpg",
        "sub/c.tiff",
        "sub/deeper/d.webp",
        "notes.txt",
        ".hidden.png",
        ".trash/e.png",
        "._a.jpg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    relative = [Path(name) for name in ("a.jpg", "b.PNG", "sub/c.tiff", "sub/deeper/d.webp")]
    assert find_pictures([tmp_path]) == [(tmp_path / name, name) for name in relative]
    assert find_pictures([tmp_path / "sub/c.tiff"]) == [(tmp_path / "sub/c.tiff", Path("c.tiff"))]
    assert find_pictures([tmp_path / "notes.txt"]) == [(tmp_path / "notes.txt", Path("notes.txt"))]
    assert find_pictures([]) == []
    with pytest.raises(SynergicError, match=r"gone\.png: expected a picture or a folder, but nothing is there"):
        find_pictures([tmp_path / "a.jpg", tmp_path / "gone.png"])
    assert READABLE == WRITABLE == {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp"}


# JPEG


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("subsampling", [False, True])
@pytest.mark.parametrize("quality", [1, 10, 50, 95, 100])
def test_compress_jpeg_is_libjpeg(quality: int, subsampling: bool, gray: bool) -> None:
    pixels = smooth(45, 61)[:, :, :1] if gray else smooth(45, 61)
    file = BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling=2 if subsampling else 0)
    wanted = np.array(Image.open(file)).reshape(pixels.shape)
    assert np.array_equal(compress_jpeg(pixels, quality, subsampling=subsampling), wanted)


def test_compress_jpeg_takes_crops_and_refuses_the_rest() -> None:
    pixels = smooth()
    assert np.array_equal(compress_jpeg(pixels[8:24, 8:24], 30), compress_jpeg(pixels[8:24, 8:24].copy(), 30))
    with pytest.raises(SynergicError, match="quality: expected 1 to 100, got 0"):
        compress_jpeg(pixels, 0)
    with pytest.raises(SynergicError, match="expected uint8 H W C"):
        compress_jpeg(pixels.astype(np.float32), 50)
    with pytest.raises(SynergicError, match="expected uint8 H W C"):
        compress_jpeg(pixels[:, :, 0], 50)


@needs_data
@pytest.mark.parametrize(
    ("folder", "wanted"),
    [("classic5", (27.82, 30.12, 31.48, 32.43)), ("live1_luma", (27.77, 30.07, 31.41, 32.35))],
)
def test_jpeg_protocol_figures(folder: str, wanted: tuple[float, ...]) -> None:
    cleans = [read_pixels(path) for path, _ in find_pictures([DATA / "eval" / folder])]
    for quality, mean in zip((10, 20, 30, 40), wanted, strict=True):
        scores = [psnr(clean, compress_jpeg(clean, quality)) for clean in cleans]
        assert np.mean(scores) == pytest.approx(mean, abs=0.01), f"quality {quality}"


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_quality(tmp_path: Path, progressive: bool) -> None:
    for quality in range(1, 101):
        for mode in ("L", "RGB"):
            image = Image.fromarray(smooth(16, 16)).convert(mode)
            image.save(tmp_path / "a.jpg", quality=quality, progressive=progressive)
            assert read_picture(tmp_path / "a.jpg").jpeg_quality == quality


def test_jpeg_quality_of_tables_of_ones_own(tmp_path: Path) -> None:
    image, path = Image.fromarray(smooth(16, 16)), tmp_path / "a.jpg"
    image.save(path, qtables=[[1] * 64, [99] * 64])  # the second table is chroma's
    assert read_picture(path).jpeg_quality == 100
    image.save(path, qtables=[[255] * 64, [1] * 64])
    assert read_picture(path).jpeg_quality == 1
    table = standard_tables()[29].tolist()
    image.save(path, qtables=[[*table[:-1], table[-1] + 1], [99] * 64])
    assert read_picture(path).jpeg_quality == 30


@pytest.mark.parametrize(("before", "wanted"), [(None, 98), (40, 95), (95, 95), (96, 96), (98, 98), (100, 100)])
def test_jpeg_is_written_at_no_less_than_it_had(tmp_path: Path, before: int | None, wanted: int) -> None:
    source = tmp_path / ("in.png" if before is None else "in.jpg")
    Image.fromarray(smooth()).save(source, quality=before or 0, subsampling=2)
    picture = read_picture(source)
    write_picture(tmp_path / "a.jpg", picture)
    got = read_picture(tmp_path / "a.jpg")
    assert got.jpeg_quality == wanted
    assert np.array_equal(got.pixels, compress_jpeg(picture.pixels, wanted))
    with Image.open(tmp_path / "a.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4


@needs_data
@pytest.mark.parametrize("quality", [None, 96, 98, 100])
def test_jpeg_loses_little_of_what_comes_in_fine(tmp_path: Path, quality: int | None) -> None:
    scores = []
    for path, _ in find_pictures([DATA / "eval/live1"]):
        source = tmp_path / (f"{path.stem}.png" if quality is None else f"{path.stem}.jpg")
        Image.fromarray(read_pixels(path)).save(source, quality=quality or 0, subsampling=0)
        write_picture(tmp_path / "out.jpg", read_picture(source), overwrite=True)
        scores.append(psnr(read_pixels(source), read_pixels(tmp_path / "out.jpg")))
    assert len(scores) == 29
    assert min(scores) > 42
