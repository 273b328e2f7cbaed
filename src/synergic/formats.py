"""The file formats: what each can hold of a picture, and how it is saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synergic.errors import SynergicError

__all__ = ["DTYPES", "EXIF", "FORMATS", "ICC", "JPEG", "LEAST_LOSSY", "LOSSY", "PNG", "READ", "TIFF", "UNWRITABLE"]
__all__ += ["WEBP", "WORDS", "XMP", "Format", "choose_format"]

ICC, EXIF, XMP = "icc-profile-data", "exif-data", "xmp-data"
WORDS = {
    ICC: "the colour profile",
    EXIF: "EXIF",
    XMP: "XMP",
    "iptc-data": "IPTC",
    "png-colour": "the colour space",
    "png-scale": "what the PNG measures",
    "png-text": "texts of the PNG",
    "resolution": "the resolution",
    "tiff-tags": "texts of the TIFF",
}
"""What each kind of metadata is called where it is left out."""
READ = {
    "jpegload": (ICC, EXIF, "iptc-data"),
    "pngload": (ICC,),
    "tiffload": (ICC, XMP),
    "webpload": (ICC, EXIF, XMP),
}
"""What libvips' loaders read well of metadata; metadata.py reads the rest."""
DTYPES = {"uchar": "uint8", "ushort": "uint16", "float": "float32"}
"""By libvips' names."""


@dataclass(frozen=True)
class Format:
    """What a file format can hold, and how it is saved."""

    name: str
    dtypes: tuple[str, ...]
    alpha: bool
    metadata: tuple[str, ...]
    """what libvips writes well of a picture's metadata"""
    own: tuple[str, ...]
    """what metadata.py and tags.py write of it"""
    options: Mapping[str, Any]
    """of libvips' saver"""
    longest: int = 2**31 - 1
    """its longest side, in pixels"""


JPEG = Format(
    "JPEG", ("uint8",), False, (ICC, XMP, "iptc-data"), (EXIF, "jpeg-segments"), {"subsample_mode": "off"}, 65_500
)
LEAST_LOSSY, LOSSY = 95, 98
"""Quality of a JPEG that was one, at least, and of one that was not. At 95, 16 of 29 photographs of LIVE1 fall under
42 dB by the compression alone, at 98 none."""
PNG = Format(
    "PNG", ("uint8", "uint16"), True, (ICC,), (EXIF, XMP, "png-colour", "png-scale", "png-text"), {"filter": "all"}
)
TIFF = Format("TIFF", ("uint8", "uint16", "float32"), True, (ICC, XMP), ("tiff-tags",), {"compression": "deflate"})
WEBP = Format("WebP", ("uint8",), True, (ICC, XMP), (EXIF,), {"lossless": True, "exact": True}, 16_383)
# exact: colour under alpha 0 as well

FORMATS = {".png": PNG, ".tif": TIFF, ".tiff": TIFF, ".webp": WEBP}
FORMATS |= dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), JPEG)
"""By lower-case suffixes."""
UNWRITABLE = frozenset({".avif", ".bmp", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".jxr"})
UNWRITABLE |= {".pbm", ".pdf", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga"}
UNWRITABLE |= {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}  # raw files
"""Suffixes of other pictures: what has one is no folder's name."""


def choose_format(path: Path, dtype: str, alpha: bool, side: int) -> Format:
    """The format that the suffix names; SynergicError if there is none, or it cannot hold such a picture, whose longer
    side is of so many pixels."""
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        known = " ".join(sorted(FORMATS))
        raise SynergicError(f"{path}: expected a name ending in one of {known}, got '{path.suffix}'; choose another")
    if dtype not in form.dtypes:
        raise SynergicError(f"{path}: {form.name} cannot hold {dtype} pixels; {_formats_for(dtype, alpha, side)}")
    if alpha and not form.alpha:
        raise SynergicError(f"{path}: {form.name} cannot hold alpha; {_formats_for(dtype, alpha, side)}")
    if side > form.longest:
        instead = _formats_for(dtype, alpha, side)
        raise SynergicError(f"{path}: {form.name} cannot hold sides of {side:,} pixels; {instead}")
    return form


def _formats_for(dtype: str, alpha: bool, side: int) -> str:
    fitting = [form for form in (PNG, TIFF, WEBP, JPEG) if dtype in form.dtypes and side <= form.longest]
    able = [form for form in fitting if form.alpha or not alpha]
    if not able:
        return f"convert them to {', '.join(DTYPES.values())}"
    return f"write {' or '.join(form.name for form in able)} instead"
