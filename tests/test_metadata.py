"""What a file holds beside its pixels comes back as it was, by Pillow, tifffile and the formats' specifications."""

import struct
import time
import zlib
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, PngImagePlugin

from pictures import END, ICC, XMP, chunk, exif, png, samples
from synergic.errors import SynergicError
from synergic.images import read_picture, write_picture
from synergic.tags import INCH, Resolution, Tag, count_folders, rewrite_tags, upright_exif

RGB = samples("RGB", 20, 13)
KEY = b"XML:com.adobe.xmp\0"


def rewritten(path: Path, suffix: str = "") -> Path:
    """Read and written again, as the suffix says."""
    target = path.with_name(f"out{suffix or path.suffix}")
    write_picture(target, read_picture(path), overwrite=True)
    return target


def chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """Name and contents of each chunk of a PNG, checksums checked."""
    contents, start, found = path.read_bytes(), 8, []
    while start < len(contents):
        (length,) = struct.unpack_from(">I", contents, start)
        name, body = contents[start + 4 : start + 8], contents[start + 8 : start + 8 + length]
        assert contents[start : start + 12 + length] == chunk(name, body)
        found.append((name, body))
        start += 12 + length
    return found


def bodies(path: Path, name: bytes) -> list[bytes]:
    return [body for found, body in chunks(path) if found == name]


# ---- texts of PNG

TEXTS = [
    chunk(b"tEXt", b"Author\0J\xf6rg"),
    chunk(b"tEXt", b"Creation Time\x002020"),
    chunk(b"tEXt", b"Creation Place\0X"),
    chunk(b"iTXt", "Title\0\0\0de\0Titel\0Größe".encode()),
    chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3000)),
]


@pytest.mark.parametrize("behind", [False, True])
def test_texts_come_back_byte_for_byte(tmp_path: Path, behind: bool) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(png(RGB)[: -len(END)] + b"".join(TEXTS) + END if behind else png(RGB, *TEXTS))
    out = rewritten(path)
    assert [chunk(name, body) for name, body in chunks(out) if name in (b"tEXt", b"iTXt", b"zTXt")] == TEXTS
    with Image.open(out) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text["Author"] == "Jörg" and image.text["Title"] == "Größe"
        assert (image.text["Creation Time"], image.text["Creation Place"]) == ("2020", "X")
        np.testing.assert_array_equal(np.array(image), RGB)


XMP_CHUNKS = {
    "plain": chunk(b"iTXt", KEY + b"\0\0\0\0" + XMP % 6),
    "packed": chunk(b"iTXt", KEY + b"\1\0\0\0" + zlib.compress(XMP % 6)),
    "libvips": chunk(b"zTXt", KEY + b"\0" + zlib.compress(XMP % 6)),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", XMP_CHUNKS)
def test_xmp_is_where_readers_look_for_it(tmp_path: Path, kind: str, behind: bool) -> None:
    path = tmp_path / "in.png"
    for orientation in (1, 6):
        added = XMP_CHUNKS[kind] + chunk(b"eXIf", exif(orientation).tobytes()[6:])
        path.write_bytes(png(RGB)[: -len(END)] + added + END if behind else png(RGB, added))
        out, wanted = rewritten(path), XMP % (6 if orientation == 1 else 1)
        assert bodies(out, b"iTXt") == [KEY + b"\0\0\0\0" + wanted]
        assert bodies(out, b"zTXt") == []
        with Image.open(out) as image:
            assert image.info["xmp"] == wanted
        for suffix in (".jpg", ".webp"):
            with Image.open(rewritten(path, suffix)) as image:
                assert image.info["xmp"] == wanted
        with tifffile.TiffFile(rewritten(path, ".tif")) as file:
            assert file.pages.first.tags[700].value == wanted


def test_xmp_of_other_formats_comes_into_png(tmp_path: Path) -> None:
    for suffix in (".jpg", ".webp"):
        Image.fromarray(RGB).save(tmp_path / f"in{suffix}", xmp=XMP % 1)
        assert bodies(rewritten(tmp_path / f"in{suffix}", ".png"), b"iTXt") == [KEY + b"\0\0\0\0" + XMP % 1]


def test_damaged_chunks_stay_behind(tmp_path: Path) -> None:
    """Their readers would pass over them, too."""
    (tmp_path / "in.png").write_bytes(
        png(RGB, TEXTS[0][:-4] + b"\0\0\0\0", TEXTS[1], chunk(b"iTXt", KEY + b"\1\0\0\0no"))
    )
    assert [name for name, _ in chunks(rewritten(tmp_path / "in.png"))] == [b"IHDR", b"tEXt", b"iTXt", b"IDAT", b"IEND"]


# ---- EXIF

ASKED_FOR = {0x013C: "iPhone 15", 0x4746: 5, 0x4749: 99, 0x010F: "Maker", 0x013B: "Jane"}
DETAILS = {0xA437: "Jane", 0xA436: "Title", 0x9400: 21, 0x9003: "2020:01:02 03:04:05", 0xA002: 8, 0xA003: 5}
NOTE = b"Nikon\0\2\0" + bytes(range(256))


def rich_exif(order: str, orientation: int, dpi: tuple[int, int] = (300, 300)) -> bytes:
    """What libexif does not know among it: ratings, a host, a photographer; a camera's note, a place, a thumbnail."""
    told = Image.Exif()
    told.endian = order
    told.update(ASKED_FOR | {0x0112: orientation, 0x011A: dpi[0], 0x011B: dpi[1], 0x0128: 2})
    told.get_ifd(0x8769).update(DETAILS | {0x927C: NOTE})
    told.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0)})
    block = told.tobytes()[6:]
    return with_thumbnail(block, order)


THUMBNAIL = b"\xff\xd8 the old picture \xff\xd9"


def with_thumbnail(block: bytes, order: str) -> bytes:
    """EXIF with a second folder that says where a thumbnail lies."""
    (first,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, first)
    at, start = first + 2 + 12 * count, len(block)
    entries = [
        (0x0103, 3, 1, 6 if order == "<" else 6 << 16),
        (0x0201, 4, 1, start + 42),
        (0x0202, 4, 1, len(THUMBNAIL)),
    ]
    second = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    second = struct.pack(order + "H", 3) + second + bytes(4)
    return block[:at] + struct.pack(order + "I", start) + block[at + 4 :] + second + THUMBNAIL


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_stays_as_it_was(tmp_path: Path, suffix: str, order: str) -> None:
    """But for what is no longer true: the orientation, the size, and the thumbnail."""
    for orientation in (1, 6):
        told, size = rich_exif(order, orientation, (300, 200)), (5, 8) if orientation == 6 else (8, 5)
        Image.fromarray(RGB[:5, :8]).save(tmp_path / f"in{suffix}", exif=b"Exif\0\0" + told, dpi=(300, 200))
        for after in (".jpg", ".png", ".webp"):
            assert said(tmp_path / f"in{suffix}", after) == ()
            with Image.open(tmp_path / f"said{after}") as image:
                image.load()
                assert image.size == size
                got = image.getexif()
                dpi = (200, 300) if orientation == 6 else (300, 200)
                assert dict(got) | ASKED_FOR == dict(got) and (got[0x0112], got[0x011A], got[0x011B]) == (1, *dpi)
                wanted = DETAILS | {0xA002: size[0], 0xA003: size[1], 0x927C: NOTE}
                assert got.get_ifd(0x8769) == wanted
                assert got.get_ifd(0x8825)[2] == (48.0, 51.0, 30.0)
                assert not got.get_ifd(ExifTags.IFD.IFD1)
            whole = (tmp_path / f"said{after}").read_bytes()
            assert THUMBNAIL[2:-2] not in whole
            block = read_picture(tmp_path / f"said{after}").metadata["exif-data"]
            assert block.find(NOTE) == told.find(NOTE), "a note may say where in EXIF it lies"


def test_exif_of_any_kind_is_taken(random: np.random.Generator) -> None:
    """Nothing in it is believed."""
    for order in ("<", ">"):
        whole = rich_exif(order, 6)
        for _ in range(500):
            block = bytearray(whole[: random.integers(1, len(whole) + 1)])
            for place in random.integers(0, min(len(block), 120), 4):
                block[place] = random.choice([0, 1, 2, 8, 255])
            assert len(upright_exif(bytes(block), 8, 5, 6, Resolution(Fraction(9), Fraction(7), INCH))) < 5000
    assert upright_exif(b"", 8, 5, 6, None) == b""
    assert upright_exif(b"II+\0" + bytes(30), 8, 5, 6, None) == b"II+\0" + bytes(30)


def folder_of(order: str, *entries: tuple[int, int, int, bytes], following: int | None = 0) -> bytes:
    """A folder of EXIF: code, type, count and four bytes each; then where the next one is, or nothing."""
    parts = [struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries]
    behind = b"" if following is None else struct.pack(order + "I", following)
    return struct.pack(order + "H", len(entries)) + b"".join(parts) + behind


HEADS = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}


@pytest.mark.filterwarnings("ignore:.*[Cc]orrupt EXIF data")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_that_ends_early_is_not_turned_twice(tmp_path: Path, suffix: str, order: str) -> None:
    """Without the place of the next folder, or with fewer entries than it says: readers turn the picture by it."""
    short = HEADS[order] + folder_of(order, (274, 3, 1, struct.pack(order + "H", 6)), following=None)
    few = short.replace(struct.pack(order + "HH", 1, 274), struct.pack(order + "HH", 9, 274))
    for block in (short, few):
        jpeg_with(tmp_path / "in.jpg", (0, 1, 1), exif=b"Exif\0\0" + block)
        out = rewritten(tmp_path / "in.jpg", suffix)
        with Image.open(out) as image:
            assert image.size == (13, 20)
            assert image.getexif().get(0x0112, 1) == 1
        assert read_picture(out).pixels.shape == (20, 13, 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("strips", [1, 2])
def test_of_a_thumbnail_without_compression_nothing_else_goes(tmp_path: Path, strips: int, order: str) -> None:
    """Its lengths may be shorts, and several."""
    short, long, pixels, date = order + "H", order + "I", b"thumbnail's bytes" * 12, b"2020:01:02 03:04:05\0"
    second = 8 + 2 + 2 * 12 + 4
    at = second + 2 + 2 * 12 + 4
    starts, lengths = struct.pack(long, at), struct.pack(short, len(pixels))
    behind = pixels
    if strips == 2:
        behind += struct.pack(order + "2I", at, at + 102)
        starts, lengths = struct.pack(long, at + len(pixels)), struct.pack(order + "2H", 102, 102)
    place = at + len(behind)
    block = HEADS[order] + folder_of(
        order, (274, 3, 1, struct.pack(short, 1)), (34665, 4, 1, struct.pack(long, place)), following=second
    )
    block += folder_of(order, (273, 4, strips, starts), (279, 3, strips, lengths)) + behind
    details = (36867, 2, 20, struct.pack(long, place + 30)), (37500, 7, len(NOTE), struct.pack(long, place + 50))
    block += folder_of(order, *details) + date + NOTE
    jpeg_with(tmp_path / "in.jpg", (0, 1, 1), exif=b"Exif\0\0" + block)
    assert said(tmp_path / "in.jpg") == ()
    with Image.open(tmp_path / "said.jpg") as image:
        assert image.getexif().get_ifd(0x8769) == {36867: date[:-1].decode(), 37500: NOTE}
        assert not image.getexif().get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_subject_is_where_it_stands_now(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((13, 20, 3), np.uint8)
    pixels[2, 17] = 255
    told = Image.Exif()
    told[0x0112] = orientation
    told.get_ifd(0x8769).update({37396: (17, 2, 4, 3), 41492: (17, 2), 41486: 3000.0, 41487: 2000.0})
    Image.fromarray(pixels).save(tmp_path / "in.png", exif=told)
    with Image.open(rewritten(tmp_path / "in.png")) as image:
        row, column = np.argwhere(np.array(image)[..., 0] == 255)[0]
        got, lay = image.getexif().get_ifd(0x8769), orientation > 4
        assert got[41492] == (column, row)
        assert got[37396] == (column, row, *((3, 4) if lay else (4, 3)))
        assert (got[41486], got[41487]) == ((2000.0, 3000.0) if lay else (3000.0, 2000.0))


def test_exif_too_large_for_a_jpeg_is_told(tmp_path: Path) -> None:
    told = Image.Exif()
    told[0x010F] = "long" * 20_000
    Image.fromarray(RGB).save(tmp_path / "in.png", exif=told)
    assert said(tmp_path / "in.png") == ()
    assert said(tmp_path / "in.png", ".jpg") == ("EXIF",)


# ---- what a PNG measures

SCALES = [
    chunk(b"oFFs", struct.pack(">iiB", 5, -7, 1)),
    chunk(b"pCAL", b"height\0" + struct.pack(">iiBB", 0, 255, 0, 2) + b"m\x000\x001e-3"),
    chunk(b"sCAL", b"\x011.5e-6\x001.5e-6"),
]


def test_what_a_png_measures_is_carried_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(RGB, *SCALES))
    assert said(tmp_path / "in.png") == ()
    assert [chunk(name, body) for name, body in chunks(tmp_path / "said.png")[1:-2]] == SCALES
    assert said(tmp_path / "in.png", ".tif") == ("what the PNG measures",)
    (tmp_path / "in.png").write_bytes(png(RGB, *SCALES, chunk(b"eXIf", exif(6).tobytes()[6:])))
    assert said(tmp_path / "in.png") == ("what the PNG measures",), "its axes are the old ones"
    assert bodies(tmp_path / "said.png", b"sCAL") == []


# ---- EXIF of PNG


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_behind_the_pixels_is_heard(tmp_path: Path, orientation: int) -> None:
    told = chunk(b"eXIf", exif(orientation).tobytes()[6:])
    (tmp_path / "before.png").write_bytes(png(RGB, told))
    (tmp_path / "behind.png").write_bytes(png(RGB)[: -len(END)] + told + END)
    before, behind = read_picture(tmp_path / "before.png"), read_picture(tmp_path / "behind.png")
    np.testing.assert_array_equal(before.pixels, behind.pixels)
    assert before.pixels.shape[:2] == ((13, 20) if orientation < 5 else (20, 13))
    with Image.open(rewritten(tmp_path / "behind.png")) as image:
        assert (image.getexif()[0x010F], image.getexif()[0x0112]) == ("Maker", 1)
        np.testing.assert_array_equal(np.array(image), before.pixels)


# ---- resolution

CARRIED = {
    "inches": (300, 150, 2),
    "25.4 to the inch": (25.4, 25.4, 2),
    "centimetres": (118.11, 59.05, 3),
    "no unit": (2.0, 1.0, 1),
    "a microscope's": (5.0, 5.0, 1),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", CARRIED)
def test_resolution_of_a_tiff_is_carried_as_it_is(tmp_path: Path, kind: str, turned: bool) -> None:
    x, y, unit = CARRIED[kind]
    orientation = [(274, 3, 1, 6, True)] if turned else []
    orders: list[Any] = ["<", ">"]
    for order in orders:
        tifffile.imwrite(
            tmp_path / "in.tif",
            RGB,
            photometric="rgb",
            resolution=(x, y),
            resolutionunit=unit,
            extratags=orientation,
            byteorder=order,
        )
        got = tiff_resolution(rewritten(tmp_path / "in.tif"))
        assert got == pytest.approx((y, x, unit) if turned else (x, y, unit), rel=1e-6)


def tiff_resolution(path: Path) -> tuple[float, float, int] | None:
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        if 282 not in tags:
            assert 283 not in tags and 296 not in tags
            return None
        (x, below), (y, beneath) = tags[282].value, tags[283].value
        return x / below, y / beneath, int(tags[296].value)


@pytest.mark.parametrize("phys", [(11811, 5905, 1), (1000, 1000, 1), (2, 1, 0), (11811, 5905, 0), (2835, 2835, 1)])
def test_resolution_of_a_png_is_carried_as_it_is(tmp_path: Path, phys: tuple[int, int, int]) -> None:
    x, y, unit = phys
    told = chunk(b"pHYs", struct.pack(">IIB", *phys))
    (tmp_path / "in.png").write_bytes(png(RGB, told))
    assert bodies(rewritten(tmp_path / "in.png"), b"pHYs") == [told[8:-4]]
    (tmp_path / "in.png").write_bytes(png(RGB, told, chunk(b"eXIf", exif(8).tobytes()[6:])))
    assert bodies(rewritten(tmp_path / "in.png"), b"pHYs") == [struct.pack(">IIB", y, x, unit)]


@pytest.mark.parametrize("density", [(1, 300, 150), (2, 118, 59), (0, 2, 1), (1, 1, 1), (2, 10, 10), (1, 72, 72)])
def test_resolution_of_a_jpeg_is_carried_as_it_is(tmp_path: Path, density: tuple[int, int, int]) -> None:
    jpeg_with(tmp_path / "in.jpg", density)
    assert jfif(rewritten(tmp_path / "in.jpg")) == density
    jpeg_with(tmp_path / "in.jpg", density, exif=chunkless_exif(6))
    assert jfif(rewritten(tmp_path / "in.jpg")) == (density[0], density[2], density[1])


def jpeg_with(path: Path, density: tuple[int, int, int], **options: Any) -> None:
    """A JPEG whose JFIF header says unit, x and y."""
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=95, **options)
    contents = bytearray(file.getvalue())
    at = contents.find(b"JFIF\0") + 7
    contents[at : at + 5] = struct.pack(">BHH", *density)
    path.write_bytes(contents)


def chunkless_exif(orientation: int) -> bytes:
    """EXIF that says nothing of the resolution."""
    told = Image.Exif()
    told[0x0112] = orientation
    return told.tobytes()


def jfif(path: Path) -> tuple[int, int, int]:
    with Image.open(path) as image:
        return image.info["jfif_unit"], *image.info["jfif_density"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("before", [".png", ".jpg", ".tif", ".webp"])
def test_no_resolution_is_made_up(tmp_path: Path, before: str, suffix: str) -> None:
    path = tmp_path / f"in{before}"
    if before == ".tif":
        image = Image.fromarray(RGB)
        image.save(path)
    elif before == ".jpg":
        jpeg_with(path, (0, 1, 1))
    else:
        Image.fromarray(RGB).save(path)
    assert "resolution" not in read_picture(path).metadata
    out = rewritten(path, suffix)
    if suffix == ".tif":
        assert tiff_resolution(out) is None
    elif suffix == ".png":
        assert bodies(out, b"pHYs") == []
    elif suffix == ".jpg":
        assert jfif(out) == (0, 1, 1)
    with Image.open(out) as image:
        assert suffix == ".tif" or ("dpi" not in image.info and 0x011A not in image.getexif())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("before", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("dpi", [300, 25.4, 96])
def test_resolution_is_converted(tmp_path: Path, before: str, suffix: str, dpi: float) -> None:
    if (before, dpi) == (".jpg", 25.4):
        jpeg_with(tmp_path / "in.jpg", (2, 10, 10))
    else:
        told = Image.Exif()
        told[0x011A], told[0x011B], told[0x0128] = dpi, dpi, 2
        extra: dict[str, Any] = {"exif": told} if before == ".webp" else {"dpi": (dpi, dpi)}
        Image.fromarray(RGB).save(tmp_path / f"in{before}", **extra)
    with Image.open(rewritten(tmp_path / f"in{before}", suffix)) as image:
        got = image.info["dpi"][0] if "dpi" in image.info else image.getexif()[0x011A]
    assert float(got) == pytest.approx(dpi, rel=2e-4)


def test_a_shape_of_pixels_without_unit_is_converted(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(RGB, chunk(b"pHYs", struct.pack(">IIB", 200, 100, 0))))
    assert jfif(rewritten(tmp_path / "in.png", ".jpg")) == (0, 200, 100)
    assert tiff_resolution(rewritten(tmp_path / "in.png", ".tif")) == (200, 100, 1)
    tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", resolution=(0.5, 0.25), resolutionunit=1)
    assert bodies(rewritten(tmp_path / "in.tif", ".png"), b"pHYs") == [struct.pack(">IIB", 2, 1, 0)]


def test_a_microscopes_scale_stays(tmp_path: Path) -> None:
    gray = samples("L16", 20, 13)[..., 0]
    tifffile.imwrite(tmp_path / "in.tif", gray, imagej=True, resolution=(5, 4), metadata={"unit": "um"})
    out = rewritten(tmp_path / "in.tif")
    assert tiff_resolution(out) == (5, 4, 1)
    with tifffile.TiffFile(out) as file:
        assert file.imagej_metadata is not None and file.imagej_metadata["unit"] == "um"
        np.testing.assert_array_equal(file.asarray(), gray)


# ---- what is said of what cannot come along


def said(path: Path, suffix: str = "") -> tuple[str, ...]:
    """Read and written again: what is left out."""
    return write_picture(path.with_name(f"said{suffix or path.suffix}"), read_picture(path), overwrite=True)


def test_nothing_is_said_of_whole_files(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        told: dict[str, Any] = {} if suffix == ".tif" else {"exif": exif(6)}
        Image.fromarray(RGB).save(tmp_path / f"in{suffix}", icc_profile=ICC, dpi=(300, 300), **told)
        assert said(tmp_path / f"in{suffix}") == ()


def with_pictures_behind(path: Path, kinds: list[int]) -> None:
    """A JPEG that lists pictures of these kinds (CIPA DC-007, table 4) behind its first."""
    rows = [(0x030000, 100), *((kind, 200) for kind in kinds)]
    table = b"".join(struct.pack(">IIIHH", kind, size, size, 0, 0) for kind, size in rows)
    entries = struct.pack(">HHI4s", 0xB000, 7, 4, b"0100") + struct.pack(">HHII", 0xB001, 4, 1, len(rows))
    entries += struct.pack(">HHII", 0xB002, 7, len(table), 50)
    listed = b"MPF\0MM\0*" + struct.pack(">IH", 8, 3) + entries + bytes(4) + table
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=95)
    whole = file.getvalue()
    path.write_bytes(whole[:2] + struct.pack(">HH", 0xFFE2, len(listed) + 2) + listed + whole[2:] + whole * len(kinds))


def test_pictures_behind_a_jpeg_are_told_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jpg"
    with_pictures_behind(path, [0])  # a gain map
    assert said(path) == ("1 more picture behind the first (a gain map or a view)",)
    with_pictures_behind(path, [0x010001, 0, 0])  # a preview, which shows the old picture, and two more
    assert said(path) == ("2 more pictures behind the first (a gain map or a view)",)
    with_pictures_behind(path, [0x010002])
    assert said(path) == ()
    with_pictures_behind(path, [0x020002])  # the other eye
    with pytest.raises(SynergicError, match=r"in\.jpg: expected one picture, got 2 views; split it into files first"):
        read_picture(path)
    Image.fromarray(RGB).save(path, "MPO", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    assert said(path) == ("1 more picture behind the first (a gain map or a view)",)
    with Image.open(rewritten(path)) as image:
        assert image.format == "JPEG" and not hasattr(image, "n_frames")
        assert np.abs(np.array(image).astype(int) - read_picture(path).pixels).mean() < 2


def test_what_xmp_says_is_behind_a_jpeg_is_told(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "in.jpg", xmp=b'<x GCamera:MotionPhoto="1"/>')
    assert said(tmp_path / "in.jpg") == ("what stands behind the picture (a film, a gain map or another picture)",)


@pytest.mark.parametrize(
    ("xmp", "alone"),
    [
        (b'<x GCamera:MotionPhoto="1" a:b="1"/>', b'<x GCamera:MotionPhoto="0" a:b="1"/>'),
        (b"<GCamera:MicroVideo>1</GCamera:MicroVideo>", b"<GCamera:MicroVideo>0</GCamera:MicroVideo>"),
        (b"<x hdrgm:Version='1.0' a:b='1'/>", b"<x  a:b='1'/>"),
        (b"<a/><Container:Directory>\n<rdf:Seq/></Container:Directory><b/>", b"<a/><b/>"),
    ],
)
def test_what_is_no_longer_behind_a_jpeg_is_said_once(tmp_path: Path, xmp: bytes, alone: bytes) -> None:
    Image.fromarray(RGB).save(tmp_path / "in.jpg", xmp=xmp)
    assert said(tmp_path / "in.jpg") == ("what stands behind the picture (a film, a gain map or another picture)",)
    with Image.open(tmp_path / "said.jpg") as image:
        assert image.info["xmp"] == alone
    (tmp_path / "said.jpg").rename(tmp_path / "again.jpg")
    assert said(tmp_path / "again.jpg") == ()


def test_a_picture_without_a_list_of_others_keeps_its_xmp(tmp_path: Path) -> None:
    for xmp in (b'<x GCamera:MotionPhoto="0"/>', b"<Container:Directory/><a></a>", b"<Container:Directory><no end>"):
        Image.fromarray(RGB).save(tmp_path / "in.jpg", xmp=xmp)
        assert said(tmp_path / "in.jpg") == ()
        with Image.open(tmp_path / "said.jpg") as image:
            assert image.info["xmp"] == xmp


def test_long_xmp_is_gone_through_once(tmp_path: Path) -> None:
    long = b"<Container:Directory><xmp:Thumbnails>" * 300_000
    (tmp_path / "in.png").write_bytes(png(RGB, chunk(b"iTXt", KEY + b"\0\0\0\0" + long)))
    started = time.monotonic()
    assert read_picture(tmp_path / "in.png").metadata["xmp-data"] == long
    assert time.monotonic() - started < 2


def resource(number: int, contents: bytes, name: bytes = b"") -> bytes:
    """One of Photoshop's: what it is called and what it holds are padded to be even."""
    called = bytes([len(name)]) + name
    head = b"8BIM" + struct.pack(">H", number) + called + bytes(len(called) % 2)
    return head + struct.pack(">I", len(contents)) + contents + bytes(len(contents) % 2)


CAPTION = resource(1028, b"\x1c\x02\x78\0\x07caption", b"ab")
THUMBNAIL = resource(1036, bytes(28) + b"\xff\xd8 the old picture, small \xff\xd9")


@pytest.mark.parametrize("parts", [1, 3])
def test_photoshops_thumbnail_goes(tmp_path: Path, parts: int) -> None:
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    others = resource(2000, bytes(70_000 if parts > 1 else 7))
    whole, kept = CAPTION + THUMBNAIL + others + resource(1033, b"older"), CAPTION + others
    cuts = np.linspace(0, len(whole), parts + 1).astype(int)
    bodies = [b"Photoshop 3.0\0" + whole[start:end] for start, end in pairwise(cuts)]
    segments = b"".join(struct.pack(">HH", 0xFFED, len(body) + 2) + body for body in bodies)
    (tmp_path / "in.jpg").write_bytes(file.getvalue()[:2] + segments + file.getvalue()[2:])
    assert said(tmp_path / "in.jpg") == ()
    with Image.open(tmp_path / "said.jpg") as image:
        found = b"".join(body for name, body in image.applist if name == "APP13")  # type: ignore[attr-defined]
    assert found.replace(b"Photoshop 3.0\0", b"") == kept
    tags: list[Any] = [(34377, 1, len(whole), whole, True)]
    tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", metadata=None, extratags=tags)
    with tifffile.TiffFile(rewritten(tmp_path / "in.tif")) as written:
        assert bytes(written.pages.first.tags[34377].value) == kept


def test_of_photoshops_data_that_is_nothing_but_a_thumbnail_nothing_stays(tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    body = b"Photoshop 3.0\0" + THUMBNAIL
    segment = struct.pack(">HH", 0xFFED, len(body) + 2) + body
    (tmp_path / "in.jpg").write_bytes(file.getvalue()[:2] + segment + file.getvalue()[2:])
    assert said(tmp_path / "in.jpg") == said(tmp_path / "in.jpg", ".png") == ()
    assert b"Photoshop" not in rewritten(tmp_path / "in.jpg").read_bytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_thumbnails_in_xmp_go(tmp_path: Path, suffix: str) -> None:
    before = b"<x><xmp:Thumbnails>\n<rdf:Alt>the old picture</rdf:Alt></xmp:Thumbnails></x>"
    Image.fromarray(RGB).save(tmp_path / "in.jpg", xmp=before)
    assert said(tmp_path / "in.jpg", suffix) == ()
    assert read_picture(rewritten(tmp_path / "in.jpg", suffix)).metadata["xmp-data"] == b"<x></x>"


def test_a_second_exif_is_told(tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", exif=exif(1))
    whole = file.getvalue()
    size = struct.unpack_from(">H", whole, whole.index(b"\xff\xe1") + 2)[0]
    segment = whole[whole.index(b"\xff\xe1") :][: size + 2]
    (tmp_path / "in.jpg").write_bytes(whole[:2] + segment + whole[2:])
    assert said(tmp_path / "in.jpg") == ("a second EXIF",)


def test_a_resolution_beyond_a_format_is_told(tmp_path: Path) -> None:
    lost = ("the resolution",)
    for density, told in ((100_000, lost), (0.1, lost), (118.11, ()), (28.3, ()), (65_000, ())):
        options: dict[str, Any] = {"resolution": (density, density), "resolutionunit": "CENTIMETER", "software": False}
        tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", metadata=None, **options)
        assert said(tmp_path / "in.tif", ".jpg") == told, density
        assert said(tmp_path / "in.tif", ".png") == said(tmp_path / "in.tif", ".webp") == ()
    (tmp_path / "in.png").write_bytes(png(RGB, chunk(b"pHYs", struct.pack(">IIB", 2, 1, 0))))
    assert said(tmp_path / "in.png", ".webp") == ("the resolution",)
    assert said(tmp_path / "in.png", ".jpg") == said(tmp_path / "in.png", ".tif") == ()


def test_what_follows_a_jpeg_is_told(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "in.jpg")
    whole = (tmp_path / "in.jpg").read_bytes()
    (tmp_path / "in.jpg").write_bytes(whole + bytes(5000))  # what cameras fill up with
    assert said(tmp_path / "in.jpg") == ()
    for behind in (b"ftypmp42" * 1000, whole, b"ftypmp42" * 1000 + whole):
        (tmp_path / "in.jpg").write_bytes(whole + behind)
        assert said(tmp_path / "in.jpg") == ("what stands behind the picture (a film, a gain map or another picture)",)


def test_scans_and_restarts_are_the_picture_itself(tmp_path: Path) -> None:
    """A progressive JPEG has tables between its scans, and restart markers stand among the pixels."""
    Image.fromarray(RGB).save(tmp_path / "in.jpg", progressive=True, restart_marker_blocks=1)
    whole = (tmp_path / "in.jpg").read_bytes()
    assert whole.count(b"\xff\xda") > 5 and b"\xff\xd0" in whole
    assert said(tmp_path / "in.jpg") == ()
    (tmp_path / "in.jpg").write_bytes(whole + whole)
    assert said(tmp_path / "in.jpg") == ("what stands behind the picture (a film, a gain map or another picture)",)


def test_content_credentials_are_told(tmp_path: Path) -> None:
    """They are signed for the picture as it was."""
    Image.fromarray(RGB).save(tmp_path / "in.jpg")
    whole, box = (tmp_path / "in.jpg").read_bytes(), b"JP\0\1\0\0\0\1jumb c2pa"
    (tmp_path / "in.jpg").write_bytes(whole[:2] + struct.pack(">HH", 0xFFEB, len(box) + 2) + box + whole[2:])
    (tmp_path / "in.png").write_bytes(png(RGB, chunk(b"caBX", box)))
    Image.fromarray(RGB).save(tmp_path / "in.webp", lossless=True, exif=exif(1))  # with chunks, not the bare picture
    body = (tmp_path / "in.webp").read_bytes()[8:] + b"C2PA" + struct.pack("<I", len(box)) + box + bytes(len(box) % 2)
    (tmp_path / "in.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    for suffix in (".jpg", ".png", ".webp"):
        told = ("content credentials (C2PA), which hold for the picture as it was",)
        assert said(tmp_path / f"in{suffix}") == told


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_damaged_exif_is_told_and_none_made_up(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"in{suffix}", exif=b"Exif\0\0garbage")
    assert said(tmp_path / f"in{suffix}") == ("EXIF, which is damaged",)
    with Image.open(tmp_path / f"said{suffix}") as image:
        assert not image.getexif()


NOT_A_PROFILE = b"not a profile" * 30
OF_LAB = ICC[:16] + b"Lab " + ICC[20:]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("before", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("profile", [NOT_A_PROFILE, OF_LAB, ICC + b"\0\0"])
def test_a_profile_comes_along_or_its_loss_is_told(tmp_path: Path, profile: bytes, before: str, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"in{before}", icc_profile=profile)
    told = said(tmp_path / f"in{before}", suffix)
    with Image.open(tmp_path / f"said{suffix}") as image:
        came = image.info.get("icc_profile")
    assert told == () if came is not None else told[0].startswith("the colour profile")
    assert came in (None, profile, profile[: len(ICC)])


def test_a_profile_of_another_colour_is_told(tmp_path: Path) -> None:
    Image.fromarray(samples("L", 20, 13)[..., 0]).save(tmp_path / "in.jpg", icc_profile=ICC)
    for suffix in (".png", ".jpg", ".tif"):
        assert said(tmp_path / "in.jpg", suffix) == ("the colour profile",)


TAGS = {270: "a description", 271: "Make", 272: "Model", 285: "Page", 305: "Software", 315: "Ann", 33432: "(c) me"}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_texts_and_places_of_a_tiff_come_back(tmp_path: Path, big: bool, order: Any) -> None:
    places: list[Any] = [(33550, 12, 3, (1.0, 1.5, 0.0), True), (34735, 3, 4, (1, 1, 0, 0), True)]
    iptc = [(33723, 7, 12, b"\x1c\x02\x78\0\x07caption", True)]
    texts = [(code, 2, 0, text, True) for code, text in [*TAGS.items(), (306, "2020:01:02 03:04:05")] if code != 270]
    options: dict[str, Any] = {"byteorder": order, "bigtiff": big, "description": TAGS[270], "software": False}
    tifffile.imwrite(
        tmp_path / "in.tif", RGB, photometric="rgb", metadata=None, extratags=texts + places + iptc, **options
    )
    assert said(tmp_path / "in.tif") == ()
    with tifffile.TiffFile(tmp_path / "said.tif") as file:
        tags = {tag.code: tag.value for tag in file.pages.first.tags.values()}
        np.testing.assert_array_equal(file.asarray(), RGB)
    assert tags | TAGS == tags and tags[306] == "2020:01:02 03:04:05"
    assert (tags[33550], tags[34735], tags[33723]) == ((1.0, 1.5, 0.0), (1, 1, 0, 0), b"\x1c\x02\x78\0\x07caption")
    assert said(tmp_path / "in.tif", ".png") == ("texts of the TIFF",)


@pytest.mark.parametrize("order", ["<", ">"])
def test_iptc_in_numbers_is_a_stream_of_bytes(tmp_path: Path, order: Any) -> None:
    stream = b"\x1c\x02\x78\0\x07caption"
    numbers = struct.unpack(f"{order}3I", stream)
    tifffile.imwrite(
        tmp_path / "in.tif", RGB, photometric="rgb", byteorder=order, extratags=[(33723, 4, 3, numbers, True)]
    )
    with tifffile.TiffFile(rewritten(tmp_path / "in.tif")) as file:
        assert file.pages.first.tags[33723].value == stream


def test_what_a_tiff_cannot_take_along_is_told(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", metadata=None)
    folder = Tag(4, (8).to_bytes(4, "little"))
    with (tmp_path / "in.tif").open("r+b") as file:
        rewrite_tags(file, {34665: folder, 34853: folder})
    assert said(tmp_path / "in.tif") == ("EXIF", "GPS")
    places = [(33550, 12, 3, (1.0, 1.0, 0.0), True), (65000, 4, 1, 77, True), (274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", metadata=None, extratags=places)
    assert said(tmp_path / "in.tif") == ("tag 33550", "tag 65000"), "a turned map lies elsewhere"
    places = [(34735, 3, 4, (1, 1, 0, 0), True), (34737, 2, 0, "WGS84|", True), (274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", metadata=None, extratags=places)
    assert said(tmp_path / "in.tif") == ("tag 34735", "tag 34737"), "in words, too"
    Image.fromarray(RGB).save(tmp_path / "in.jpg", exif=exif(1))
    assert said(tmp_path / "in.jpg", ".tif") == ("EXIF",)


def test_what_a_jpeg_cannot_take_along_is_told(tmp_path: Path) -> None:
    long = b"<x>" + b"y" * 100_000 + b"</x>"
    (tmp_path / "in.png").write_bytes(png(RGB, chunk(b"iTXt", KEY + b"\0\0\0\0" + long), TEXTS[0]))
    assert said(tmp_path / "in.png") == ()
    assert said(tmp_path / "in.png", ".jpg") == ("XMP", "texts of the PNG")
    assert said(tmp_path / "in.png", ".webp") == ("texts of the PNG",)


def test_comments_and_long_xmp_of_a_jpeg_come_back(tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", xmp=XMP % 1, comment=b"hello")
    rest = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 100, 0) + b"y" * 100
    segment = struct.pack(">HH", 0xFFE1, len(rest) + 2) + rest
    whole = file.getvalue()
    behind = whole.index(b"\xff\xdb")
    for contents in (whole[:2] + segment + whole[2:], whole[:behind] + segment + whole[behind:]):
        (tmp_path / "in.jpg").write_bytes(contents)
        assert said(tmp_path / "in.jpg") == ()
        with Image.open(tmp_path / "said.jpg") as image:
            assert (image.info["xmp"], image.info["comment"]) == (XMP % 1, b"hello")
        assert segment in (tmp_path / "said.jpg").read_bytes()
    assert said(tmp_path / "in.jpg", ".png") == ("comments", "long XMP")


def test_iptc_of_a_jpeg_comes_back(tmp_path: Path) -> None:
    resources = b"Photoshop 3.0\x008BIM\4\4\0\0" + struct.pack(">I", 12) + b"\x1c\x02\x78\0\x07caption"
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    segment = struct.pack(">HH", 0xFFED, len(resources) + 2) + resources
    (tmp_path / "in.jpg").write_bytes(file.getvalue()[:2] + segment + file.getvalue()[2:])
    assert said(tmp_path / "in.jpg") == ()
    assert segment in (tmp_path / "said.jpg").read_bytes()
    assert said(tmp_path / "in.jpg", ".tif") == ("IPTC",)


def test_photoshops_data_in_many_segments_comes_back_in_order(tmp_path: Path) -> None:
    """It may be longer than a segment, and libvips reads the first alone."""
    file = BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    parts = [b"Photoshop 3.0\0" + of for of in (b"8BIM" + bytes(50_000), b"bytes of the first", b"caption")]
    segments = [struct.pack(">HH", 0xFFED, len(part) + 2) + part for part in parts]
    other = b"\xff\xe5\0\x06????"
    (tmp_path / "in.jpg").write_bytes(file.getvalue()[:2] + b"".join(segments) + other + file.getvalue()[2:])
    assert said(tmp_path / "in.jpg") == ()
    assert other not in (tmp_path / "said.jpg").read_bytes(), "a segment that nobody knows"
    written = (tmp_path / "said.jpg").read_bytes()
    assert [written.count(segment) for segment in segments] == [1, 1, 1]
    places = [written.index(segment) for segment in segments]
    assert places == sorted(places)


def test_xmp_of_a_turned_tiff_is_upright_though_it_is_a_text(tmp_path: Path) -> None:
    blanks = (XMP % 6).replace(b'Orientation="', b'Orientation = "')
    assert blanks != XMP % 6
    extra: list[Any] = [(700, 2, 0, blanks.decode(), True), (274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "in.tif", RGB, photometric="rgb", metadata=None, extratags=extra)
    assert said(tmp_path / "in.tif") == ()
    with tifffile.TiffFile(tmp_path / "said.tif") as file:
        assert bytes(file.pages.first.tags[700].value).rstrip(b"\0") == blanks.replace(b'"6"', b'"1"')


def large_profile(size: int) -> bytes:
    return struct.pack(">I", size) + ICC[4:] + np.random.default_rng(0).bytes(size - len(ICC))


def test_a_large_profile_comes_back_and_costs_little(tmp_path: Path) -> None:
    """It comes in many parts, before the pixels."""
    long = large_profile(6 * 10**6)
    Image.fromarray(RGB).save(tmp_path / "in.jpg", icc_profile=long)
    started = time.process_time()
    assert said(tmp_path / "in.jpg") == ()
    assert time.process_time() - started < 2
    with Image.open(tmp_path / "said.jpg") as image:
        assert image.info["icc_profile"] == long


def test_a_profile_that_libvips_cuts_off_is_told(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "in.jpg", icc_profile=large_profile(7 * 10**6))
    assert said(tmp_path / "in.jpg") == ("the colour profile, which is damaged or too large",)
    with Image.open(tmp_path / "said.jpg") as image:
        assert "icc_profile" not in image.info


# ---- the chain of a TIFF's folders


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"byteorder": ">", "bigtiff": True}])
def test_folders_are_counted_as_far_as_told(options: dict[str, Any]) -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((5, 8, 8), np.uint8), photometric="minisblack", metadata=None, **options)
    assert [count_folders(file, most) for most in (2, 4, 5, 100)] == [3, 5, 5, 5]


def test_a_chain_that_turns_back_ends_there_and_what_is_no_tiff_has_none() -> None:
    folder = struct.pack("<H12sI", 1, bytes(12), 8)  # the next one is itself
    assert count_folders(BytesIO(b"II*\0" + struct.pack("<I", 8) + folder), 100) == 1
    assert count_folders(BytesIO(b"\x89PNG"), 100) == count_folders(BytesIO(), 100) == 0
    assert count_folders(BytesIO(b"II+\0" + b"\xff" * 12), 100) == 1, "far behind the end"
