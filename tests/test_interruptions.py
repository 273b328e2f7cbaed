"""Kills, Ctrl-C, full disks, read-only folders, inputs that vanish, runs side by side: a clear line, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import identity_restorer, save
from interrupt import contents
from synergic.batch import Job, Options, plan_jobs, restore_files
from synergic.card import published_weights
from synergic.errors import SynergicError
from synergic.interruptions import Interruptions
from test_cli import Capture, call

MakeWeights = Callable[..., Path]
HERE = Path(__file__).parent
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")


@pytest.fixture
def folder(tmp_path: Path, random: np.random.Generator) -> Path:
    """Nine pictures."""
    for i in range(9):
        save(tmp_path / "in" / f"{i}.png", random.integers(0, 256, (60, 50, 3), np.uint8))
    return tmp_path / "in"


def start(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    """The command as a process of its own, within reach of Ctrl-C; `before`: Python to run first."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"{before}\nfrom synergic.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@posix
def test_killed_runs_lose_nothing() -> None:
    """`python tests/interrupt.py --count 100` is the same at length."""
    done = subprocess.run(
        [sys.executable, HERE / "interrupt.py", "--count", "6"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("6 kills") == 2


@posix
@pytest.mark.parametrize("names", ["SIGINT", "SIGINT SIGINT SIGINT", "SIGTERM", "SIGHUP SIGINT"])
def test_ctrl_c_and_its_like_end_with_a_summary(folder: Path, make_weights: MakeWeights, names: str) -> None:
    out = folder.parent / "out"
    command = ("restore", folder, "-o", out, "--weights", make_weights(), "--device", "cpu", "--json")
    with start(*command) as process:
        assert process.stdout is not None and process.stderr is not None
        results = [json.loads(process.stdout.readline())]
        for name in names.split():
            process.send_signal(getattr(signal, name))
            time.sleep(0.002)
        results += [json.loads(line) for line in process.stdout]
        summary, last = [line for line in process.stderr.read().splitlines() if line]  # one ends the terminal's ^C
    assert process.returncode == 130
    assert summary == f"synergic: {len(results)} restored, 0 skipped, 0 failed, {9 - len(results)} not done"
    assert last == "synergic: interrupted; finished files are whole, go on with --resume"
    assert len(results) < 9
    assert sorted(contents(out)) == sorted(Path(result["output"]).name for result in results), "and nothing hidden"
    with start(*command, "--resume") as process:
        statuses = [json.loads(line)["status"] for line in process.communicate()[0].splitlines()]
    assert statuses == ["skipped"] * len(results) + ["restored"] * (9 - len(results))


@posix
def test_after_the_last_file_an_interruption_changes_nothing(folder: Path, make_weights: MakeWeights) -> None:
    late = "import os, synergic.cli\nsynergic.cli.Bars.__exit__ = lambda *_: os.kill(os.getpid(), signal.SIGINT)"
    command = ("restore", folder, "-o", folder.parent / "out", "--weights", make_weights(), "--device", "cpu")
    with start(*command, before=late) as process:
        assert process.communicate() == ("", "")
    assert process.returncode == 0


@posix
def test_an_interruption_waits_until_it_is_let_in_and_comes_once() -> None:
    interruptions = Interruptions()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a shell's &
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruptions.listen()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "as under nohup"
    interruptions.hold()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptions.let_in():
        pytest.fail("it waited for too long")
    signal.raise_signal(signal.SIGINT)
    other = Interruptions()
    other.listen()
    other.hold()
    with pytest.raises(KeyboardInterrupt), other.let_in():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it was not let in")


@posix
def test_a_reader_that_stops_listening_is_no_defect(folder: Path, make_weights: MakeWeights) -> None:
    command = ("restore", folder, "-o", folder.parent / "out", "--weights", make_weights(), "--device", "cpu", "--json")
    with start(*command) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@posix
def test_two_runs_on_one_folder_share_the_work(folder: Path, make_weights: MakeWeights) -> None:
    out = folder.parent / "out"
    command = ("restore", folder, "--weights", make_weights(), "--device", "cpu", "--json", "-o")
    with start(*command, folder.parent / "alone") as alone:
        alone.communicate()
    with start(*command, out, "--resume") as first, start(*command, out, "--resume") as second:
        told = [process.communicate() for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], told
    results = [json.loads(line) for output, _ in told for line in output.splitlines()]
    assert sum(result["status"] == "restored" for result in results) == 9
    assert sum(result["status"] == "skipped" for result in results) == 9
    assert contents(out) == contents(folder.parent / "alone")


def test_without_resume_the_second_run_says_what_exists(folder: Path, make_weights: MakeWeights) -> None:
    jobs = plan_jobs([folder], folder.parent / "out")
    options = Options(weights=str(make_weights()), device="cpu")
    first, second = restore_files(jobs, options), restore_files(jobs, options)
    turns = [sorted((next(first), next(second)), key=lambda result: result["status"]) for _ in jobs]
    assert [[result["status"] for result in turn] for turn in turns] == [["failed", "restored"]] * 9
    assert all("exists; pass --overwrite" in failed["error"] for failed, _ in turns)


# ---- where nothing can be written


@posix
def test_a_limit_on_file_size_is_one_line(folder: Path, make_weights: MakeWeights) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))"
    out = folder.parent / "out"
    with start("restore", folder, "-o", out, "--weights", make_weights(), "--device", "cpu", before=limit) as process:
        lines = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert len(lines) == 9
    assert all("cannot be written: " in line and "File too large" in line for line in lines), lines
    assert contents(out) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk can only be mounted by the superuser")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_a_full_disk_and_a_read_only_one(folder: Path, small_disk: Path, make_weights: MakeWeights) -> None:
    out = small_disk / "out"
    jobs, options = plan_jobs([folder], out), Options(weights=str(make_weights()), device="cpu")
    results = list(restore_files(jobs, options))
    statuses = [result["status"] for result in results]
    assert statuses == ["restored"] * 3 + ["failed"] * 6, "three files of 9 kB fit"
    assert all("No space left on device" in result["error"] for result in results[3:]), results[3]
    kept = contents(out)
    assert len(kept) == 3
    overwriting = Options(weights=str(make_weights()), device="cpu", overwrite=True)
    results = list(restore_files(jobs[:1], overwriting))
    assert "No space left on device" in results[0]["error"], "for the new one beside the old one"
    assert contents(out) == kept

    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    results = list(restore_files(jobs, overwriting))
    assert all("Read-only file system" in result["error"] for result in results)
    assert contents(out) == kept
    assert all(len(result["error"].splitlines()) == 1 for result in results)


@posix
@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_rights(folder: Path, make_weights: MakeWeights) -> None:
    (folder.parent / "out").mkdir(mode=0o500)
    (result, *_) = restore_files(plan_jobs([folder], folder.parent / "out"), Options(weights=str(make_weights())))
    assert "cannot be written: Permission denied; check the path, its rights" in result["error"]


@pytest.fixture
def ordinary(random: np.random.Generator) -> Iterator[Path]:
    """A folder with a picture, and a folder "locked" with another, that may not be entered: the superuser who runs the
    tests is nobody meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        superuser = os.geteuid() == 0
        published_weights()  # imports modules that nobody may be unable to read
        if superuser:
            os.seteuid(65534)
        for path in (Path(name, "in", "a.png"), Path(name, "in", "locked", "b.png")):
            save(path, random.integers(0, 256, (20, 20, 3), np.uint8))
        Path(name, "in", "locked").chmod(0)
        yield Path(name)
        Path(name, "in", "locked").chmod(0o700)
        if superuser:
            os.seteuid(0)


@posix
@pytest.mark.parametrize(
    ("source", "output"), [("in/locked/b.png", "out"), ("in/a.png", "in/locked/c.png"), ("in/a.png", "in/locked/new/")]
)
def test_a_folder_that_one_may_not_enter_is_one_line(
    ordinary: Path, source: str, output: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, "restore", ordinary / source, "-o", f"{ordinary}/{output}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "/in/locked/" in err and err.endswith(": Permission denied; check the path and its rights\n")


@posix
@pytest.mark.parametrize("rights", [0, 0o400])
def test_a_folder_that_cannot_be_searched_is_one_line_and_exit_code_1(
    ordinary: Path, rights: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = ordinary / "in" / "locked"
    locked.chmod(rights)
    (ordinary / "in" / "notes.txt").write_text("no picture")
    monkeypatch.setattr("synergic.batch.Options.load", lambda *_: identity_restorer())
    code, _, err = call(capsys, monkeypatch, "restore", ordinary / "in", "-o", ordinary / "out")
    first, last = err.splitlines()
    assert code == 1
    assert first.startswith(f"synergic: {locked}") and "cannot be searched: Permission denied; check its right" in first
    assert last == "synergic: files passed over: 1 of another kind"
    assert [path.name for path in (ordinary / "out").iterdir()] == ["a.png"]
    code, _, err = call(capsys, monkeypatch, "restore", locked, "-o", ordinary / "other")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be searched: Permission denied" in err


@pytest.mark.parametrize(
    "command",
    [
        ["restore", "{picture}", "-o", "{long}"],
        ["restore", "{long}.png", "-o", "out"],
        ["evaluate", "--weights", "photo", "--sigma", "9", "--data", "{long}"],
        ["evaluate", "--weights", "photo", "--sigma", "9", "--data", "{folder}", "--save", "{long}"],
        ["explain", "{picture}", "-o", "{long}.png"],
        ["restore", "{picture}", "-o", "out", "--weights", "{long}"],
    ],
)
def test_a_name_that_is_too_long_is_one_line(
    folder: Path, command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    names = {"picture": folder / "0.png", "folder": folder, "long": "n" * 300}
    code, out, err = call(capsys, monkeypatch, *(part.format(**names) for part in command))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "File name too long; check the path and its rights" in err


def test_a_name_in_a_folder_that_is_too_long_is_its_own_line(folder: Path, make_weights: MakeWeights) -> None:
    save(folder / f"{'m' * 240}.png", np.zeros((20, 20, 1), np.uint8))
    jobs = plan_jobs([folder], folder.parent / "out")
    jobs[4] = Job(jobs[4].source, folder.parent / "out" / f"{'n' * 300}.png")
    results = list(restore_files(jobs, Options(weights=str(make_weights()), device="cpu")))
    assert [result["status"] for result in results] == ["restored"] * 4 + ["failed"] + ["restored"] * 5
    assert results[4]["error"].endswith("n.png: File name too long; check the path and its rights")


def test_the_output_is_where_a_file_is(folder: Path, make_weights: MakeWeights) -> None:
    jobs = plan_jobs([folder], folder.parent / "out")
    (folder.parent / "out").write_text("a file of the name that the folder was to have")
    with pytest.raises(SynergicError, match="out: expected a folder, got a file; choose another"):
        plan_jobs([folder], folder.parent / "out")
    (result, *_) = restore_files(jobs, Options(weights=str(make_weights())))
    assert "cannot be written: " in result["error"] or "expected a folder, got a file" in result["error"]


# ---- inputs and outputs that are not apart


def test_an_input_that_vanishes(folder: Path, make_weights: MakeWeights) -> None:
    jobs = plan_jobs([folder], folder.parent / "out")
    (folder / "4.png").unlink()
    results = list(restore_files(jobs, Options(weights=str(make_weights()), device="cpu")))
    assert [result["status"] for result in results] == ["restored"] * 4 + ["failed"] + ["restored"] * 4
    assert results[4]["error"].endswith("4.png: expected a picture file, but there is none; check the path")


@pytest.mark.parametrize("by", ["name", "folder", "symbolic link", "hard link", "detour"])
def test_an_output_that_is_an_input_is_refused_before_anything_is_written(folder: Path, by: str) -> None:
    before, other = contents(folder), folder.parent / "other"
    inputs, output = {
        "name": ([folder / "0.png"], folder / "0.png"),
        "folder": ([folder], folder),
        "symbolic link": ([folder], other),
        "hard link": ([folder / "0.png"], other / "0.png"),
        "detour": ([folder], folder / ".." / folder.name),
    }[by]
    if by == "symbolic link":
        other.symlink_to(folder)
    if by == "hard link":
        other.mkdir()
        (other / "0.png").hardlink_to(folder / "0.png")
    with pytest.raises(
        SynergicError, match=r"0\.png: expected an output apart from the inputs, got one of them; choose"
    ):
        plan_jobs(inputs, output)
    assert contents(folder) == before


def test_an_output_that_another_job_has_yet_to_read_is_refused(folder: Path) -> None:
    (folder / "link.png").symlink_to(save(folder.parent / "out" / "0.png", np.zeros((4, 4, 1), np.uint8)))
    with pytest.raises(SynergicError, match=r"out/0\.png: expected an output apart from the inputs"):
        plan_jobs([folder], folder.parent / "out")


def test_an_output_folder_inside_the_input_is_no_input(folder: Path, make_weights: MakeWeights) -> None:
    options = Options(weights=str(make_weights()), device="cpu")
    for statuses in (["restored"] * 9, ["skipped"] * 9):
        jobs = plan_jobs([folder], folder / "clean")
        assert [result["status"] for result in restore_files(jobs, options, resume=True)] == statuses
    assert len(contents(folder)) == 18
    assert len(plan_jobs([folder / "clean"], folder)) == 9, "an input inside the output is one"
