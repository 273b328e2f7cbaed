"""Tags of TIFF and EXIF, byte by byte, and the resolution that they, or other formats, tell.

Sources: TIFF 6.0, BigTIFF, EXIF 2.32.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import BinaryIO, Self

import numpy as np

__all__ = ["ACROSS", "CENTIMETRE", "DOWN", "INCH", "METRE", "MOST_BYTES", "SIDEWAYS", "Resolution", "Tag"]
__all__ += ["count_folders", "make_resolution"]
__all__ += ["read_tags", "resolution_tags", "rewrite_tags", "tag_resolution", "upright_exif"]

SIDEWAYS, ACROSS, DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF's orientations of what is to be transposed, and then mirrored left to right, and top to bottom."""
MOST_BYTES = 64 << 20
"""Of tags, texts and the like in one file."""


@dataclass(frozen=True)
class Tag:
    """A value of TIFF."""

    kind: int
    """1 bytes, 2 text, 3 short, 4 long, 5 rational, 7 undefined, ..."""
    data: bytes
    """little-endian; empty where it is damaged or too large"""

    def rational(self) -> Fraction:
        """Its first number as a fraction; 0 where it is none."""
        if self.kind not in (5, 3, 4) or len(self.data) < (8 if self.kind == 5 else 2):
            return Fraction(0)
        if self.kind != 5:
            return Fraction(int.from_bytes(self.data[: 2 * self.kind - 4], "little"))
        above, below = struct.unpack_from("<II", self.data)
        return Fraction(above, below) if below else Fraction(0)


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TURNS = {kind: min(size, 4) if kind in (5, 10) else size for kind, size in _SIZES.items()}  # bytes of one number
_TIFF_HEADS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}


def read_tags(file: BinaryIO) -> dict[int, Tag]:
    """The tags of the first folder of a TIFF or of EXIF; none for anything else, and for a damaged one those that can
    be read. What only says where the pixels lie is not read."""
    order, _, entries = _folder(file)
    tags, left = {}, MOST_BYTES
    for code, kind, count, value in entries:
        size = count * _SIZES.get(kind, 0)
        if code in (273, 279, 324, 325) or code in tags:
            continue
        data = b""
        if size <= min(left, len(value)):
            data = value[:size]
        elif size <= left:
            file.seek(min(int.from_bytes(value, "little" if order == "<" else "big"), 2**62))
            data = file.read(size)
        left -= len(data)
        data = data if len(data) == size else b""
        tags[code] = Tag(7, data) if code == 33723 else Tag(kind, _little_endian(data, kind, order))  # IPTC: see below
    return tags


def count_folders(file: BinaryIO, most: int) -> int:
    """How many folders, one a page, the chain of a TIFF has before it ends or turns back: as far as one more than
    `most`. 0 for anything else."""
    order, big, place = _first_folder(file)
    size, word = (8, "Q") if big else (2, "I")
    seen: set[int] = set()
    while place and place not in seen and len(seen) <= most:
        seen.add(place)
        file.seek(min(place, 2**62))
        count = int.from_bytes(file.read(size), "little" if order == "<" else "big")
        file.seek(min(place + size + count * struct.calcsize(_entry(order, big)), 2**62))
        following = file.read(struct.calcsize(word))
        place = struct.unpack(order + word, following)[0] if len(following) == struct.calcsize(word) else 0
    return len(seen)


def rewrite_tags(file: BinaryIO, changes: Mapping[int, Tag | None]) -> None:
    """Set or take away tags of a TIFF or of EXIF: a new first folder at its end, whose entries point to what is there
    already.

    IPTC (33723) is a stream of bytes whatever the type: as LONG, which libtiff writes, three quarters are lost.
    """
    order, big, entries = _folder(file)
    word = order + ("Q" if big else "I")
    folder = {code: (kind, count, value) for code, kind, count, value in entries if code not in changes}
    file.seek(0, os.SEEK_END)
    for code, tag in changes.items():
        if tag is not None:
            data, room = _little_endian(tag.data, tag.kind, order), struct.calcsize(word)
            value = data.ljust(room, b"\0")
            if len(data) > room:
                value = struct.pack(word, _append(file, data))
            folder[code] = (tag.kind, len(data) // _SIZES[tag.kind], value)
    table = b"".join(struct.pack(_entry(order, big), code, *folder[code]) for code in sorted(folder))
    start = _append(file, struct.pack(order + ("Q" if big else "H"), len(folder)) + table + struct.pack(word, 0))
    file.seek(8 if big else 4)
    file.write(struct.pack(word, start))


def upright_exif(exif: bytes, width: int, height: int, orientation: int, resolution: "Resolution | None") -> bytes:
    """EXIF of a picture that stands upright now, `width` x `height`, without the six letters before it: its orientation
    is 1 and no longer `orientation`, the size is the picture's, resolutions have changed places if it lay on its side,
    the subject is where it stands now, and the thumbnail, which shows the old one, is gone. `resolution` is for EXIF
    that has none. Everything else is as it was, and where it was: a camera's own notes may say where in EXIF they
    lie."""
    data, lay = bytearray(exif.removeprefix(b"Exif\0\0")), orientation in SIDEWAYS
    order, big, first = _first_folder(BytesIO(data))
    if big:  # no camera's
        return bytes(data)

    folder, following = _values(data, order, first)
    details, _ = _values(data, order, _number(data, order, folder, 34665))
    for codes, size in (((256, 257), folder), ((40962, 40963), details)):
        for code, pixels in zip(codes, (width, height), strict=True):
            if code in size:
                data[size[code] - 6 : size[code] + 4] = struct.pack(order + "HII", 4, 1, pixels)
    if 274 in folder:
        data[folder[274] - 6 : folder[274] + 4] = struct.pack(order + "HIHxx", 3, 1, 1)
    for codes, place in (((282, 283), folder), ((41486, 41487), details)):  # of the picture, of the sensor
        if lay and place.keys() >= set(codes):
            x, y = (slice(place[code] - 6, place[code] + 4) for code in codes)
            data[x], data[y] = data[y], data[x]
    for code in (37396, 41492):
        if code in details:
            _turn_subject(data, order, details[code], width, height, orientation)
    if following:
        _drop_thumbnail(data, order, following)
    file = BytesIO(data)
    if resolution is not None and 282 not in folder:
        rewrite_tags(file, resolution_tags(resolution))
    return file.getvalue()


def _values(data: bytearray, order: str, start: int) -> tuple[dict[int, int], int]:
    """Of a folder of EXIF that starts there: where each entry's value stands, by its code, and where it says where the
    next folder starts: 0 where it does not. As many entries as are there, whatever it says: readers read them, too."""
    if not 8 <= start <= len(data) - 2:
        return {}, 0
    following = start + 2 + 12 * struct.unpack_from(order + "H", data, start)[0]
    entries = reversed(range(start + 2, min(following, len(data) - 11), 12))  # the first of two of one code counts
    values = {struct.unpack_from(order + "H", data, entry)[0]: entry + 8 for entry in entries}
    return values, following if following <= len(data) - 4 else 0


def _number(data: bytearray, order: str, folder: Mapping[int, int], code: int) -> int:
    """A single number of a folder; 0 for none, and for several."""
    if code not in folder:
        return 0
    kind, count = struct.unpack_from(order + "HI", data, folder[code] - 6)
    return struct.unpack_from(order + ("H" if kind == 3 else "I"), data, folder[code])[0] if count == 1 else 0


def _drop_thumbnail(data: bytearray, order: str, following: int) -> None:
    """Take away the second folder, whose place stands at `following`, and the picture that it names."""
    folder, _ = _values(data, order, struct.unpack_from(order + "I", data, following)[0])
    for starts, lengths in ((273, 279), (513, 514)):
        start, length = (_number(data, order, folder, code) for code in (starts, lengths))
        if start > following:  # behind all that is to stay, or it may be something else
            end = min(start + length, len(data))
            data[start:end] = b"" if end == len(data) else bytes(end - start)
    data[following : following + 4] = bytes(4)


def _turn_subject(data: bytearray, order: str, value: int, width: int, height: int, orientation: int) -> None:
    """Where the subject stands in a picture `width` x `height` that had this orientation: x, y, then a diameter, or
    width and height, in shorts. What lies outside the picture stays as it is."""
    kind, count = struct.unpack_from(order + "HI", data, value - 6)
    if kind != 3 or count not in (2, 3, 4):
        return
    place = value if count == 2 else struct.unpack_from(order + "I", data, value)[0]
    if place > len(data) - 2 * count:
        return
    x, y, *size = struct.unpack_from(f"{order}{count}H", data, place)
    if orientation in SIDEWAYS:
        x, y, size = y, x, size[::-1]
    if x >= width or y >= height:
        return
    if orientation in ACROSS:
        x = width - 1 - x
    if orientation in DOWN:
        y = height - 1 - y
    struct.pack_into(f"{order}{count}H", data, place, x, y, *size)


def _folder(file: BinaryIO) -> tuple[str, bool, list[tuple[int, int, int, bytes]]]:
    """Byte order, BigTIFF or not, and code, type, count and value or its place of each entry of the first folder."""
    order, big, place = _first_folder(file)
    if not place:
        return order, big, []
    file.seek(min(place, 2**62))
    size = 8 if big else 2
    count = int.from_bytes(file.read(size), "little" if order == "<" else "big")
    entry = struct.Struct(_entry(order, big))
    table = file.read(min(count, 65535) * entry.size)
    return order, big, list(entry.iter_unpack(table[: len(table) // entry.size * entry.size]))


def _first_folder(file: BinaryIO) -> tuple[str, bool, int]:
    """Byte order ("<" or ">"), BigTIFF or not, and where the first folder begins: 0 in what is no TIFF."""
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")
    if head[:4] not in _TIFF_HEADS:
        return "<", False, 0
    order, big = _TIFF_HEADS[head[:4]]
    return order, big, struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]


def _entry(order: str, big: bool) -> str:
    return order + ("HHQ8s" if big else "HHI4s")


def _append(file: BinaryIO, data: bytes) -> int:
    """Where it begins: at an even place, as TIFF wants it."""
    start = file.seek(0, os.SEEK_END)
    start += file.write(b"\0" * (start % 2))
    file.write(data)
    return start


def _little_endian(data: bytes, kind: int, order: str) -> bytes:
    """From or to a byte order."""
    width = _TURNS.get(kind, 1)
    if order == "<" or width == 1:
        return data
    return np.frombuffer(data, f"u{width}").byteswap().tobytes()


# ---- resolution

INCH, CENTIMETRE, METRE = Fraction(254, 10), Fraction(10), Fraction(1000)
"""Millimetres."""
GREATEST = 1_000_000
"""Pixels in a millimetre."""


@dataclass(frozen=True)
class Resolution:
    """Pixels in a unit, both ways, exactly as the file says it."""

    x: Fraction
    y: Fraction
    unit: Fraction | None
    """in millimetres; None where the file names none, and x : y is the shape of a pixel, or a scale known elsewhere"""

    def turned(self) -> Self:
        """As the picture lying on its side has it."""
        return type(self)(self.y, self.x, self.unit)

    def per(self, unit: Fraction) -> tuple[Fraction, Fraction]:
        """Pixels in another unit, both ways; as they are where the file names no unit."""
        factor = 1 if self.unit is None else unit / self.unit
        return self.x * factor, self.y * factor

    def ratio(self, most: int) -> tuple[int, int]:
        """x and y as they are, if they are whole numbers up to `most`; else two with their ratio."""
        if self.x.denominator == self.y.denominator == 1 and max(self.x, self.y) <= most:
            return int(self.x), int(self.y)
        shape = (self.x / self.y).limit_denominator(most)
        return min(max(shape.numerator, 1), most), shape.denominator


def make_resolution(x: Fraction | int, y: Fraction | int, unit: Fraction | None) -> Resolution | None:
    """None for numbers that say nothing: 0, or more pixels than libvips can hold."""
    most = 2**32 if unit is None else GREATEST * unit
    return Resolution(Fraction(x), Fraction(y), unit) if 0 < x <= most and 0 < y <= most else None


def tag_resolution(tags: Mapping[int, Tag]) -> Resolution | None:
    """What TIFF or EXIF says; inches unless it says otherwise."""
    x = tags[282].rational() if 282 in tags else Fraction(0)
    y = tags[283].rational() if 283 in tags else x
    unit = int.from_bytes(tags[296].data[:2], "little") if 296 in tags else 2
    return make_resolution(x, y, {2: INCH, 3: CENTIMETRE}.get(unit))


def resolution_tags(resolution: Resolution | None) -> dict[int, Tag | None]:
    """The three tags of TIFF; None takes away what libvips makes up."""
    if resolution is None:
        return {282: None, 283: None, 296: None}
    unit = CENTIMETRE if resolution.unit == CENTIMETRE else INCH
    code = 1 if resolution.unit is None else 3 if unit == CENTIMETRE else 2
    x, y = (Tag(5, _rational(value)) for value in resolution.per(unit))
    return {282: x, 283: y, 296: Tag(3, code.to_bytes(2, "little"))}


def _rational(value: Fraction) -> bytes:
    """As two numbers of 32 bits."""
    top = 2**32 - 1
    value = value.limit_denominator(max(1, min(top, int(top / value))))
    return struct.pack("<II", min(value.numerator, top), value.denominator)
