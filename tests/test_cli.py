import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import save
from synergic import cli
from synergic.images import read_pixels

MakeWeights = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "synergic", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def call(capsys: Capture, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["synergic", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("name", ["restore", "serve"])
def test_help_imports_nothing_heavy(name: str) -> None:
    code = f"import sys; sys.argv = ['synergic', '{name}', '--help']\nfrom synergic.cli import main\n"
    code += "try: main()\nfinally: assert not {'torch', 'numpy', 'pyvips', 'gradio', 'fastapi'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def set_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    """An environment variable for one test; None: it is not set."""
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("quota", "before", "threads"),
    [
        ("100000 100000", None, "1"),
        ("50000 100000", None, "1"),
        ("max 100000", None, None),
        ("100000 100000", "3", "3"),
    ],
)
def test_threads_keep_to_a_containers_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, before: str | None, threads: str | None
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    set_variable(monkeypatch, "OMP_NUM_THREADS", before)
    cli.keep_to_quota(tmp_path / "cpu.max")
    assert os.environ.get("OMP_NUM_THREADS") == threads
    cli.keep_to_quota(tmp_path / "missing")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("flags", "before", "policy"),
    [
        ("fpu avx2 fma", None, "PASSIVE"),
        ("fpu avx2 fma", "ACTIVE", "ACTIVE"),
        ("fpu avx2 fma avx512f", None, None),
        ("fpu sse2", None, None),
    ],
)
def test_threads_sleep_where_others_compute(
    flags: str, before: str | None, policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    set_variable(monkeypatch, "OMP_WAIT_POLICY", before)
    cli.sleep_when_idle(tmp_path / "missing")
    assert os.environ.get("OMP_WAIT_POLICY") == before
    cli.sleep_when_idle(tmp_path / "cpuinfo")
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.mark.parametrize(("name", "sleep"), [("restore", True), ("serve", True), ("train", False), ("ablate", True)])
def test_threads_that_train_stay_awake(name: str, sleep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cli, "sleep_when_idle", lambda: asked.append(name))
    assert cli.command([name, "--help"], standalone_mode=False) == 0
    assert asked == [name] * sleep


@pytest.mark.parametrize(("before", "level"), [(None, "ERROR"), ("INFO", "INFO")])
def test_warnings_that_help_nobody_are_kept_back(
    before: str | None, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variable(monkeypatch, "TORCH_CPP_LOG_LEVEL", before)
    cli.quieten()
    assert os.environ.get("TORCH_CPP_LOG_LEVEL") == level
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)


def test_without_a_word_it_says_what_there_is() -> None:
    told = run()
    assert told.returncode == 2 or told.stdout, "Click's older versions print the help and exit with 0"
    assert re.search(r"^Commands:\n  ablate +The paper's", told.stdout + told.stderr, re.MULTILINE)


def test_an_empty_name_is_no_default(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes of a variable that is not set."""
    source = save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    code, _, err = call(capsys, monkeypatch, "restore", source, "-o", tmp_path / "out", "--weights", "")
    assert code == 2
    assert "expected a weights file or a published name, got neither" in err


def test_restore_one_file_end_to_end(tmp_path: Path, make_weights: MakeWeights, random: np.random.Generator) -> None:
    source = save(tmp_path / "a.png", random.integers(0, 256, (30, 20, 3), np.uint8))
    done = run("restore", source, "-o", tmp_path / "out", "--weights", make_weights(), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["width"], result["height"]) == ("restored", 20, 30)
    assert read_pixels(tmp_path / "out" / "a.png").shape == (30, 20, 3)


@pytest.mark.skipif(os.name != "posix", reason="a shell closes a stream for it")
def test_with_its_streams_closed_it_restores(
    tmp_path: Path, make_weights: MakeWeights, random: np.random.Generator
) -> None:
    source = save(tmp_path / "a.png", random.integers(0, 256, (30, 20, 3), np.uint8))
    command = [sys.executable, "-m", "synergic", "restore", source, "-o", tmp_path / "out", "--weights", make_weights()]
    closed = f"{shlex.join(map(str, command))} <&- >&- 2>&-"
    subprocess.run(closed, shell=True, check=True)
    assert read_pixels(tmp_path / "out" / "a.png").shape == (30, 20, 3)


def test_a_broken_file_is_one_line_and_exit_code_1(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"not a picture")
    save(tmp_path / "in" / "good.png", np.zeros((8, 8, 1), np.uint8))
    arguments = ("restore", tmp_path / "in", "-o", tmp_path / "out", "--weights", make_weights())
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert "bad.png" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    assert call(capsys, monkeypatch, *arguments, "--resume")[0] == 1


def test_what_cannot_come_along_is_one_line_and_exit_code_0(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_weights: MakeWeights
) -> None:
    source = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(source, comment=b"hello", xmp=b'<x GCamera:MotionPhoto="1"/>')
    line = f"{source}: left out: what stands behind the picture (a film, a gain map or another picture), comments"
    asked = ("restore", source, "--weights", make_weights(), "-o")
    assert call(capsys, monkeypatch, *asked, tmp_path / "b.png") == (0, "", f"synergic: {line}\n")
    code, out, err = call(capsys, monkeypatch, *asked, tmp_path / "c.png", "--json")
    assert (code, json.loads(out)["warnings"], err) == (0, [line], "")
    save(tmp_path / "d.png", np.zeros((8, 8, 1), np.uint8))
    code, out, _ = call(
        capsys, monkeypatch, "restore", tmp_path / "d.png", "-o", tmp_path / "e.png", "--json", *asked[2:4]
    )
    assert code == 0 and "warnings" not in json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore", "x.png"], "Missing option '-o'"),
        (["restore", "missing.png", "-o", "out"], "missing.png: expected a picture or a folder, but nothing is there"),
        (["restore", "", "-o", "out"], "'': expected a path or a URL, got an empty name; the current folder is ."),
        (["restore", "x.png", "-o", ""], "'': expected a path or a URL, got an empty name"),
        (["restore", "x.png", "-o", "out", "--shard", "3/2"], "--shard: expected I/N with I from 1 to N, got"),
        (["restore", "x.png", "-o", "out", "--shard", "²/3"], "--shard: expected I/N with I from 1 to N, got"),
        (["restore", "x.png", "-o", "out", "--max-pixels", "0"], "0 is not in the range x>=1"),
        (["restore", "x", "-o", "o", "--resume", "--overwrite"], "--overwrite and --resume: expected one of them"),
        (["restore", "x", "-o", "o", "--task", "cook"], "'cook' is not one of"),
        (["fly"], "No such command 'fly'"),
        (["evaluate", "--weights", "w", "--data", "d"], "evaluate: expected one of sigma, quality, pairs, got none"),
        (["evaluate", "--weights", "w", "--data", "d", "--sigma", "25", "--limit", "0"], "0 is not in the range x>=1"),
        (["compare", "x.png", "--sigma", "25", "--limit", "0"], "0 is not in the range x>=1"),
        (["compare", "x.png", "--sigma", "25", "-o", __file__], "test_cli.py: expected a folder, got a file"),
        (["ablate", "r.toml", "-o", f"{__file__}/below"], "test_cli.py: expected a folder, got a file"),
        (["train", "none.toml", "-o", "run"], "none.toml: expected a recipe in TOML"),
        (["train", "r.toml", "-o", "run", "--set", "steps"], "--set: expected KEY=VALUE, got 'steps'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("synergic: ")
    assert err.count("\n") == 1
    assert message in err


def test_an_interruption_is_exit_code_130(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synergic.batch.plan_jobs", interrupted)
    code, _, err = call(capsys, monkeypatch, "restore", tmp_path, "-o", tmp_path)
    assert code == 130
    assert len(err.split("\n")) == 3  # an empty one ends the terminal's ^C
    assert "--resume" in err


def test_evaluate_writes_the_contract(
    tmp_path: Path,
    make_weights: MakeWeights,
    random: np.random.Generator,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("b", "a"):
        save(tmp_path / "clean" / f"{name}.png", random.integers(0, 256, (32, 32, 3), np.uint8))
    report = tmp_path / "report.json"
    options = ("--weights", make_weights(), "--data", tmp_path / "clean", "--sigma", 25, "--json", report)
    code, out, _ = call(capsys, monkeypatch, "evaluate", *options, "--save", tmp_path / "saved", "--device", "cpu")
    assert code == 0
    result = json.loads(report.read_text())
    assert {"psnr", "ssim", "images", "protocol", "weights", "parameters"} <= result.keys()
    assert [image["name"] for image in result["images"]] == ["a", "b"]
    assert result["psnr"] == pytest.approx(np.mean([image["psnr"] for image in result["images"]]))
    assert result["degraded_psnr"] == pytest.approx(20.17, abs=0.6)  # 1024 pixels each
    assert "sigma 25" in out
    assert read_pixels(tmp_path / "saved" / "a.png").shape == (32, 32, 1)
    code, _, _ = call(capsys, monkeypatch, "evaluate", *options, "--seed", 1, "--limit", 1, "--blind")
    other = json.loads(report.read_text())
    assert len(other["images"]) == 1
    assert other["images"][0]["degraded_psnr"] != result["images"][0]["degraded_psnr"]
    assert other["protocol"]["strength"] == "unknown to the network"


def test_evaluate_says_names_without_control_characters(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "clean" / "a\x1b[2J\nb\udce9.png", np.zeros((32, 32, 1), np.uint8))
    options = ("--weights", make_weights(), "--data", tmp_path / "clean", "--sigma", 25, "--device", "cpu")
    code, out, _ = call(capsys, monkeypatch, "evaluate", *options)
    assert code == 0
    assert "\na?[2J b?  " in out


@pytest.mark.parametrize("report", ["clean", ".", "clean/a.png/report.json"])
def test_a_report_that_cannot_be_written_is_refused_first(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch, report: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "clean" / "a.png", np.zeros((32, 32, 1), np.uint8))
    monkeypatch.setattr("synergic.evaluate.evaluate", lambda *_, **__: pytest.fail("it was computed"))
    options = ("--weights", make_weights(), "--data", "clean", "--sigma", 25, "--json", report, "--overwrite")
    code, out, err = call(capsys, monkeypatch, "evaluate", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "got a folder; choose another" in err or "clean/a.png: expected a folder, got a file" in err


def test_the_report_is_written_though_nobody_reads(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    save(tmp_path / "clean" / "a.png", np.zeros((32, 32, 1), np.uint8))
    monkeypatch.setattr("click.echo", gone)
    options = ["--weights", str(make_weights()), "--data", str(tmp_path / "clean"), "--sigma", "25", "--json"]
    with pytest.raises(BrokenPipeError):
        cli.command(["evaluate", *options, str(tmp_path / "report.json")], standalone_mode=False)
    assert json.loads((tmp_path / "report.json").read_text())["images"]


def test_a_report_of_equal_pictures_is_json_too(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their PSNR is infinite, which JSON does not know."""
    save(tmp_path / "clean" / "black.png", np.zeros((32, 32, 1), np.uint8))
    folder, report = tmp_path / "clean", tmp_path / "report.json"
    asked = ("--weights", make_weights(), "--data", folder, "--pairs", folder, "--json", report)
    code, out, _ = call(capsys, monkeypatch, "evaluate", *asked)
    assert code == 0 and "degraded inf dB" in out
    read = json.loads(report.read_text(), parse_constant=pytest.fail)
    assert read["degraded_psnr"] is None and read["images"][0]["degraded_psnr"] is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes"),
            "memory: expected",
        ),
        (MemoryError(), "memory: expected"),
        (RuntimeError("a bug"), None),
    ],
)
def test_where_memory_ends_one_line_says_so(
    tmp_path: Path,
    make_weights: MakeWeights,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str | None,
) -> None:
    def starved(*_: object, **__: object) -> None:
        raise error

    save(tmp_path / "a.png", np.zeros((32, 32, 1), np.uint8))
    monkeypatch.setattr("synergic.evaluate.evaluate", starved)
    asked = ("evaluate", "--weights", make_weights(), "--data", tmp_path, "--sigma", 25)
    if line is None:
        with pytest.raises(RuntimeError, match="a bug"):
            call(capsys, monkeypatch, *asked)
        return
    code, out, err = call(capsys, monkeypatch, *asked)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"synergic: {line} enough, got too little")


def test_a_report_replaces_nothing_but_a_report(
    tmp_path: Path, make_weights: MakeWeights, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = save(tmp_path / "clean" / "a.png", np.zeros((32, 32, 1), np.uint8))
    photograph = save(tmp_path / "keep.png", np.zeros((8, 8, 1), np.uint8))
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    before = [path.read_bytes() for path in (picture, photograph, notes)]
    weights, page = make_weights(), tmp_path / "saved" / "index.html"
    options = ("evaluate", "--weights", weights, "--data", tmp_path / "clean", "--sigma", 25, "--json")
    for path in (picture, photograph, notes):
        code, out, err = call(capsys, monkeypatch, *options, path)
        assert (code, out, err.count("\n")) == (2, "", 1)
    known = weights.read_bytes()
    for path in (picture, weights):
        assert "apart from the inputs" in call(capsys, monkeypatch, *options, path, "--overwrite")[2]
    told = call(capsys, monkeypatch, *options, page, "--save", page.parent, "--overwrite")[2]
    assert "index.html: expected a report apart from the page, got its name" in told
    assert weights.read_bytes() == known and not page.exists()
    assert [path.read_bytes() for path in (picture, photograph, notes)] == before
    assert call(capsys, monkeypatch, *options, notes, "--overwrite")[0] == 0
    assert call(capsys, monkeypatch, *options, notes)[0] == 0, "a report replaces a report"


def test_weights_lists_every_published_file(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, make_weights: MakeWeights
) -> None:
    monkeypatch.setattr("synergic.card.published_weights", lambda: {"tiny": make_weights()})
    code, out, _ = call(capsys, monkeypatch, "weights", "--json")
    assert code == 0
    assert json.loads(out)[0]["licence"] == "CC0"
    assert json.loads(out)[0]["parameters"] > 1000
    assert "denoise-1-True: denoise" in call(capsys, monkeypatch, "weights")[1]


@pytest.mark.parametrize(
    ("arguments", "module", "package", "extra"),
    [
        (["serve"], "web", "uvicorn", "serve"),
        (["train", "recipe.toml", "-o", "run"], "train", "lightning_fabric", "train"),
        (["ablate", "recipe.toml", "-o", "runs"], "ablation", "filelock", "train"),
    ],
)
def test_without_its_extra_a_command_says_what_to_install(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], module: str, package: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"synergic.{module}", raising=False)
    monkeypatch.delattr(f"synergic.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert err == f"synergic: {arguments[0]}: expected {package}, got none; run pip install 'synergic[{extra}]'\n"
