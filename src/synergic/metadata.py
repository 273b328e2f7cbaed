"""What picture files hold beside their pixels, byte by byte: chunks of PNG, segments of JPEG, tags of TIFF.

What libvips would lose, or make up, is read and written here. Sources: PNG (third edition), JPEG (ITU T.81), JFIF 1.02,
CIPA DC-007 (pictures behind a JPEG), and those of tags.py.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from synergic.errors import SynergicError
from synergic.tags import (
    CENTIMETRE,
    INCH,
    METRE,
    MOST_BYTES,
    Resolution,
    Tag,
    make_resolution,
    read_tags,
    resolution_tags,
    tag_resolution,
)

__all__ = [
    "Extras",
    "exif_resolution",
    "is_exif",
    "jpeg_extras",
    "mend_webp",
    "mended_jpeg",
    "mended_png",
    "png_extras",
    "segments_in_words",
    "standard_tables",
]
__all__ += ["tiff_changes", "tiff_extras", "upright_xmp", "webp_extras", "without_element", "xmp_alone"]

MOST_PARTS = 10_000
"""Chunks or segments in a file of no size; one more for each kilobyte. The pixels of a PNG come in chunks of 8 kB."""


_CREDENTIALS = "content credentials (C2PA), which hold for the picture as it was"


@dataclass
class Extras:
    """What a file holds beside the pixels that libvips reads."""

    metadata: dict[str, Any] = field(default_factory=dict)
    """as in `Picture.metadata`"""
    left_out: list[str] = field(default_factory=list)
    """what cannot come along, in words"""
    orientation: int | None = None
    """by EXIF, where libvips overlooks it"""
    frames: int = 1
    """also those of an animated PNG"""
    jpeg_quality: int | None = None
    """as in `Picture`"""
    profile: bool = False
    """is there a colour profile, good or bad?"""
    by_jpeg: bool = False
    """are the pixels of a TIFF packed as JPEGs?"""
    too_bright: float = 1.0
    """what libvips has multiplied its gray by"""


# ---- XMP

_XMP_TURNED = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>))[2-8]")
_XMP_FILM = re.compile(rb"((?:MotionPhoto|MicroVideo)(?:\s*=\s*[\"']|>))1")
_XMP_GAIN_MAP = re.compile(rb"\bhdrgm:Version(?:\s*=\s*[\"'][^\"'<]{0,20}[\"']|>[^<]{0,20}</hdrgm:Version>)")


def upright_xmp(xmp: bytes) -> bytes:
    """XMP of a picture that has been turned: some readers turn it by this."""
    return _XMP_TURNED.sub(rb"\g<1>1", xmp)


def xmp_alone(xmp: bytes) -> bytes:
    """XMP of a picture behind which nothing stands any more: no film, gain map or other pictures."""
    xmp = _XMP_GAIN_MAP.sub(b"", _XMP_FILM.sub(rb"\g<1>0", xmp))
    return without_element(without_element(xmp, b"Container:Directory"), b"GContainer:Directory")


def without_element(xmp: bytes, name: bytes) -> bytes:
    """XMP without what stands between the tags of an element: in one pass, however often it begins and never ends."""
    kept, start = list[bytes](), 0
    for opening in re.finditer(rb"<%b(?:\s[^>]{0,999})?(?<!/)>" % name, xmp):
        if opening.start() >= start:
            end = xmp.find(b"</%b>" % name, opening.end())
            if end < 0:
                break
            kept.append(xmp[start : opening.start()])
            start = end + len(name) + 3
    return b"".join(kept) + xmp[start:]


# ---- Photoshop

_PREVIEWS = (1033, 1036)
_PHOTOSHOP = b"Photoshop 3.0\0"


def without_previews(resources: bytes) -> bytes:
    """Photoshop's data but for its thumbnails, which show the old picture. What is damaged stays as it is."""
    kept, start = list[bytes](), 0
    for _ in range(MOST_PARTS):
        if not resources.startswith(b"8BIM", start):
            break
        name = int.from_bytes(resources[start + 6 : start + 7], "big") // 2 * 2 + 2  # with its length, padded to even
        named = start + 6 + name
        size = int.from_bytes(resources[named : named + 4], "big")
        end = named + 4 + size + size % 2
        if int.from_bytes(resources[start + 4 : start + 6], "big") not in _PREVIEWS:
            kept.append(resources[start:end])
        start = end
    return b"".join(kept) + resources[start:]


# ---- PNG

_PNG_COLOUR = (b"cHRM", b"cICP", b"cLLI", b"gAMA", b"mDCV", b"sRGB")  # libvips carries none of them
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG_SCALE = (b"oFFs", b"pCAL", b"sCAL")  # what a pixel's place and value measure
_BEFORE_PIXELS = (*_PNG_COLOUR, b"pHYs", b"acTL", b"fcTL")
_XMP_KEY = b"XML:com.adobe.xmp\0"


def png_extras(path: Path) -> Extras:
    """The colour space, texts, EXIF, resolution and frames of a PNG, wherever they stand."""
    extras, texts = Extras(), []
    kept: dict[bytes, bytes] = {}
    found: dict[bytes, bytes] = {}
    for name, whole in _png_chunks(path):
        if name in _PNG_TEXT:
            xmp = None if "xmp-data" in extras.metadata else _png_xmp(name, whole[8:-4])
            if xmp is None:
                texts.append(whole)
            else:
                extras.metadata["xmp-data"] = xmp
        elif name in (*_PNG_COLOUR, *_PNG_SCALE):
            kept[name] = whole
        else:
            found.setdefault(name, whole[8:-4])
    for kind, names in (("png-colour", _PNG_COLOUR), ("png-scale", _PNG_SCALE)):
        if kept.keys() & set(names):
            extras.metadata[kind] = b"".join(kept[name] for name in names if name in kept)
    extras.profile = b"iCCP" in found
    extras.left_out += [_CREDENTIALS] if b"caBX" in found else []
    if texts:
        extras.metadata["png-text"] = b"".join(texts)
    if b"eXIf" in found:
        extras.metadata["exif-data"] = found[b"eXIf"]
        extras.orientation = _orientation(found[b"eXIf"])
    if len(found.get(b"pHYs", b"")) == 9:
        x, y, metres = struct.unpack(">IIB", found[b"pHYs"])
        extras.metadata["resolution"] = make_resolution(x, y, METRE if metres == 1 else None)
    if b"acTL" in found:  # libvips would silently read the first frame, or the still picture beside the animation
        extras.frames = int.from_bytes(found[b"acTL"][:4], "big") + (b"fcTL" not in found)
    return extras


def _png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Name and whole chunk (length, name, contents, checksum) of what is carried and undamaged."""
    with path.open("rb") as file:
        size, total, pixels = os.fstat(file.fileno()).st_size, 0, False
        for name, start, length in _walk_png(file, path, size):
            pixels |= name == b"IDAT"
            if name in (*_PNG_TEXT, b"eXIf", b"iCCP", b"caBX") or (
                not pixels and (name in _PNG_SCALE or (name in _BEFORE_PIXELS and length < 64))
            ):
                total += length
                if total > MOST_BYTES:
                    raise SynergicError(
                        f"{path}: expected at most {MOST_BYTES:,} bytes of texts, got more; remove them"
                    )
                file.seek(start)
                whole = file.read(length)
                if len(whole) == length and zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big"):
                    yield name, whole


def _walk_png(file: BinaryIO, path: Path | None = None, size: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length (with all that belongs to it) of each chunk, to IEND or the end of the file."""
    start, left = 8, MOST_PARTS + size // 1024
    file.seek(start)
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big") + 12, head[4:]
        yield name, start, length
        if name == b"IEND":
            return
        start, left = start + length, left - 1
        if left == 0:
            raise SynergicError(f"{path}: expected at most {MOST_PARTS:,} chunks, got more; save it anew")
        file.seek(start)


def _png_xmp(name: bytes, body: bytes) -> bytes | None:
    """XMP, or None for any other text. libvips has written it as zTXt."""
    if not body.startswith(_XMP_KEY):
        return None
    rest = body[len(_XMP_KEY) :]
    if name == b"tEXt":
        return rest
    packed, text = (True, rest[1:]) if name == b"zTXt" else (rest[:1] == b"\1", rest[2:])
    if name == b"iTXt":
        text = text.split(b"\0", 2)[-1]  # after a language and a translated key
    return _unpacked(text) if packed else text


def _unpacked(text: bytes) -> bytes | None:
    """None for what is damaged or unpacks to more than we take."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(text, MOST_BYTES)
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def mended_png(head: bytes, metadata: Mapping[str, Any]) -> bytes | None:
    """The beginning of a PNG of libvips' with the file's own resolution, EXIF, colour space and texts; None where
    `head` does not reach to the pixels."""
    parts: list[bytes] = []
    for name, start, length in _walk_png(BytesIO(head)):
        if name == b"IDAT":
            xmp = metadata.get("xmp-data")
            parts.insert(1, metadata.get("png-colour", b""))
            parts += [_phys(metadata.get("resolution"))]
            parts += [metadata.get(kind, b"") for kind in ("png-scale", "png-text")]
            parts += [_chunk(b"iTXt", _XMP_KEY + b"\0\0\0\0" + xmp)] if xmp else []
            parts += [_chunk(b"eXIf", metadata["exif-data"])] if "exif-data" in metadata else []
            return head[:8] + b"".join(parts) + head[start:]
        if name != b"pHYs":
            parts.append(head[start : start + length])
    return None


# ---- JPEG

# Annex K of the JPEG standard, table K.1 (luma, quality 50), in zigzag order as files store it
# fmt: off
_LUMA_TABLE = np.array([
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51,
    61, 60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77,
    113, 121, 112, 100, 120, 92, 101, 103, 99,
])
# fmt: on
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # FF 00 is a byte of the pixels, FF D0 to D7 stand among them
_XMP_BODY, _XMP_REST = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_CARRIED_SEGMENTS = {(0xFE, b""): "comments", (0xE1, _XMP_REST): "long XMP", (0xED, _PHOTOSHOP): "Photoshop's data"}
"""By markers, and how their contents begin."""
MOST_IN_SEGMENT = 65_000


def jpeg_extras(path: Path, contents: bytes) -> Extras:
    """The quality, resolution, XMP, comments of a JPEG, and what stands behind its picture."""
    extras, luma, kept, credentials, listed, behind = Extras(), 0, list[tuple[int, bytes]](), False, False, b""
    pictures = list[str]()
    tables: dict[int, np.ndarray] = {}
    tags: dict[int, Tag] = {}
    for marker, body in _jpeg_segments(path, contents):
        if marker == 0xDB:
            tables |= _quantisation_tables(body)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) > 8:
            luma = body[8]  # frame header: depth, height (2), width (2), channels, then name, sampling, table of each
        elif marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            code, x, y = struct.unpack_from(">BHH", body, 7)
            extras.metadata["resolution"] = make_resolution(x, y, {1: INCH, 2: CENTIMETRE}.get(code))
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            extras.left_out += ["a second EXIF"] if tags else []
            tags = tags or read_tags(BytesIO(body[6:]))
        elif marker == 0xE1 and body.startswith(_XMP_BODY):
            extras.metadata.setdefault("xmp-data", body[len(_XMP_BODY) :])
        elif any(marker == carried and body.startswith(begin) for carried, begin in _CARRIED_SEGMENTS):
            kept.append((marker, body))
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            pictures += _pictures_behind(path, body[4:])
            listed = True
        elif marker == 0xD9:
            behind = body.rpartition(b"\xff\xd9")[2] if listed else body
        credentials |= marker == 0xEB and body.startswith(b"JP")
        extras.profile |= marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")
    kept = _segments_without_previews(kept)
    first = next((segment for segment in kept if segment[0] == 0xED), None)  # libvips carries one
    extras.metadata["iptc-data"] = b"" if first is None else first[1]
    segments = [struct.pack(">BBH", 0xFF, of[0], len(of[1]) + 2) + of[1] for of in kept if of is not first]
    if segments:
        extras.metadata["jpeg-segments"] = b"".join(segments)
    extras.metadata["resolution"] = _jpeg_resolution(extras.metadata.get("resolution"), tag_resolution(tags))
    xmp = extras.metadata.get("xmp-data", b"")
    if (len(behind.rstrip(b"\0")) > 64 or xmp_alone(xmp) != xmp) and not pictures:
        pictures.append("what stands behind the picture (a film, a gain map or another picture)")
    extras.left_out += [*pictures, *([_CREDENTIALS] if credentials else [])]
    if luma in tables:
        extras.jpeg_quality = int(np.abs(standard_tables() - tables[luma]).sum(axis=1).argmin()) + 1
    return extras


def segments_in_words(segments: bytes) -> list[str]:
    """What is in the segments that are carried."""
    words, found, start = {marker: kind for (marker, _), kind in _CARRIED_SEGMENTS.items()}, list[str](), 0
    while start < len(segments):
        found.append(words[segments[start + 1]])
        start += 2 + int.from_bytes(segments[start + 2 : start + 4], "big")
    return list(dict.fromkeys(found))


def _segments_without_previews(segments: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Markers and contents, Photoshop's data, which goes on from one segment to the next, cut anew if it changes."""
    whole = b"".join(body.removeprefix(_PHOTOSHOP) for marker, body in segments if marker == 0xED)
    kept = without_previews(whole)
    if kept == whole:
        return segments
    parts = (kept[start : start + MOST_IN_SEGMENT] for start in range(0, len(kept), MOST_IN_SEGMENT))
    return [*(of for of in segments if of[0] != 0xED), *((0xED, _PHOTOSHOP + part) for part in parts)]


def _jpeg_resolution(jfif: Resolution | None, exif: Resolution | None) -> Resolution | None:
    """The one with a unit, JFIF's first; a bare 1 : 1 says nothing."""
    known = [given for given in (jfif, exif) if given is not None and (given.unit is not None or given.x != given.y)]
    return next((given for given in known if given.unit is not None), known[0] if known else None)


def _pictures_behind(path: Path, listed: bytes) -> list[str]:
    """What the list of a JPEG's pictures names beside the first: 16 bytes each, a preview not counted. Refused where
    they belong together as equals: the two views of a stereo camera."""
    order = "little" if listed[:2] == b"II" else "big"
    table = read_tags(BytesIO(listed)).get(0xB002, Tag(7, b"")).data
    kinds = [int.from_bytes(table[i : i + 4], order) & 0xFFFFFF for i in range(16, len(table), 16)]  # type: ignore[arg-type]
    if any(kind >> 16 == 2 for kind in kinds):
        raise SynergicError(f"{path}: expected one picture, got {len(kinds) + 1} views; split it into files first")
    number = sum(kind >> 16 != 1 for kind in kinds)
    return [f"{number} more picture{'s' * (number > 1)} behind the first (a gain map or a view)"] if number else []


def standard_tables() -> np.ndarray:
    """100 64: the luma tables of quality 1-100, as libjpeg's `jpeg_set_quality` scales them."""
    quality = np.arange(1, 101)[:, None]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables: np.ndarray = np.clip((_LUMA_TABLE * percent + 50) // 100, 1, 255)
    return tables


def _jpeg_segments(path: Path | None, contents: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and contents of each segment of the first picture; at its end D9, and all that follows."""
    start, left = 0, MOST_PARTS + len(contents) // 1024
    while found := _MARKER.search(contents, start):
        marker, start = found[1][0], found.end()
        if marker == 0xD9:
            yield marker, contents[start:]
            return
        if marker >= 0xC0 and marker != 0xD8:  # the rest have no contents
            end = start + max(2, int.from_bytes(contents[start : start + 2], "big"))
            yield marker, contents[start + 2 : end]
            start = end
        left -= 1
        if left == 0:
            raise SynergicError(f"{path}: expected at most {MOST_PARTS:,} segments, got more; save it anew")


def _quantisation_tables(body: bytes) -> dict[int, np.ndarray]:
    """The tables of one DQT segment by number: 64 values each, in zigzag order."""
    tables = {}
    while body:
        wide, number = divmod(body[0], 16)
        size = 128 if wide else 64
        if len(body) <= size:
            break
        tables[number] = np.frombuffer(body[1 : 1 + size], dtype=">u2" if wide else "u1").astype(int)
        body = body[1 + size :]
    return tables


def mended_jpeg(head: bytes, metadata: Mapping[str, Any]) -> bytes | None:
    """The beginning of a JPEG of libvips' with the file's own resolution, EXIF, unless it is too large for a segment,
    and comments; None where `head` does not reach to the tables."""
    parts, start = [b"\xff\xd8", _jfif(metadata.get("resolution"))], 2
    exif = b"Exif\0\0" + metadata.get("exif-data", b"")
    if 6 < len(exif) <= 65533:
        parts.append(struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif)
    while len(head) >= start + 4:
        marker, end = head[start + 1], start + 2 + int.from_bytes(head[start + 2 : start + 4], "big")
        if not 0xE0 <= marker <= 0xEF:
            return b"".join([*parts, metadata.get("jpeg-segments", b""), head[start:]])
        if marker != 0xE0:
            parts.append(head[start:end])
        start = end
    return None


# ---- WebP


def webp_extras(contents: bytes) -> Extras:
    """Whether a WebP holds what cannot come along."""
    chunks = islice(_walk_webp(BytesIO(contents)), MOST_PARTS)
    return Extras(left_out=[_CREDENTIALS] if any(name == b"C2PA" for name, _, _ in chunks) else [])


def mend_webp(path: Path, exif: bytes) -> None:
    """Put EXIF in the place of what libvips has made up, in a WebP of libvips'."""
    with path.open("r+b") as file:
        for name, start, length in _walk_webp(file):
            if name == b"EXIF":
                file.seek(start + length)
                rest = file.read()
                file.seek(start)
                file.write(name + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2) + rest)
                file.truncate()
                size = file.tell() - 8
                file.seek(4)
                file.write(struct.pack("<I", size))
                return


def _walk_webp(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length (with all that belongs to it) of each chunk."""
    start = 12
    file.seek(start)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        yield head[:4], start, 8 + length + length % 2
        start += 8 + length + length % 2
        file.seek(start)


# ---- TIFF

_STRUCTURE = {*range(254, 260), *range(262, 267), *range(273, 285), *range(288, 294), 296, 297, 317, *range(320, 333)}
_STRUCTURE |= {338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532, 700, 34675}
"""How the pixels are stored, and what libvips carries."""
_PHOTOSHOP_TAG = 34377
_CARRIED = {33723, _PHOTOSHOP_TAG}  # the former is IPTC
_PLACES = {33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113}  # where on Earth: only of a picture as it lay
_PIXELS = {"bits": 258, "packing": 259, "colour": 262, "samples": 277, "planes": 284, "alpha": 338, "kind": 339}
"""Tags that say how pixels are stored; where one is missing, it is 1."""
_IMAGEJ_PAGES = re.compile(rb"ImageJ=[^\0]*?\nimages=(\d{1,9})\n")
_NAMES = {34665: "EXIF", 34853: "GPS", 33723: "IPTC", _PHOTOSHOP_TAG: "Photoshop's data", 50838: "ImageJ's notes"}


def tiff_extras(path: Path, turned: bool) -> Extras:
    """The resolution and the tags of a TIFF. Texts are carried whatever they say; a tag that nobody knows is not, for
    it may say where in the file something lies."""
    extras, carried = Extras(), {}
    with path.open("rb") as file:
        tags = read_tags(file)
    for code, tag in tags.items():
        text = tag.kind == 2 and code not in _STRUCTURE | _PLACES
        if tag.data and (text or code in _CARRIED or (code in _PLACES and not turned)):
            carried[code] = replace(tag, data=without_previews(tag.data)) if code == _PHOTOSHOP_TAG else tag
        elif code not in _STRUCTURE:
            extras.left_out.append(_NAMES.get(code, f"tag {code}"))
    of = {name: _first(tags.get(code)) for name, code in _PIXELS.items()}
    if of["alpha"] == 0:
        raise SynergicError(f"{path}: expected gray or RGB with transparency, got a band that is none; remove it first")
    multiplied, floats = 338 in tags and of["alpha"] == 1, of["kind"] == 3
    if (floats or multiplied) and of["colour"] == 0:
        what = "floats" if floats else "colours multiplied by transparency"
        raise SynergicError(f"{path}: expected {what} of which 0 is black, got 0 as white; invert them first")
    if of["planes"] == 2 and (of["bits"] < 8 or of["samples"] == 2):  # which libvips reads wrongly
        raise SynergicError(f"{path}: expected samples side by side (PlanarConfiguration 1), got planes; save it anew")
    if of["colour"] == 6 and of["packing"] != 7:  # likewise; JPEG has it within
        raise SynergicError(f"{path}: expected gray or RGB, got YCbCr; convert it to RGB first")
    if floats and multiplied and of["samples"] == 2:  # libvips takes the transparency of gray for 0 to 255
        extras.too_bright = 255.0
    extras.frames = _imagej_pages(path, tags, of["samples"] * of["bits"])
    extras.profile, extras.by_jpeg = 34675 in tags, of["packing"] == 7
    if carried:
        extras.metadata["tiff-tags"] = carried
    extras.metadata["resolution"] = tag_resolution(tags)
    return extras


def _first(tag: Tag | None) -> int:
    """The first number of a tag of bytes, shorts or longs; 1 for none."""
    if tag is None or not tag.data:
        return 1
    return int.from_bytes(tag.data[: {1: 1, 4: 4}.get(tag.kind, 2)], "little")


def _imagej_pages(path: Path, tags: Mapping[int, Tag], bits: int) -> int:
    """How many pictures lie one behind the other in a TIFF of ImageJ's, which names the first alone beyond 4 GB."""
    said = _IMAGEJ_PAGES.match(tags.get(270, Tag(2, b"")).data)
    if said is None:
        return 1
    pages, page = int(said[1]), _first(tags.get(256)) * _first(tags.get(257)) * bits // 8
    return pages if path.stat().st_size >= pages * page else 1  # or the text has come from another file


def tiff_changes(metadata: Mapping[str, Any]) -> dict[int, Tag | None]:
    """What `rewrite_tags` has to change in a TIFF of libvips'."""
    return resolution_tags(metadata.get("resolution")) | metadata.get("tiff-tags", {})


# ---- resolution


def _phys(resolution: Resolution | None) -> bytes:
    """The chunk of a PNG; nothing for none."""
    if resolution is None:
        return b""
    most = 2**31 - 1
    x, y = resolution.ratio(most)
    if resolution.unit is not None:
        x, y = (min(max(round(value), 1), most) for value in resolution.per(METRE))
    return _chunk(b"pHYs", struct.pack(">IIB", x, y, resolution.unit is not None))


def _jfif(resolution: Resolution | None) -> bytes:
    """The first segment of a JPEG: whole numbers per inch or centimetre, which of them is nearer."""
    most = 65535
    code, (x, y) = 0, (1, 1) if resolution is None else resolution.ratio(most)
    if resolution is not None and resolution.unit is not None:
        units = {CENTIMETRE: 2, INCH: 1} if resolution.unit == CENTIMETRE else {INCH: 1, CENTIMETRE: 2}
        unit = min(units, key=lambda unit: max(abs(value - round(value)) / value for value in resolution.per(unit)))
        code, (x, y) = units[unit], (min(max(round(value), 1), most) for value in resolution.per(unit))
    return b"\xff\xe0\0\x10JFIF\0\1\1" + struct.pack(">BHHBB", code, x, y, 0, 0)


def is_exif(exif: bytes) -> bool:
    """Does it hold anything that can be read?"""
    return bool(read_tags(BytesIO(exif.removeprefix(b"Exif\0\0"))))


def exif_resolution(exif: bytes) -> Resolution | None:
    """What EXIF says, with or without the six letters before it."""
    return tag_resolution(read_tags(BytesIO(exif.removeprefix(b"Exif\0\0"))))


def _orientation(exif: bytes) -> int:
    tag = read_tags(BytesIO(exif.removeprefix(b"Exif\0\0"))).get(274)
    return 1 if tag is None else int.from_bytes(tag.data[:2], "little")
