"""Damaged files by the thousand: `python tests/fuzz.py --count 10000`.

Small pictures of every mode and format are damaged at random and restored as folders by a child process, with a network
that changes nothing: the files are what is tested. This process watches what the child says of each file and writes,
how long it computes and how much memory it takes, and outlives its crashes. Exit code 1 if a promise was broken. Linux.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from pictures import ICC, MODES, XMP, chunk, exif, png, samples, write_mode

FORMATS = ("png", "jpg", "tif", "webp")
SUFFIXES = (*FORMATS, "jpeg", "TIFF", "gif")
SECONDS = 10
"""A file that takes more of the processor's time hangs."""
MEGABYTES = 1000
"""More memory than this is too much for a small file."""
FOLDER = 2500
"""Files that one child restores."""


def main(count: int, seed: int, keep: Path | None) -> int:
    """Damage and restore `count` files of every format; a line for each. Returns the number of broken promises."""
    whole, broken = whole_files(), 0
    for number, name in enumerate(FORMATS):
        results = []
        for start in range(0, count, FOLDER):
            draw = np.random.default_rng((seed, number, start))
            with tempfile.TemporaryDirectory() as folder:
                write_damaged(Path(folder) / "in", whole, name, min(FOLDER, count - start), draw)
                results += restore_folder(Path(folder))
                for result in results[start:]:
                    if result["status"] not in ("restored", "failed") and keep is not None:
                        (keep / result["name"]).write_bytes((Path(folder) / "in" / result["name"]).read_bytes())
        statuses = Counter(result["status"] for result in results)
        slowest = max(result.get("seconds", 0) for result in results)
        hungriest = max(result.get("megabytes", 0) for result in results)
        told = ", ".join(f"{n:,} {status}" for status, n in sorted(statuses.items()))
        print(f"{name}: {told}; slowest {slowest:.2f} s, most memory {hungriest:.0f} MB", flush=True)
        for result in results:
            if result["status"] not in ("restored", "failed"):
                print(f"  {result['name']}: {result['status']}: {result.get('error', '')}")
                broken += 1
    return broken


# ---- damage


def write_damaged(
    folder: Path, whole: dict[str, list[bytes]], name: str, count: int, draw: np.random.Generator
) -> None:
    """`count` damaged files of a format; one in ten has a suffix that may be another format's."""
    folder.mkdir()
    others = [data for files in whole.values() for data in files]
    for i in range(count):
        data = pick(whole[name], draw)
        for _ in range(draw.integers(1, 4)):
            data = damage(data, pick(others, draw), draw)
        if name == "png" and draw.random() < 0.7:
            data = with_checksums(data)  # or most would fail at the first damaged chunk
        suffix = pick(SUFFIXES, draw) if draw.random() < 0.1 else name
        (folder / f"{i:05}.{suffix}").write_bytes(data)


def pick(choices: Sequence[Any], draw: np.random.Generator) -> Any:
    return choices[int(draw.integers(len(choices)))]


def damage(data: bytes, other: bytes, draw: np.random.Generator) -> bytes:
    """One random change: bits, numbers, gaps, repetitions, pieces of another file, another file, an end, nothing."""
    start = int(draw.integers(len(data) + 1))
    stop = min(len(data), start + int(2 ** draw.uniform(0, 12)))
    extreme = int(pick((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF), draw))
    flipped = bytearray(data)
    for index in draw.integers(max(1, len(data)), size=draw.integers(1, 9)):
        flipped[index : index + 1] = bytes(byte ^ (1 << draw.integers(8)) for byte in flipped[index : index + 1])
    changes = (
        bytes(flipped),
        data[:start] + draw.bytes(4) + data[start + 4 :],
        data[:start] + extreme.to_bytes(4, pick(("little", "big"), draw)) + data[start + 4 :],
        data[:start] + bytes(stop - start) + data[stop:],
        data[:start] + data[stop:],
        data[:stop] + data[start:],
        data[:start] + other[start:stop] + data[stop:],
        data[:start],
        data + other,
        b"",
    )
    return bytes(changes[int(draw.choice(len(changes), p=[0.25, 0.15, 0.15, 0.1, 0.1, 0.05, 0.1, 0.05, 0.04, 0.01]))])


def with_checksums(data: bytes) -> bytes:
    """A damaged PNG with every chunk's checksum put right."""
    out, place = data[:8], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + size]
        out += data[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += size + 12
    return out


def whole_files() -> dict[str, list[bytes]]:
    """Undamaged small files by format: every mode, and what else the format knows."""
    files: dict[str, list[bytes]] = {name: [] for name in FORMATS}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, modes in MODES.items():
            for i, mode in enumerate(modes):
                path = Path(folder) / f"a{suffix}"
                write_mode(path, mode, (23, 17), orientation=1 + i % 8)
                files[suffix[1:]].append(path.read_bytes())
    image = Image.fromarray(samples("RGB", 40, 30))
    frames: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(90)]}
    known: dict[str, Any] = {"exif": exif(6), "icc_profile": ICC, "xmp": XMP % 6}
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"said " * 400))
    files["png"] += [encode(image, "PNG", **frames), encode(image.quantize(4), "PNG", bits=2)]
    files["png"] += [png(samples("L", 9, 9), text, chunk(b"acTL", bytes([0, 0, 0, 1] * 2)), chunk(b"fcTL", bytes(26)))]
    jpegs: list[dict[str, Any]] = [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 2}, known]
    files["jpg"] += [encode(image, "JPEG", **options) for options in jpegs]
    files["jpg"] += [encode(image.convert("CMYK"), "JPEG"), encode(image, "MPO", **frames)]
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    files["tif"] += [encode(image, "TIFF", compression=kind) for kind in compressions]
    files["tif"] += [encode(image.convert("1"), "TIFF", compression=kind) for kind in ("group3", "group4")]
    pages, tiffs = np.stack([samples("RGB", 40, 30)] * 2), ({"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"})
    for options in ({}, *tiffs):
        target = BytesIO()
        tifffile.imwrite(target, pages[1:] if options else pages, photometric="rgb", **options)
        files["tif"].append(target.getvalue())
    webps: list[dict[str, Any]] = [{"quality": 80}, {"quality": 80, **known}, frames]
    files["webp"] += [encode(image.convert(mode), "WEBP", **options) for options in webps for mode in ("RGB", "RGBA")]
    return files


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    target = BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


# ---- watching


def restore_folder(folder: Path) -> list[dict[str, Any]]:
    """Restore folder/in to folder/out in children until every file has its result, and compare with what is written."""
    names, told = sorted(path.name for path in (folder / "in").iterdir()), folder / "told.jsonl"
    told.touch()
    while (left := names[len(told.read_text().splitlines()) :]) != []:
        code = subprocess.run([sys.executable, __file__, "--child", folder], check=False, timeout=3600).returncode
        left = names[len(told.read_text().splitlines()) :]
        if left:  # the child ended at the first file that it had not told of
            verdict = "hang" if code == -signal.SIGPROF else f"crash, exit code {code}"
            with told.open("a") as file:
                file.write(json.dumps({"name": left[0], "status": verdict}) + "\n")
    results = [json.loads(line) for line in told.read_text().splitlines()]
    written = {path.name for path in (folder / "out").iterdir()} if (folder / "out").exists() else set()
    for result in results:
        if (result["name"] in written) != (result["status"] == "restored"):
            result["status"] = "written though refused" if result["name"] in written else "not written"
    strange = sorted(written - set(names))
    return results + [{"name": name, "status": "left behind"} for name in strange]


def child(folder: Path) -> None:
    """Restore every file of folder/in that has no line in folder/told.jsonl yet, and append a line for each."""
    from resource import RLIMIT_AS, setrlimit

    from conftest import identity_restorer
    from synergic.batch import Job, Options, restore_files
    from synergic.images import read_picture

    options = Options(weights="identity", loaded={"identity": identity_restorer()})
    setrlimit(RLIMIT_AS, (memory("VmSize") + 8 * MEGABYTES * 10**6,) * 2)  # the machine has other things to do
    done = len((folder / "told.jsonl").read_text().splitlines())
    paths = sorted((folder / "in").iterdir())[done:]
    with (folder / "told.jsonl").open("a", buffering=1) as told:
        for path in paths:
            job = Job(path, folder / "out" / path.name)
            before, started = forget_peak(), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends a process, wherever it is
            (result,) = restore_files([job], options)  # one by one: of a folder, files are read ahead
            signal.setitimer(signal.ITIMER_PROF, 0)
            line = {"name": path.name, "status": result["status"], "seconds": round(time.process_time() - started, 3)}
            line |= {"megabytes": (memory("VmHWM") - before) / 1e6, "error": result.get("error", "")}
            if result["status"] == "restored":
                read_picture(job.target)  # a file of ours that we cannot read ends the child
            elif re.search(r"unexpected|[\x00-\x1f]", line["error"].replace(str(folder), "")):
                line["status"] = "no clear line"
            if line["megabytes"] > MEGABYTES:
                line["status"] = "too much memory"
            told.write(json.dumps(line) + "\n")


def memory(key: str) -> int:
    """Bytes that Linux says of this process: VmSize, VmRSS, or VmHWM, the greatest VmRSS since it was forgotten."""
    match = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def forget_peak() -> int:
    """Start measuring the peak of memory anew. Returns the memory that is in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="files of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that broke a promise")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child)
    else:
        sys.exit(1 if main(arguments.count, arguments.seed, arguments.keep) else 0)
