"""The commands and programs that the documents show, run on small pictures; the site that is built of the documents."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import skimage.data
from torch.distributed.run import parse_args

import synergic.train
from conftest import save, tiny_card, tiny_network
from synergic import cli, export, web
from synergic.batch import restore_files
from synergic.network import fold_batch_norm
from synergic.weights import load_weights, save_weights

ROOT = Path(__file__).parents[1]
ROOTS = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")]
DOCUMENTS = {path.name: path.read_text() for path in [*ROOTS, *sorted((ROOT / "docs").glob("*.md"))]}
FENCE = re.compile(r"^ *```(.*)\n((?:.*\n)+?) *```$", re.MULTILINE)
INLINE = re.compile(
    r"`((?:\w+=\S+ )*(?:synergic|torchrun|python3?|pip|make|curl|wget|git|apt-get|uvx?|docker|sbatch|kubectl|ray|hf) "
    r"[^`]+)`"
)
"""A command within a sentence: it begins with a program that people type."""
PROGRAMS = {name: [text for kind, text in FENCE.findall(document) if kind] for name, document in DOCUMENTS.items()}
SHOWN = {
    name: [line for kind, text in FENCE.findall(document) if not kind for line in text.splitlines()]
    + INLINE.findall(" ".join(FENCE.sub("", document).split()))  # a line may end within a command
    for name, document in DOCUMENTS.items()
}
"""Every command of a document, those within sentences last."""
KINDS = {
    "commands": r"(\w+=\S+ )*(synergic|torchrun) ",
    "scripts": r"python (examples/deblur|training/(?!gradients|results|publish)\w+)\.py ",
    "long scripts": r"(\w+=\S+ )*python ((tests|benchmarks)/\w+|training/gradients)\.py ",
    "make": r"make (demo|docs|test|lock|audit)$",
    "curl": r"curl ",  # tests/test_web.py runs them
    "results": r"python training/results\.py$",  # it would write its page; tests/test_project.py compares the two
    "pip": r"(python -m )?pip install ",  # it would change the environment; that the extras exist is tested
}
"""What is done with a command: each that a document shows is of one kind. The last three are not run in this file."""
PARSED = {
    "fuzz": "test_hostile",
    "interrupt": "test_interruptions",
    "tiles": "test_same_answer",
    "large": "test_restore",
    "soak": "test_web",
    "any_requests": "",  # it needs schemathesis, which only uv fetches
    "speed": "test_benchmarks",
    "floor": "test_benchmarks",
    "accelerator": "test_benchmarks",
    "gradients": "test_train",
}
"""Long scripts, and the tests that run their short forms."""

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
    for name in ("scans/a.png", "scans/more/b.jpg", "set12/01.png", "live1/1.png"):
        save(tmp_path / name, random.integers(0, 256, (96, 96, 3), np.uint8))
    save(tmp_path / "microscope.tif", random.integers(0, 65536, (96, 96, 1), np.uint16))
    pictures = {
        "photo.jpg": (128, 320, 3),
        "photo.png": (96, 96, 3),
        "astronaut.png": (400, 288, 3),
        "brick.png": (96, 96, 1),
    }
    for name, shape in pictures.items():  # as large as the places that --at names need
        save(tmp_path / name, random.integers(0, 256, shape, np.uint8))
    sets = ("data/train-open", "data/val-open", "held-out/train", "held-out/val", "held-out/repetitive")
    others = ("val-open", "PICTURES", "PAIRS/clean", "PAIRS/degraded")
    for name in (
        "my-pictures",
        "other-pictures",
        "clean",
        "degraded",
        "clean-others",
        "degraded-others",
        *sets,
        *others,
    ):
        save(tmp_path / name / "1.png", random.integers(0, 256, (96, 96, 3), np.uint8))
    save_weights(tmp_path / "small.safetensors", tiny_network(3, window=32), tiny_card("small", "photo"))
    for name in ("BEFORE", "AFTER", "runs/mine/weights.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "small.safetensors", tmp_path / name)
    for name in ("recipes", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_kind(kind: str, document: str | None = None) -> list[str]:
    """The commands of a kind, of one document or of all; each once where it is of all."""
    if document is not None:
        return [line for line in SHOWN[document] if re.match(KINDS[kind], line)]
    return list(dict.fromkeys(line for name in SHOWN for line in of_kind(kind, name)))


def words(line: str) -> list[str]:
    """Of a command, without the variables before it."""
    return shlex.split(re.sub(r"^(\w+=\S+ )*", "", line))


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


def is_named_only(command: list[str]) -> bool:
    """Does it leave out what it needs, as `synergic export --for spandrel`? Unknown commands and options raise."""
    try:
        if command[0] == "synergic":
            cli.command.commands[command[1]].make_context(command[1], command[2:])
    except click.MissingParameter:
        return True
    return False


def run_script(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A script of the repository in this process: `python SCRIPT ARGUMENT...`."""
    script = ROOT / command[1]
    monkeypatch.setattr(sys, "argv", command[1:])
    monkeypatch.syspath_prepend(script.parent)
    runpy.run_path(str(script), run_name="__main__")


@cache
def model(blind: bool) -> bytes:
    """Of small.safetensors; making one takes seconds."""
    network, card = load_weights("small.safetensors")
    return TRACED(fold_batch_norm(network), card, blind)


def traced(_: object, __: object, blind: bool) -> bytes:
    """As `synergic.export.traced`, once for all commands."""
    return model(blind)


@pytest.mark.parametrize("document", [name for name in SHOWN if of_kind("commands", name)])
def test_commands_run(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves something new, or tells something; its files are deleted before the next, but for runs and models.
    Of a command that is only named, the options are checked."""
    small = partial(synergic.train.validation_batches, crop_size=32, batch_size=1, batches=1)
    monkeypatch.setattr(synergic.train, "validation_batches", small)
    monkeypatch.setattr(export, "traced", traced)
    monkeypatch.setattr(web, "serve", lambda *_: None)  # tests/test_web.py lets it run
    alone: Any = lambda jobs, options, _, resume: restore_files(jobs, options, resume)  # noqa: E731
    monkeypatch.setattr("synergic.cluster.restore_on_cluster", alone)  # tests/test_cluster.py runs the real one
    there = set(folder.rglob("*")) - set((folder / "runs").rglob("*"))
    for line in of_kind("commands", document):
        command = words(line.replace("s3://bucket", f"file://{folder}"))  # tests/test_stores.py has an S3
        if is_named_only(command):
            continue
        if command[1] == "train" and "--resume" not in command:  # what the other commands find there is not its own
            shutil.rmtree(command[command.index("-o") + 1], ignore_errors=True)
        assert run(command, monkeypatch) == 0, line
        new = [path for path in folder.rglob("*") if path not in there and path.is_file()]
        assert new or command[1] in ("serve", "weights"), line
        for path in new:
            if "runs" not in path.parts and path.suffix != ".onnx":
                path.unlink()


@pytest.mark.parametrize("line", of_kind("scripts"))
def test_scripts_run(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On small pictures. Each writes or prints something."""
    shutil.rmtree("held-out")
    camera = skimage.data.camera()[:64, :64]
    monkeypatch.setattr(skimage.data, "camera", lambda: camera)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    run_script(words(line), monkeypatch)
    assert capsys.readouterr().out or before != {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


class ParsedError(Exception):
    """A command line has been read; nothing else is to be done."""


@pytest.mark.parametrize("line", of_kind("long scripts"))
def test_command_lines_of_long_scripts_are_parsed_only(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own parsers. The tests named in `PARSED` run their short forms."""
    parse = ArgumentParser.parse_args

    def parse_only(parser: ArgumentParser) -> None:
        parse(parser)
        raise ParsedError

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_only)
    with pytest.raises(ParsedError):
        run_script(words(line), monkeypatch)
    script = Path(words(line)[1]).stem
    if PARSED[script]:
        assert re.search(rf"\b{script}\b", (ROOT / "tests" / f"{PARSED[script]}.py").read_text())


@pytest.mark.parametrize("line", of_kind("make"))
def test_targets_of_make_are_there_but_only_the_demo_is_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make test` is what runs this; the site of `make docs` is built below; `lock` and `audit` ask PyPI. The demo's
    figures are the README's."""
    dry = ["make", "--dry-run", "--directory", str(ROOT), *line.split()[1:], f"PYTHON={sys.executable}"]
    planned = subprocess.run(dry, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len([step for step in planned if "directory" not in step]) >= 1
    if line != "make demo":
        return
    monkeypatch.chdir(tmp_path)
    (step,) = (step for step in planned if "demo.py" in step)
    run_script(shlex.split(step), monkeypatch)
    wanted = re.search(r"([\d.]+) → ([\d.]+) dB", DOCUMENTS["README.md"])
    got = re.search(r"degraded ([\d.]+) dB, restored ([\d.]+) dB", capsys.readouterr().out)
    assert wanted is not None
    assert got is not None
    assert [*map(float, got.groups())] == pytest.approx([*map(float, wanted.groups())], abs=0.05)
    assert (tmp_path / "demo" / "side-by-side.png").exists()


def test_extras_that_pip_is_asked_for_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        extra for line in of_kind("pip") for names in re.findall(r"\[([\w,]+)\]", line) for extra in names.split(",")
    }
    assert asked - {"binary"} <= extras.keys()  # binary is pyvips'
    assert {"cluster", "serve", "onnx"} <= asked


def test_every_command_is_run_or_named() -> None:
    """A document that shows a command of no kind fails here; so does a kind, or a long script, that none shows."""
    found = dict.fromkeys(KINDS, 0)
    for name, lines in SHOWN.items():
        for line in lines:
            kinds = [kind for kind, pattern in KINDS.items() if re.match(pattern, line)]
            assert len(kinds) == 1, f"{name}: expected a command that a test runs or KINDS excepts, got {line!r}"
            found[kinds[0]] += 1
    assert all(found.values()), found
    assert {Path(words(line)[1]).stem for line in of_kind("long scripts")} == PARSED.keys()
    curl = [name for name in SHOWN if of_kind("curl", name)]
    assert curl == ["page.md"], "tests/test_web.py runs that page's"
    assert {kind for document in DOCUMENTS.values() for kind, _ in FENCE.findall(document)} == {"", "python"}
    assert found["commands"] >= 60
    assert found["scripts"] + found["long scripts"] >= 14
    assert sum(found.values()) >= 100


@pytest.mark.parametrize("document", [name for name, programs in PROGRAMS.items() if programs])
def test_programs_run(document: str, folder: Path, hub: Path, spandrel: object, random: np.random.Generator) -> None:
    """With a stand-in of the Hub, and of spandrel where it is not installed."""
    given = {"image": random.integers(0, 256, (40, 50, 3), np.uint8)}
    for program in PROGRAMS[document]:
        exec(program, given)
    assert document != "README.md" or [*hub.rglob("weights.safetensors")]


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
