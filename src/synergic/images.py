"""Picture files and arrays: depth, alpha, orientation, colour profile and metadata survive the way in and out.

The only file that imports the image library (libvips). Its threads do not survive a fork: a process that has read a
picture starts its workers with "spawn" or "forkserver" (in a DataLoader, `multiprocessing_context`).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyvips  # type: ignore[import-untyped]

from synergic.errors import SynergicError
from synergic.files import whole_file
from synergic.formats import (
    DTYPES,
    EXIF,
    FORMATS,
    ICC,
    JPEG,
    LEAST_LOSSY,
    LOSSY,
    PNG,
    READ,
    TIFF,
    WEBP,
    WORDS,
    Format,
    choose_format,
)
from synergic.metadata import (
    MOST_PARTS,
    Extras,
    exif_resolution,
    is_exif,
    jpeg_extras,
    mend_webp,
    mended_jpeg,
    mended_png,
    png_extras,
    segments_in_words,
    tiff_changes,
    tiff_extras,
    upright_xmp,
    webp_extras,
    without_element,
    xmp_alone,
)
from synergic.stores import files_in, path_inside
from synergic.tags import ACROSS, DOWN, SIDEWAYS, Resolution, count_folders, read_tags, rewrite_tags, upright_exif

__all__ = ["MAX_PIXELS", "READABLE", "WRITABLE", "Picture", "check_writable", "compress_jpeg", "find_pictures"]
__all__ += ["from_float", "read_picture", "read_pixels", "to_float", "write_picture"]

pyvips.operation_block_set("VipsForeignLoad", True)  # no loader but these four, whatever a file says it is
for _loader in ("VipsForeignLoadJpeg", "VipsForeignLoadPng", "VipsForeignLoadTiff", "VipsForeignLoadWebp"):
    pyvips.operation_block_set(_loader, False)
pyvips.cache_set_max(0)  # libvips would answer a second read of a path from memory, though the file has changed


@pyvips.ffi.def_extern(name="_log_handler_callback")  # type: ignore[untyped-decorator]
def _unheard(*_: Any) -> None:
    """In place of pyvips' own handler of libvips' warnings, which itself complains of those that are not UTF-8."""


@dataclass(frozen=True)
class Picture:
    """One picture in memory."""

    pixels: np.ndarray
    """H W C, C = 1 (gray) or 3 (RGB), upright; uint8 | uint16 | float32, may be a view into an array with alpha"""
    alpha: np.ndarray | None
    """H W, the same dtype"""
    metadata: Mapping[str, Any]
    """carried from read to write. Bytes: "icc-profile-data", "exif-data", "xmp-data" and, of a JPEG, "iptc-data", as
    libvips names them; "png-colour" and "png-text", chunks of a PNG as they are; "jpeg-segments", comments of a JPEG.
    "resolution": a `Resolution`, if the file has one; "tiff-tags": a Tag for each number"""
    jpeg_quality: int | None
    """1-100, the standard quality closest to a JPEG's luma quantisation table; None for every other format. A JPEG
    is written at no less than this"""
    left_out: tuple[str, ...] = ()
    """what is in the file and cannot come along, in words"""


READABLE: frozenset[str] = frozenset(FORMATS)
"""Lower-case suffixes that folders are searched for. A file's content, not its suffix, decides how it is read."""
WRITABLE: frozenset[str] = frozenset(FORMATS)
"""Lower-case suffixes that `write_picture` accepts."""
MAX_PIXELS = 500_000_000
"""The default limit on width x height: 1.5 GB as 8-bit RGB, five times the largest pictures we promise to restore."""

_CHANNELS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb16": 3, "scrgb": 3}
_HARMLESS = re.compile(r"extraneous bytes|JFIF revision|Adobe color transform|Invalid SOS parameters|^\s*$")
_NO_MEMORY = re.compile(r"out of memory|failed to allocate|Error creating thread")
_DENSEST = 32 * 1032  # decoded bytes in a byte of file: deflate's most, from a palette's 1 bit to RGBA; zstd's is less
_MOST_IN_MEMORY = 1 << 30  # bytes of a file: two for each pixel of the largest that is read unless asked
_ERRORS = Lock()
_MILLIMETRE = Fraction(1)


def read_picture(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read one picture, upright, at the depth of its file type.

    Palettes are expanded to RGB and 1-, 2- and 4-bit gray to uint8; values are never rescaled otherwise. `max_pixels`
    is compared with the header, before anything is decoded. Memory: the decoded array; twice that for a moment where
    EXIF asks for a turn.

    Raises SynergicError for a missing, damaged, truncated, animated or multi-page file, and for anything that is not
    gray or RGB in 8-bit, 16-bit or 32-bit float samples.
    """
    path = Path(path)
    with _one_line(path, "read"):
        contents = _in_memory(path)
        _refuse_many_pages(path)
        with _alone_with_libvips():
            source = _source(path, contents)
            try:
                image = _open(source)
            except pyvips.Error:
                _refuse_deep_samples(path)
                raise
            extras = _extras(path, image, contents)
            _refuse_unsupported(path, image, extras.frames, max_pixels)
            if image.get("vips-loader").startswith("jpegload"):
                samples = _decode_jpeg(source)
            else:
                samples = _decode(_open(source, fail_on="warning") if extras.by_jpeg else image)
        if extras.too_bright != 1:
            samples[:, :, 0] /= extras.too_bright
        orientation, channels = extras.orientation or _field(image, "orientation", 1), _CHANNELS[image.interpretation]
        metadata, samples = _metadata(image, extras, orientation), _upright(samples, orientation)
        return Picture(
            pixels=samples[:, :, :channels],
            alpha=samples[:, :, channels] if image.bands > channels else None,
            metadata=metadata,
            jpeg_quality=extras.jpeg_quality,
            left_out=tuple(extras.left_out),
        )


def read_pixels(path: Path | str) -> np.ndarray:
    """The pixels of one picture alone, H W C, alpha dropped. Raises as `read_picture` does."""
    return read_picture(path).pixels


def find_pictures(inputs: Sequence[Path], apart: Path | None = None) -> list[tuple[Path, Path]]:
    """All pictures that `inputs` name, each with its path relative to the folder given, or its bare name for a file.

    Folders are searched recursively, sorted, for files with a suffix in READABLE; hidden files and folders are passed
    over, and so is the folder `apart` where it lies inside one of them. A file named outright is taken whatever its
    suffix. Raises SynergicError for an input that does not exist.
    """
    found: list[tuple[Path, Path]] = []
    for given in inputs:
        if given.is_dir():
            relative = [name for name in files_in(given) if _is_picture(name)]
            inside = None if apart is None else path_inside(apart, given)
            if inside is not None:
                relative = [name for name in relative if not name.is_relative_to(inside)]
            found += [(given / name, name) for name in relative]
        elif given.exists():
            found.append((given, Path(given.name)))
        else:
            raise SynergicError(f"{given}: expected a picture or a folder, but nothing is there; check the path")
    return found


def _is_picture(name: Path) -> bool:
    """By its path relative to the folder."""
    return name.suffix.lower() in READABLE and not any(part.startswith(".") for part in name.parts)


@contextmanager
def _one_line(path: Path, done: str) -> Iterator[None]:
    """Turn the errors of the library and the system into one SynergicError with the file's name."""
    try:
        yield
    except (pyvips.Error, UnicodeDecodeError) as error:  # the latter where libvips names something that is not UTF-8
        lines = [line.strip() for line in getattr(error, "detail", "").splitlines() if line.strip()]
        lines.sort(key=lambda line: not line.startswith("system error: "))  # a full disk, before what follows from it
        reason = re.sub(r"^[\w ]+: ", "", lines[0].replace(f"{path}: ", "")) if lines else "its contents are damaged"
        if _NO_MEMORY.search(getattr(error, "detail", "")):
            raise MemoryError(reason) from error
        wanted = "expected a whole PNG, JPEG, TIFF or WebP file" if done == "read" else "check the free space"
        if "not configured" in reason:  # a way of packing a TIFF that this libvips does not know
            wanted = "save it with deflate or LZW first"
        raise SynergicError(f"{path}: cannot be {done}: {reason}; {wanted}") from error
    except OSError as error:
        wanted = "the path and its rights" if done == "read" else "the path, its rights and free space"
        raise SynergicError(f"{path}: cannot be {done}: {error.strerror}; check {wanted}") from error


@contextmanager
def _alone_with_libvips() -> Iterator[None]:
    """One file at a time: libvips keeps one error text for all threads, and whether a JPEG is whole is known by its
    warnings alone."""
    with _ERRORS:
        pyvips.vips_lib.vips_error_clear()  # or a warning that an earlier file left would be blamed on this one
        yield


def _in_memory(path: Path) -> bytes | None:
    """The contents of a JPEG or WebP: libvips would map the file, and if it shrank meanwhile, the process would end."""
    if not path.is_file():
        got = "got something else" if path.exists() else "but there is none"
        raise SynergicError(f"{path}: expected a picture file, {got}; check the path")
    with path.open("rb") as file:
        head = file.read(12)
        if not head.startswith(b"\xff\xd8") and not head.endswith(b"WEBP"):
            return None
        size = file.seek(0, os.SEEK_END)
        if size > _MOST_IN_MEMORY:
            raise SynergicError(
                f"{path}: expected at most {_MOST_IN_MEMORY:,} bytes of JPEG or WebP, got {size:,}; split it"
            )
        file.seek(0)
        return file.read()


def _refuse_many_pages(path: Path) -> None:
    """Before libvips counts the pages of a TIFF, which takes it ten microseconds each: seconds for a few megabytes."""
    with path.open("rb") as file:
        pages = count_folders(file, MOST_PARTS)
    if pages > MOST_PARTS:
        raise SynergicError(f"{path}: expected one picture, got over {MOST_PARTS:,} pages; split it into files first")


def _refuse_deep_samples(path: Path) -> None:
    """A TIFF of 64-bit samples, of which libvips says no more than that samples are out of range."""
    with path.open("rb") as file:
        bits = read_tags(file).get(258)
    if bits is not None and bits.data[:2] == b"\x40\0":
        raise _unsupported_samples(path, "64-bit")


def _source(path: Path, contents: bytes | None) -> pyvips.Source:
    """What libvips reads from: not the file's name, in which it would take 'a[b]' for options."""
    if contents is not None:
        return pyvips.Source.new_from_memory(contents)
    return pyvips.Source.new_from_file(os.fsencode(path))


def _open(source: pyvips.Source, fail_on: str = "error") -> pyvips.Image:
    """Read the header; pixels are decoded later."""
    return pyvips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)


def _refuse_unsupported(path: Path, image: pyvips.Image, frames: int, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise SynergicError(f"{path}: expected at most {max_pixels:,} pixels, got {size}; raise max_pixels to read it")
    pages = _field(image, "n-pages", 1) + _field(image, "n-subifds", 0)  # a raw photograph hides behind its thumbnail
    pages = max(pages, frames)
    if pages > 1:
        raise SynergicError(f"{path}: expected one picture, got {pages} pages or frames; split it into files first")
    extra = image.bands - _CHANNELS.get(image.interpretation, image.bands + 1)
    if extra < 0:
        colour = image.interpretation.upper()
        raise SynergicError(f"{path}: expected gray or RGB, got {colour}; convert it to RGB first")
    if extra > 1:
        raise SynergicError(f"{path}: expected at most one alpha channel, got {extra}; remove the others first")
    if image.format not in DTYPES:
        raise _unsupported_samples(path, image.format)
    contents = path.stat().st_size
    if not _can_hold(contents, image):
        size = f"{image.width} x {image.height} pixels"
        raise SynergicError(f"{path}: expected the contents of {size}, got {contents:,} bytes; the file is truncated")


def _unsupported_samples(path: Path, got: str) -> SynergicError:
    return SynergicError(f"{path}: expected 8-bit, 16-bit or 32-bit float samples, got {got} samples; convert it first")


def _can_hold(contents: int, image: pyvips.Image) -> bool:
    """Can so many bytes of file decode to such an image? libvips may take memory for all of it before it finds their
    end. WebP and fax (TIFF of 1 bit) need next to none for a flat picture."""
    loader, bits = image.get("vips-loader"), _field(image, "bits-per-sample", 8)
    if loader.startswith("webpload") or (loader.startswith("tiffload") and bits == 1):
        return True
    decoded = image.width * image.height * image.bands * np.dtype(DTYPES[image.format]).itemsize
    return bool(decoded <= contents * _DENSEST)


def _decode(image: pyvips.Image) -> np.ndarray:
    """H W bands, writable."""
    samples = np.frombuffer(image.write_to_memory(), dtype=DTYPES[image.format])
    return samples.reshape(image.height, image.width, image.bands)


def _decode_jpeg(source: pyvips.Source) -> np.ndarray:
    """H W bands. libjpeg only warns where data is missing and paints it gray: such a warning is an error here."""
    try:
        return _decode(_open(source, fail_on="warning"))
    except pyvips.Error as error:
        if not all(_HARMLESS.search(line) for line in error.detail.splitlines()):
            raise
    return _decode(_open(source))


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1-8 (anything else: as it is) to H W C."""
    if orientation in SIDEWAYS:
        samples = samples.swapaxes(0, 1)  # W H C
    if orientation in ACROSS:
        samples = samples[:, ::-1]
    if orientation in DOWN:
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def _field(image: pyvips.Image, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _extras(path: Path, image: pyvips.Image, contents: bytes | None) -> Extras:
    """What the file says beside what libvips reads of it."""
    loader = image.get("vips-loader")
    if loader.startswith("jpegload"):
        assert contents is not None
        return jpeg_extras(path, contents)
    if loader.startswith("pngload"):
        return png_extras(path)
    if loader.startswith("tiffload"):
        return tiff_extras(path, _field(image, "orientation", 1) != 1)
    assert contents is not None
    extras = webp_extras(contents)
    extras.metadata["resolution"] = exif_resolution(_field(image, "exif-data", b""))
    return extras


def _metadata(image: pyvips.Image, extras: Extras, orientation: int) -> dict[str, Any]:
    """What `write_picture` hands on, of a picture that has been turned: what libvips reads, and the extras."""
    loader = image.get("vips-loader")
    read = next(names for start, names in READ.items() if loader.startswith(start))
    metadata = {name: image.get(name) for name in read if image.get_typeof(name)} | extras.metadata
    profile = metadata.pop(ICC, b"")
    size = int.from_bytes(profile[:4], "big")
    if profile and size <= len(profile):
        metadata[ICC] = profile[:size]  # what lies behind is none of it, and PNG refuses it
    elif extras.profile or profile:  # of a JPEG's, libvips reads 6.5 MB
        extras.left_out.append("the colour profile, which is damaged or too large")
    if EXIF in metadata and not is_exif(metadata[EXIF]):  # libvips would make up another in its place
        del metadata[EXIF]
        extras.left_out.append("EXIF, which is damaged")
    resolution, lay = metadata.pop("resolution", None), orientation in SIDEWAYS
    if resolution is not None:
        metadata["resolution"] = resolution.turned() if lay else resolution
    if EXIF in metadata:
        upright = (image.height, image.width) if lay else (image.width, image.height)
        metadata[EXIF] = upright_exif(metadata[EXIF], *upright, orientation, _known(metadata.get("resolution")))
    if orientation != 1 and metadata.pop("png-scale", None):  # its axes are the old ones
        extras.left_out.append(WORDS["png-scale"])
    if "xmp-data" in metadata:
        xmp = without_element(xmp_alone(metadata["xmp-data"]), b"xmp:Thumbnails")  # they show the old one
        metadata["xmp-data"] = xmp if orientation == 1 else upright_xmp(xmp)
    if not metadata.get("iptc-data", True):  # there was a thumbnail in it, and nothing else
        del metadata["iptc-data"]
    return metadata


def compress_jpeg(pixels: np.ndarray, quality: int, *, subsampling: bool = False) -> np.ndarray:
    """Encode as JPEG in memory and decode again: uint8 H W C in, the same shape out, gray as a gray JPEG.

    The standard (IJG) tables scaled by `quality` 1-100, the accurate integer DCT both ways, nothing optimised towards
    the eye: the same pixels as libjpeg's own encoder gives. `subsampling` halves the chroma both ways (4:2:0).
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise SynergicError(f"pixels: expected uint8 H W C with 1 or 3 channels, got {got}; convert them first")
    if not 1 <= quality <= 100:
        raise SynergicError(f"quality: expected 1 to 100, got {quality}; choose one in that range")
    mode = "on" if subsampling else "off"
    encoded = _to_image(pixels).jpegsave_buffer(Q=quality, subsample_mode=mode, keep=pyvips.ForeignKeep.NONE)
    return _decode(pyvips.Image.jpegload_buffer(encoded))


def write_picture(path: Path | str, picture: Picture, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write one picture, atomically: under `path` there is at any moment the old file, none, or the whole new one.
    Returns, in words, what was in the picture's file, or is in its metadata, and is not in the new one.

    The suffix names the format: PNG, TIFF (deflate) and WebP without loss, JPEG with full chroma at the quality that
    it had, but at least 95, and at 98 what was no JPEG. WebP knows no gray: it holds three equal channels. TIFF holds
    no EXIF. Parent folders are created.

    Raises SynergicError if the format cannot hold the depth or the alpha, if the file exists and not `overwrite`, or
    if writing fails; no part of a file is left behind.
    """
    path = Path(path)
    form = _format(path, picture)
    with whole_file(path, overwrite=overwrite) as unfinished, _one_line(path, "written"), _alone_with_libvips():
        _save(unfinished, picture, form)
        return (*picture.left_out, *_missing(unfinished, picture, form))


def _missing(path: Path, picture: Picture, form: Format) -> list[str]:
    """What the format does not hold, and what libvips has passed over: a damaged profile, one of another colour, what
    is too large for a segment of JPEG."""
    image = _open(_source(path, None))
    missing = []
    for name, wanted in picture.metadata.items():
        if name in form.metadata:
            lost = _field(image, name, None) != wanted
        elif name == EXIF:
            lost = _field(image, name, None) is None  # in front of it stand six letters, or not
        elif name == "resolution":
            lost = _lost(wanted, image, form)
        else:
            plain = name == "png-colour" and b"sRGB" in wanted and b"cICP" not in wanted  # what all others mean
            lost = name not in form.own and not plain
        if lost:
            missing += segments_in_words(wanted) if name == "jpeg-segments" else [WORDS.get(name, name)]
    return missing


def _lost(resolution: Resolution | None, image: pyvips.Image, form: Format) -> bool:
    """Is a resolution further off than rounding takes it? JPEG has whole numbers up to 65,535, WebP none without a
    unit."""
    if resolution is None or resolution.unit is None:
        return resolution is not None and form is WEBP and resolution.x != resolution.y
    pairs = zip((image.xres, image.yres), resolution.per(_MILLIMETRE), strict=True)
    return form is JPEG and any(abs(got - wanted) > 0.051 + wanted / 1000 for got, wanted in pairs)


def check_writable(path: Path, picture: Picture) -> None:
    """Raise the SynergicError that `write_picture` would for a format that cannot hold the picture: before the work."""
    _format(path, picture)


def _format(path: Path, picture: Picture) -> Format:
    side = max(picture.pixels.shape[:2])
    return choose_format(path, str(picture.pixels.dtype), picture.alpha is not None, side)


def _save(path: Path, picture: Picture, form: Format) -> None:
    image, options = _with_metadata(picture, form), dict(form.options)
    options["keep"] = pyvips.ForeignKeep.ALL
    if form is not WEBP or (EXIF not in picture.metadata and not _known(picture.metadata.get("resolution"))):
        options["keep"] &= ~pyvips.ForeignKeep.EXIF  # libvips makes it up; WebP needs it for the resolution
    if form is JPEG:
        options["Q"] = LOSSY if picture.jpeg_quality is None else max(LEAST_LOSSY, picture.jpeg_quality)
    if form is TIFF and image.width * image.height * image.bands * picture.pixels.itemsize > 2**31:
        options["bigtiff"] = True
    if form is PNG or form is JPEG:
        mended = mended_png if form is PNG else mended_jpeg
        _stream(path, image, partial(mended, metadata=picture.metadata), **options)
    else:
        image.write_to_file(os.fsencode(path), **options)
    if form is TIFF:
        with path.open("r+b") as file:
            rewrite_tags(file, tiff_changes(picture.metadata))
    if form is WEBP and EXIF in picture.metadata:
        mend_webp(path, picture.metadata[EXIF])


def _with_metadata(picture: Picture, form: Format) -> pyvips.Image:
    """The picture with alpha, and what libvips writes well of its metadata."""
    image = _to_image(picture.pixels)
    if picture.alpha is not None:
        image = image.bandjoin(_to_image(picture.alpha[:, :, None])).copy(interpretation=image.interpretation)
    resolution = _known(picture.metadata.get("resolution"))
    if resolution is not None:  # of WebP; of the others metadata.py and tags.py write it
        x, y = resolution.per(_MILLIMETRE)
        image = image.copy(xres=float(x), yres=float(y))
    for name in form.metadata:
        if name in picture.metadata and not (form is PNG and name == ICC and not _fits_png(picture)):
            image.set_type(pyvips.GValue.blob_type, name, picture.metadata[name])
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    return image


def _known(resolution: Resolution | None) -> Resolution | None:
    """None for one without a unit."""
    return None if resolution is None or resolution.unit is None else resolution


def _fits_png(picture: Picture) -> bool:
    """May a PNG hold the profile? Of a damaged one, or one of another colour, libpng makes a file that it refuses."""
    profile, colour = picture.metadata[ICC], b"GRAY" if picture.pixels.shape[2] == 1 else b"RGB "
    whole = int.from_bytes(profile[:4], "big") == len(profile) >= 132
    return whole and profile[16:20] == colour and profile[36:40] == b"acsp"


def _stream(path: Path, image: pyvips.Image, mended: Callable[[bytes], bytes | None], **options: Any) -> None:
    """Save a file whose beginning goes through `mended`, which gives None as long as it needs more of it. Nothing but
    the beginning is held in memory."""
    head, enough, begun = bytearray(), 0, False
    failed: list[OSError] = []

    def write(part: Any) -> int:
        nonlocal enough, begun
        try:
            if begun:
                return file.write(part)
            head.extend(part)
            if len(head) >= enough and (beginning := mended(bytes(head))) is not None:
                file.write(beginning)
                begun = True
            enough = len(head) * 5 // 4  # or a long beginning would be gone through for each of its parts
        except OSError as error:  # libvips would not say which
            failed.append(error)
            return -1
        return len(part)

    target = pyvips.TargetCustom()
    target.on_write(write)
    try:
        with path.open("r+b") as file:
            image.write_to_target(target, path.suffix, **options)
            if not begun:
                file.write(mended(bytes(head)) or head)
    except pyvips.Error:
        if failed:
            raise failed[0] from None
        raise


def _to_image(pixels: np.ndarray) -> pyvips.Image:
    """H W C as a libvips image over the same memory."""
    height, width, channels = pixels.shape
    pixels = np.ascontiguousarray(pixels)
    band_format = {dtype: name for name, dtype in DTYPES.items()}[str(pixels.dtype)]
    gray, colour = ("grey16", "rgb16") if band_format == "ushort" else ("b-w", "srgb")
    image = pyvips.Image.new_from_memory(pixels, width, height, channels, band_format)
    return image.copy(interpretation=gray if channels == 1 else colour)


# ---- depth


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Any dtype -> float32; integers are divided by their greatest value."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def from_float(values: np.ndarray, dtype: np.dtype[Any] | type) -> np.ndarray:
    """float32 -> `dtype`; for integers times their greatest value, rounded and clipped."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    top = np.iinfo(dtype).max
    return np.clip(np.rint(values * np.float32(top)), 0, top).astype(dtype)
