"""Pictures of every mode and format, written by others than the package: Pillow, tifffile, the PNG specification."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description tiff:Orientation=\"%d\"/></x:xmpmeta>"

MODES = {
    ".png": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "L16", "LA16", "RGB16", "RGBA16"],
    ".jpg": ["L", "RGB"],
    ".webp": ["RGB", "RGBA"],
    ".tif": ["1", "L", "LA", "P", "RGB", "RGBA", "L16", "LA16", "RGB16", "RGBA16", "L32", "LA32", "RGB32", "RGBA32"],
}
"""Pillow's names, and 16 for 16-bit, 32 for float samples. PA is a palette with a transparent colour."""


def samples(mode: str, width: int, height: int, seed: int = 0) -> np.ndarray:
    """H W C of a mode without palette: waves, over the whole range of integers and -0.2 to 2 for float."""
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode.rstrip("1632")]
    draw = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    angles = [draw.uniform(0, 6) + draw.uniform(-5, 5) * x + draw.uniform(-5, 5) * y for _ in range(bands)]
    waves = np.sin(np.stack(angles, 2)) / 2 + 0.5
    if mode.endswith("32"):
        return (waves * 2.2 - 0.2).astype(np.float32)
    return np.rint(waves * 65535).astype(np.uint16) if mode.endswith("16") else np.rint(waves * 255).astype(np.uint8)


def write_mode(path: Path, mode: str, size: tuple[int, int], seed: int = 0, orientation: int = 1) -> np.ndarray:
    """Write `size` (width, height) pixels with profile, 300 dpi, EXIF (PNG, JPEG, WebP) or XMP (TIFF), and an
    orientation. Returns what restoring nothing gives: H W C, upright; 1 bit as 8-bit gray, a palette as RGB."""
    wide = {"1": "L", "P": "RGB", "PA": "RGBA"}.get(mode, mode)
    pixels = samples(wide, *size, seed)
    if path.suffix == ".tif" and wide == mode:
        write_tiff(path, pixels, orientation)
    elif path.suffix == ".png" and mode.endswith("16"):
        path.write_bytes(
            png(pixels, chunk(b"eXIf", exif(orientation).tobytes()[6:]), icc_chunk(pixels.shape[2]), PER_METRE)
        )
    else:
        image = Image.fromarray(pixels[..., 0] if wide == "L" else pixels)
        image = image.convert("1") if mode == "1" else image
        image = image.quantize(16, Image.Quantize.FASTOCTREE) if mode in ("P", "PA") else image
        lossless: dict[str, Any] = {"lossless": True, "exact": True} if path.suffix == ".webp" else {"quality": 100}
        image.save(path, exif=exif(orientation), icc_profile=profile(pixels.shape[2]), dpi=(300, 300), **lossless)
        if path.suffix == ".jpg":  # which has changed them; a turned TIFF with a palette Pillow would not read back
            with Image.open(path) as stored:
                image = stored.copy()
        pixels = np.atleast_3d(np.array(image.convert(wide)))
    return upright(pixels, orientation)


def write_tiff(path: Path, pixels: np.ndarray, orientation: int = 1, **options: Any) -> None:
    """H W C, C = 1 to 4, with profile, XMP, 300 dpi."""
    colour, alpha = pixels.shape[2] > 2, pixels.shape[2] % 2 == 0
    icc, xmp = profile(pixels.shape[2]), XMP % orientation
    tags = [(274, 3, 1, orientation, True), (34675, 7, len(icc), icc, True), (700, 1, len(xmp), xmp, True)]
    tifffile.imwrite(
        path,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],  # or it would take rows for pages
        photometric="rgb" if colour else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if alpha else None,
        resolution=(300, 300),
        resolutionunit="INCH",
        extratags=tags,
        metadata=None,
        **options,
    )


def profile(bands: int) -> bytes:
    """A colour profile; for 1 or 2 bands one that calls itself gray, which PNG asks for."""
    return ICC if bands > 2 else ICC[:16] + b"GRAY" + ICC[20:]


def exif(orientation: int) -> Image.Exif:
    """EXIF with a maker, an orientation, and 300 dpi."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 300.0, 2
    return exif


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """H W C turned as EXIF says, by what its 0th row and 0th column are (EXIF 2.32, section 4.6.4)."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: np.asarray,  # top, left
        2: np.fliplr,  # top, right
        3: lambda x: np.rot90(x, 2),  # bottom, right
        4: np.flipud,  # bottom, left
        5: lambda x: x.swapaxes(0, 1),  # left, top
        6: lambda x: np.rot90(x, -1),  # right, top
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),  # right, bottom
        8: np.rot90,  # left, bottom
    }
    return np.array(turns[orientation](pixels))


def png(pixels: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG by the specification, for Pillow knows no 16-bit colour: H W C, C = 1 to 4, uint8 or uint16; `chunks` come
    before the pixels."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = png_header(width, height, 8 * pixels.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    return header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + END


def png_header(width: int, height: int, depth: int = 8, kind: int = 2, interlaced: bool = False) -> bytes:
    """Signature and header of a PNG; kind: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha."""
    fields = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields)


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def icc_chunk(bands: int) -> bytes:
    """The profile as a chunk of a PNG."""
    return chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile(bands)))


END = chunk(b"IEND", b"")
PER_METRE = chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
"""300 dpi."""
