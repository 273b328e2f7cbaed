"""The commands and programs that the documents show, run on small pictures; the site that is built of the documents."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.distributed.run import parse_args

import synergic.train
from conftest import save, tiny_card, tiny_network
from synergic import cli, export, web
from synergic.batch import restore_files
from synergic.network import fold_batch_norm
from synergic.weights import load_weights, save_weights

ROOT = Path(__file__).parents[1]
DOCUMENTS = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
COMMANDS = {
    name: re.findall(r"^(?:\w+=\S+ )*(synergic .+|torchrun -.+)$", text, re.MULTILINE)
    for name, text in DOCUMENTS.items()
}
PROGRAMS = {name: re.findall(r"^```python\n(.+?)^```$", text, re.M | re.S) for name, text in DOCUMENTS.items()}

TRACED = export.traced
SMALL = ["crop_size=32", "batch_size=4", "validate_every=1"]
TINY = ["steps=1", *(f"network.{key}=1" for key in ("blocks", "depth")), "network.channels=8", "network.embedding=4"]
SHORTER = {
    "train": ["--max-seconds=0", "--accelerator=cpu", *(f"--set={change}" for change in SMALL)],
    "ablate": ["--accelerator=cpu", "--seeds=1", "--sigma=25", *(f"--set={change}" for change in SMALL + TINY)],
    "serve": ["--port=0"],
    "export": ["--weights=small.safetensors"],
}
"""What is added to a command so that it ends soon; the last of two options counts."""


@pytest.fixture
def folder(tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the documents speak of, small; the folder that commands run in."""
    for name in ("scans/a.png", "scans/more/b.jpg", "set12/01.png", "live1/1.png", "my-pictures/1.png"):
        save(tmp_path / name, random.integers(0, 256, (96, 96, 3), np.uint8))
    save(tmp_path / "microscope.tif", random.integers(0, 65536, (96, 96, 1), np.uint16))
    for name in ("photo.jpg", "photo.png", "astronaut.png", "brick.png"):
        save(tmp_path / name, random.integers(0, 256, (400, 320, 3), np.uint8))
    sets = ("data/train-open", "data/val-open", "held-out/train", "held-out/val", "held-out/repetitive")
    for name in ("clean", "degraded", "clean-others", "degraded-others", *sets):
        save(tmp_path / name / "1.png", random.integers(0, 256, (96, 96, 3), np.uint8))
    save_weights(tmp_path / "small.safetensors", tiny_network(3, window=32), tiny_card("small", "photo"))
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """A command in this process; its exit code."""
    if command[0] == "torchrun":
        command = ["synergic", *parse_args(command[1:]).training_script_args]
    monkeypatch.setattr(sys, "argv", [*command, *SHORTER.get(command[1], [])])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@cache
def model(blind: bool) -> bytes:
    """Of small.safetensors; making one takes seconds."""
    network, card = load_weights("small.safetensors")
    return TRACED(fold_batch_norm(network), card, blind)


def traced(_: object, __: object, blind: bool) -> bytes:
    """As `synergic.export.traced`, once for all commands."""
    return model(blind)


@pytest.mark.parametrize("document", [name for name, commands in COMMANDS.items() if commands])
def test_commands_run(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves something new, or tells something; its files are deleted before the next, but for runs and models."""
    small = partial(synergic.train.validation_batches, crop_size=32, batch_size=1, batches=1)
    monkeypatch.setattr(synergic.train, "validation_batches", small)
    monkeypatch.setattr(export, "traced", traced)
    monkeypatch.setattr(web, "serve", lambda *_: None)  # tests/test_web.py lets it run
    alone: Any = lambda jobs, options, _, resume: restore_files(jobs, options, resume)  # noqa: E731
    monkeypatch.setattr("synergic.cluster.restore_on_cluster", alone)  # tests/test_cluster.py runs the real one
    there = set(folder.rglob("*"))
    for line in COMMANDS[document]:
        command = shlex.split(line.replace("s3://bucket", f"file://{folder}"))  # tests/test_stores.py has an S3
        assert run(command, monkeypatch) == 0, line
        new = [path for path in folder.rglob("*") if path not in there and path.is_file()]
        assert new or command[1] in ("serve", "weights"), line
        for path in new:
            if "runs" not in path.parts and path.suffix != ".onnx":
                path.unlink()


@pytest.mark.parametrize("document", [name for name, programs in PROGRAMS.items() if programs])
def test_programs_run(document: str, random: np.random.Generator) -> None:
    """But for those that need the Hub or spandrel, which have tests of their own."""
    given = {"image": random.integers(0, 256, (40, 50, 3), np.uint8)}
    for program in PROGRAMS[document]:
        if not re.search(r"synergic\.(hub|spandrel)", program):
            exec(program, given)


def test_how_much_is_shown() -> None:
    assert sum(map(len, COMMANDS.values())) >= 50
    assert sum(map(len, PROGRAMS.values())) >= 3


def test_the_site_stands_alone(tmp_path: Path) -> None:
    """Every document is a page of it; no page loads a font, a script or a picture from elsewhere."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, check=True, cwd=ROOT)
    pages = {path.name: path.read_text() for path in site.glob("*.html")}
    names = {name.replace("README", "index").replace(".md", ".html") for name in DOCUMENTS}
    assert names <= pages.keys()
    first = pages["index.html"]
    for name in names - {"index.html"}:
        assert f'href="{name}"' in first, f"{name} is not in the navigation"
    for text in pages.values():
        loaded = re.findall(r"<(?:link|script|img|iframe|source)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"", text)
        assert loaded
        assert [address for address in loaded if re.match(r"\w+:|//", address)] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text()), sheet
    assert "Any size, in bounded memory" in first
    assert "told_strength" not in pages["api.html"]
    assert "from_pretrained" in pages["api.html"]
