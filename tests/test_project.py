"""The project as a whole: the direction of imports, the words, the README."""

import ast
import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from synergic.network import BASIC
from synergic.train import read_recipe

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "synergic"

FLOORS = [
    {"errors"},
    {"files", "formats", "tags", "interruptions", "processor"},
    {"stores", "metadata", "patches", "cells", "nnpack", "pooling"},
    {"images", "card", "attention", "config", "hardware", "guard"},
    {"network", "metrics", "tiling", "figures", "muon"},
    {"weights", "degradations", "engine"},
    {"patterns", "hub", "spandrel"},
    {"data", "restore"},
    {"evaluate", "train", "explain"},
    {"batch", "export"},
    {"ablation", "cluster", "compare", "desk"},
    {"web"},
    {"cli"},
]
"""A module imports only from the floors below its own."""


def imports(module: str) -> set[str]:
    tree = ast.parse((SOURCE / f"{module}.py").read_text())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.removeprefix("synergic.") for name in names if name.startswith("synergic.")}


def test_every_module_has_its_floor() -> None:
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set().union(*FLOORS)


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_imports_go_down(floor: int) -> None:
    below: set[str] = set().union(*FLOORS[:floor])
    for module in FLOORS[floor]:
        assert imports(module) <= below, module


def test_only_images_imports_the_image_library() -> None:
    users = [path.stem for path in SOURCE.glob("*.py") if re.search(r"import pyvips|from pyvips|PIL", path.read_text())]
    assert users == ["images"]


def test_matplotlib_is_imported_only_for_a_figure() -> None:
    code = "import sys, synergic.explain\nassert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_exported_exists_and_the_package_imports_without_torch() -> None:
    code = "import sys, synergic\nassert 'torch' not in sys.modules\n"
    code += "for name in synergic.__all__: getattr(synergic, name)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_documents_name_only_what_exists() -> None:
    roots = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")]
    for document in [*roots, *(ROOT / "docs").glob("*.md")]:
        text = document.read_text()
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
        for name in re.findall(r"`((?:src|recipes|tests|examples|docs|training|deploy)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_the_paper_is_held_to_the_code() -> None:
    """Every line that docs/paper.md quotes is there, in the class or function that it names."""
    rows = re.findall(
        r"\| `([\w.]+)` in `([\w/.]+)` \| `(.+)` \|$", (ROOT / "docs" / "paper.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 25
    for name, file, line in rows:
        source = (ROOT / file).read_text()
        part: ast.AST = ast.parse(source)
        for step in name.split("."):
            part = next(node for node in ast.walk(part) if step in names_of(node))
        quoted = [text.strip() for text in (ast.get_source_segment(source, part) or "").splitlines()]
        assert line in quoted, f"docs/paper.md: {file}: {name}: expected the line {line!r}"


def remedies() -> list[tuple[str, str]]:
    """The recipe's lines in the last column of docs/paper.md's deviations: key and value, as in TOML."""
    text = (ROOT / "docs" / "paper.md").read_text().partition("## Deviations")[2]
    cells = [line.split("|")[3] for line in text.splitlines() if line.startswith("| ")]
    return [pair for cell in cells for pair in re.findall(r"`(\w+) = ([^`]+)`", cell)]


def test_the_papers_own_network_is_had_by_the_lines_given() -> None:
    """Each line, read as a recipe's, changes the published one; all together are the paper's similarity and loss."""
    path, whole = ROOT / "recipes" / "gray-denoise.toml", dict[str, str]()
    published = read_recipe(path)
    for key, value in remedies():
        change = {f"network.{key}" if hasattr(published.network, key) else key: value}
        assert read_recipe(path, change) != published, f"{key} = {value} changes nothing"
        whole |= change
    assert read_recipe(path, {"edition": "basic", "network.conditioned": "false"}).network == BASIC
    assert read_recipe(path, {"edition": "enhanced"}).network.depth == 5
    del whole["edition"]
    recipe = read_recipe(path, whole)
    paper = {
        key: getattr(BASIC, key)
        for key in ("conditioned", "nonlocal_attention", "similarity", "window", "halo", "key_stride", "gate_window")
    }
    assert recipe.network == replace(published.network, **paper, similarity_scale=0.0357)
    assert recipe.network.similarity_scale == pytest.approx(BASIC.similarity_scale, rel=1e-3)
    assert (recipe.loss, recipe.optimizer, recipe.clip) == ("charbonnier", "adamw", 1e9)
    assert (recipe.scales, recipe.patterns) == ((1.0,), 0.0)


def names_of(node: ast.AST) -> list[str]:
    """The name that a definition or an annotated assignment gives."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def test_commands_in_documents_are_real() -> None:
    from synergic.cli import command

    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for line in re.findall(r"^synergic (.+)$", document.read_text(), re.MULTILINE):
            name, *arguments = line.split()
            subcommand = command.commands[name]
            known = {option for parameter in subcommand.params for option in parameter.opts}
            for argument in arguments:
                if argument.startswith("-"):
                    assert argument.split("=")[0] in known, f"{document.name}: {line}"


def test_malicious_releases_are_excluded() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert all("!=2.6.2" in line and "!=2.6.3" in line for line in text.split("\n") if '"lightning' in line)
    pinned = re.search(r"lightning-fabric==(\S+)", (ROOT / "constraints.txt").read_text())
    assert pinned is not None
    assert pinned[1] not in ("2.6.2", "2.6.3")


def test_what_is_installed_is_locked_by_hash() -> None:
    """But for torch: every index has wheels of its own under one version."""
    text = (ROOT / "constraints.txt").read_text()
    pins = {re.sub("[-_.]+", "-", name).lower(): version for name, version in re.findall(r"^(\S+)==(\S+)$", text, re.M)}
    locked = re.findall(
        r"^(\S+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", (ROOT / "locked.txt").read_text(), re.M
    )
    assert {name: version for name, version, _ in locked} == {k: v for k, v in pins.items() if k != "torch"}, (
        "make lock"
    )


def test_the_page_of_results_is_what_its_command_writes() -> None:
    results = importlib.import_module("results")
    assert (ROOT / "docs" / "results.md").read_text() == results.page()
