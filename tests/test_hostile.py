"""Hostile files: one line each, nothing written for a refused one, the rest restored, bounded memory and time."""

import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import save
from pictures import END, chunk, png, png_header, samples, write_mode
from synergic.errors import SynergicError
from synergic.images import read_picture

MakeWeights = Callable[..., Path]
HERE = Path(__file__).parent
CONVOLUTIONS = {"local_attention": False, "nonlocal_attention": None}
"""A quick network: the files are what is tested."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "synergic", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_every_hostile_file_is_one_line_or_restored(data: Path, tmp_path: Path, make_weights: MakeWeights) -> None:
    done = run("restore", data / "hostile", "-o", tmp_path / "out", "--weights", make_weights(**CONVOLUTIONS), "--json")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    (told,) = done.stderr.splitlines()  # what a library has to say of a file is in the file's own line
    assert re.fullmatch(r"synergic: files passed over: \d+ of another kind", told)
    assert done.returncode == 1
    assert len(results) > 400
    errors = [result["error"] for result in results if result["status"] == "failed"]
    assert all(len(error.splitlines()) == 1 and "unexpected" not in error for error in errors)
    written = {str(path) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {result["output"] for result in results if result["status"] == "restored"}
    assert len(written) > 350, "most of them are only odd"
    assert sum("pngsuite/x" in error for error in errors) == 14, "all that are broken on purpose"


@linux
def test_damaged_files() -> None:
    """`python tests/fuzz.py --count 10000` is the same at length."""
    done = subprocess.run(
        [sys.executable, HERE / "fuzz.py", "--count", "100"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["png", "jpg", "tif", "webp"]
    for line in lines:
        assert "restored" in line and "failed" in line, "damage that everything or nothing survives tests nothing"


def test_names_do_not_reach_the_terminal_raw(tmp_path: Path, make_weights: MakeWeights) -> None:
    names = ["\x1b[2Jclear.png", "two\nlines.png", "\u202egnp.evil.png", os.fsdecode(b"\xff.png")]
    for name in names:
        (tmp_path / name).write_bytes(b"no picture")
    done = run("restore", tmp_path, "-o", tmp_path / "out", "--weights", make_weights())
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 4 + 1  # the weights are passed over
    assert all(letter.isprintable() for letter in done.stderr.replace("\n", ""))


# ---- bombs


def bombs() -> dict[str, bytes]:
    """Small files that ask for more than they are worth."""
    packer = zlib.compressobj(1)
    black = b"".join(packer.compress(bytes(10**6)) for _ in range(500)) + packer.flush()  # 500 MB
    dark = zlib.compress(bytes(4 * 10**6))
    texts = b"".join(chunk(b"zTXt", b"%d\0\0" % i + dark) for i in range(400))  # 1.6 GB if all were unpacked
    return {
        "declared.png": png_header(50_000, 50_000) + chunk(b"IDAT", zlib.compress(bytes(10))) + END,
        "declared.tif": tiff_pages(40_000, 25_000, pages=1),
        "pages.tif": tiff_pages(1, 1, pages=60_000),
        "frames.gif": b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff"
        + b"\x21\xf9\4\0\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0" * 100_000
        + b"\x3b",
        "profile.png": png(samples("RGB", 1, 1), chunk(b"iCCP", b"icc\0\0" + black)),
        "texts.png": png(samples("RGB", 1, 1), texts),
        "interlaced.png": png_header(25_000, 20_000, interlaced=True) + chunk(b"IDAT", dark) + END,
        "progressive.jpg": jpeg_that_says(25_000, 20_000),
        "strip.tif": tiff_pages(25_000, 20_000, pages=1),
        "chunks.png": png(samples("RGB", 1, 1), chunk(b"teSt", b"") * 1_700_000),
        "comments.jpg": jpeg_with(b"\xff\xfe\0\2" * 5_000_000),
        "empty.jpg": jpeg_with(b"\xff\0" * 10_000_000),
        "junk.jpg": jpeg_with(bytes(20_000_000)),
        "filled.jpg": jpeg_with(b"\xff" * 20_000_000),
    }


def jpeg_with(junk: bytes) -> bytes:
    """A JPEG of 8 x 8 pixels with something before its tables."""
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()[:2] + junk + file.getvalue()[2:]


def jpeg_that_says(width: int, height: int) -> bytes:
    """A progressive JPEG of 8 x 8 pixels that claims to be larger."""
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", progressive=True)
    return file.getvalue().replace(b"\0\x11\x08\0\x08\0\x08", b"\0\x11\x08" + struct.pack(">HH", height, width))


def tiff_pages(width: int, height: int, pages: int) -> bytes:
    """Gray 8-bit TIFF of many pages that share their pixels, which are not there."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 100)]
    entries = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
    size = len(entries) + 4
    folders = b"".join(entries + struct.pack("<I", 8 + (i + 1) * size if i + 1 < pages else 0) for i in range(pages))
    return b"II*\0" + struct.pack("<I", 8) + folders


MEASURE = """
import sys, time, pathlib, resource
from synergic.images import read_picture
from synergic.errors import SynergicError
for path in map(pathlib.Path, sys.argv[1:]):
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        told = str(read_picture(path).pixels.shape)
    except SynergicError as error:
        told = str(error)
    seconds = time.process_time() - started
    print(path.name, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, told, sep="|")
"""


@linux
def test_bombs_cost_under_a_second_and_200_mb(tmp_path: Path) -> None:
    for name, contents in bombs().items():
        (tmp_path / name).write_bytes(contents)
    paths = sorted(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    told = {}
    for line in done.stdout.splitlines():
        name, seconds, kilobytes, told[name] = line.split("|", 3)
        assert float(seconds) < 1, line
        assert int(kilobytes) < 200_000, line
    assert "expected at most 500,000,000 pixels, got 50000 x 50000" in told["declared.png"]
    assert "expected at most 500,000,000 pixels, got 40000 x 25000" in told["declared.tif"]
    assert "got over 10,000 pages" in told["pages.tif"]
    assert "expected a whole PNG, JPEG, TIFF or WebP file" in told["frames.gif"]
    for name in ("interlaced.png", "progressive.jpg", "strip.tif"):  # libvips alone would take 1.5 GB for each
        assert "expected the contents of 25000 x 20000 pixels, got" in told[name]
    assert told["profile.png"] == told["texts.png"] == "(1, 1, 3)", "without the profile; texts stay packed"
    for name in ("chunks.png", "comments.jpg"):
        assert "expected at most 10,000" in told[name]
    assert told["junk.jpg"] == told["filled.jpg"] == told["empty.jpg"] == "(8, 8, 3)"


@pytest.mark.parametrize("head", [b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP"])
def test_a_huge_file_is_not_taken_into_memory(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(head)
    os.truncate(tmp_path / "a.jpg", 6 << 30)  # of holes
    started = time.monotonic()
    assert "a.jpg: expected at most 1,073,741,824 bytes of JPEG or WebP, got 6,442,450,944" in error_of(
        tmp_path / "a.jpg"
    )
    assert time.monotonic() - started < 1


def test_the_densest_pictures_are_no_bombs(tmp_path: Path) -> None:
    flat = Image.new("P", (4000, 4000))
    flat.putpalette([9, 9, 9, 200, 0, 0])
    flat.save(tmp_path / "a.png", bits=1, transparency=1, compress_level=9)
    flat.convert("1").save(tmp_path / "a.tif", compression="group4")
    flat.convert("L").save(tmp_path / "b.tif", compression="tiff_adobe_deflate")
    flat.convert("RGB").save(tmp_path / "a.webp", lossless=True)
    flat.convert("RGB").save(tmp_path / "a.jpg", progressive=True, quality=1)
    densities = {}
    for path in tmp_path.iterdir():
        picture = read_picture(path)
        assert picture.pixels.min() == picture.pixels.max()
        decoded = picture.pixels.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)
        densities[path.name] = decoded // path.stat().st_size
    assert 16_000 < densities["a.tif"] < densities["a.png"] < 32 * 1032


# ---- what is opened


def test_only_four_loaders_are_switched_on(tmp_path: Path) -> None:
    image = Image.fromarray(samples("RGB", 8, 8))
    for name in ("a.gif", "a.bmp", "a.ppm", "a.avif", "a.jp2"):
        image.save(tmp_path / name)
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>')
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n%%EOF")
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (tmp_path / "a.v").write_bytes(bytes.fromhex("08f2a6b6") + bytes(60))
    for path in sorted(tmp_path.iterdir()):
        disguised = path.rename(path.with_suffix(".png"))
        with pytest.raises(SynergicError, match="not in a known format; expected a whole PNG, JPEG, TIFF or WebP file"):
            read_picture(disguised)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_file_that_shrinks_while_it_is_read_does_not_end_the_process(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))
    code = "import os, sys, pathlib, pyvips\nfrom synergic.images import _in_memory, _open, _source\n"
    code += (
        "path = pathlib.Path(sys.argv[1])\nimage = _open(_source(path, _in_memory(path)))\nos.truncate(path, 5000)\n"
    )
    code += "try: image.write_to_memory()\nexcept pyvips.Error: pass"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def test_a_file_is_read_by_its_contents_not_its_name(tmp_path: Path) -> None:
    wanted = write_mode(tmp_path / "a.tif", "RGB16", (6, 5))
    assert np.array_equal(read_picture((tmp_path / "a.tif").rename(tmp_path / "a.jpg")).pixels, wanted)


def test_what_the_output_cannot_hold_is_refused_before_the_work(
    tmp_path: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synergic.batch import Job, Options, restore_files

    write_mode(tmp_path / "a.tif", "RGB16", (6, 5))
    (tmp_path / "a.tif").rename(tmp_path / "a.jpg")
    monkeypatch.setattr("synergic.restore.Restorer.__call__", lambda *_, **__: pytest.fail("restored for nothing"))
    (result,) = restore_files([Job(tmp_path / "a.jpg", tmp_path / "out.jpg")], Options(weights=str(make_weights())))
    assert result["error"].endswith("out.jpg: JPEG cannot hold uint16 pixels; write PNG or TIFF instead")


def test_a_defect_of_ours_costs_one_file_only(
    tmp_path: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synergic import batch

    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "in" / name, np.zeros((8, 8, 1), np.uint8))
    raised = iter([KeyError("odd\nkey"), MemoryError()])

    def fails(path: Path, max_pixels: int) -> object:
        if path.name != "c.png":
            raise next(raised)
        return read_picture(path, max_pixels=max_pixels)

    monkeypatch.setattr(batch, "read_picture", fails)
    jobs = batch.plan_jobs([tmp_path / "in"], tmp_path / "out")
    results = list(batch.restore_files(jobs, batch.Options(weights=str(make_weights()), device="cpu")))
    assert [result["status"] for result in results] == ["failed", "failed", "restored"]
    assert results[0]["error"].endswith(r"a.png: unexpected KeyError: 'odd\nkey'; please report it")
    assert "expected enough memory for the whole picture" in results[1]["error"]


def test_files_handled_at_once_keep_their_own_errors(tmp_path: Path) -> None:
    """One is read while another is written: libvips keeps one error text for all."""
    for name in ("a.png", "a.jpg", "a.tif"):
        path = save(tmp_path / name, samples("RGB", 60, 50))
        path.write_bytes(path.read_bytes()[:-700])
    paths = sorted(tmp_path.iterdir())
    alone = [error_of(path) for path in paths]
    assert len(set(alone)) == 3
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(error_of, paths * 100)) == alone * 100


def error_of(path: Path) -> str:
    with pytest.raises(SynergicError) as error:
        read_picture(path)
    return str(error.value)
