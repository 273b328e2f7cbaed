"""Files appear whole or not at all, and what killed runs leave is known and deleted."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synergic import files
from synergic.errors import SynergicError
from synergic.files import ignores_case, own_folder, remove_unfinished, rights, whole_file


def write(path: Path, text: str, overwrite: bool = False) -> None:
    with whole_file(path, overwrite=overwrite) as unfinished:
        unfinished.write_text(text)


def test_an_existing_file_is_kept_unless_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    write(path, "first")
    with pytest.raises(SynergicError, match=r"a\.txt: exists; pass --overwrite to replace it"):
        write(path, "second")
    assert path.read_text() == "first"
    write(path, "second", overwrite=True)
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_seen_under_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.PNG"
    with whole_file(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        assert unfinished.name.startswith(".synergic-") and unfinished.suffix == ".png"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(params=["hard links", "no hard links", "no rename that replaces nothing either"])
def able(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system is able to do."""
    if request.param != "hard links":
        monkeypatch.setattr(os, "link", refuse_links)
    if request.param.endswith("either"):
        monkeypatch.setattr("synergic.files._renamed", lambda *_: False)
    return str(request.param)


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, able: str) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(SynergicError, match="exists"), whole_file(path) as unfinished:
        unfinished.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def refuse_links(source: object, target: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_file_takes_its_name(tmp_path: Path, able: str) -> None:
    write(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_hidden_file_that_vanishes_leaves_no_empty_one(tmp_path: Path, able: str) -> None:
    with pytest.raises(SynergicError, match="No such file"), whole_file(tmp_path / "a.txt") as unfinished:
        unfinished.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_without_hard_links_no_empty_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("the name was claimed first"))
    write(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), ValueError("broken")])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, raised: BaseException) -> None:
    (tmp_path / "old.txt").write_text("old")
    for name, overwrite in (("new.txt", False), ("old.txt", True)):
        with pytest.raises(type(raised)), whole_file(tmp_path / name, overwrite=overwrite) as unfinished:
            unfinished.write_text("half")
            raise raised
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_the_system_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SynergicError, match=r"file/a\.txt: cannot be written: .*; check the path, its rights"):
        write(tmp_path / "file" / "a.txt", "")
    monkeypatch.setattr(os, "fsync", refuse_space)
    with pytest.raises(SynergicError, match=r"a\.txt: cannot be written: No space left on device; .*free space"):
        write(tmp_path / "a.txt", "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def refuse_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_the_contents_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a.txt", []

    def remember(descriptor: int) -> None:
        seen.append((path.exists(), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", remember)
    write(path, "12345")
    assert seen == [(False, 5)]


def test_files_of_a_killed_run_are_deleted_and_those_of_a_living_one_kept(tmp_path: Path) -> None:
    code = "import os, sys, pathlib, synergic.files as f\n"
    code += "with f.whole_file(pathlib.Path(sys.argv[1])) as unfinished: unfinished.write_text('half'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], check=False).returncode == 9
    killed = list(tmp_path.iterdir())
    assert [path.name[:10] for path in killed] == [".synergic-"] * 2
    (tmp_path / ".hidden.png").write_text("not ours")
    with whole_file(tmp_path / "b.png") as living:
        remove_unfinished(tmp_path)
        assert not any(path.exists() for path in killed)
        assert living.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.png", "b.png"]
    remove_unfinished(tmp_path / "no folder")


@pytest.mark.skipif(sys.platform == "win32", reason="an open file is not deleted there")
def test_a_new_file_that_another_run_clears_away_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock."""
    lock, cleared = files._lock, list[Path]()

    def late(file: Any, *, wait: bool = False) -> None:
        if wait and not cleared:
            cleared.extend(tmp_path.glob(".synergic-*"))
            remove_unfinished(tmp_path)
        lock(file, wait=wait)

    monkeypatch.setattr("synergic.files._lock", late)
    with rights(0o600):
        write(tmp_path / "a.png", "whole")
    assert len(cleared) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]
    assert (tmp_path / "a.png").read_text() == "whole"
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="locks")
def test_what_is_written_is_not_what_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network folders let nobody write to a locked file but through what has locked it."""
    locked, lock = set[int](), files._lock

    def watched(file: Any, *, wait: bool = False) -> None:
        locked.add(os.fstat(file.fileno()).st_ino)
        lock(file, wait=wait)

    monkeypatch.setattr("synergic.files._lock", watched)
    with whole_file(tmp_path / "a.png") as unfinished:
        assert len(locked) == 1
        assert unfinished.stat().st_ino not in locked


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_finished_file_is_kept_by_those_who_clear_up_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: str, overwrite: bool
) -> None:
    publish = files._publish

    def late(*given: Any) -> None:
        remove_unfinished(tmp_path)
        publish(*given)

    monkeypatch.setattr("synergic.files._publish", late)
    write(tmp_path / "a.txt", "whole", overwrite)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "whole"}


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    write(tmp_path / "a.txt", "whole")
    hidden = [tmp_path / f".synergic-{'0' * 16}.{suffix}" for suffix in ("being-written", "png")]
    for path in hidden:
        path.write_text("whose?")
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == [*hidden, tmp_path / "a.txt"]


def test_files_of_similar_names_are_kept(tmp_path: Path) -> None:
    names = [".synergic-notes.txt", f".synergic-{'0' * 15}.png", f".synergic-{'0' * 16}.tar.gz", ".synergic-"]
    for name in [*names, f".synergic-{'0' * 16}.png", f".synergic-{'0' * 16}"]:
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.skipif(sys.platform == "win32", reason="rights")
@pytest.mark.parametrize(
    ("mode", "umask", "written"),
    [(0o600, 0o022, 0o600), (0o644, 0o077, 0o600), (0o666, 0o022, 0o644), (0o400, 0, 0o600), (0o777, 0, 0o666)],
)
def test_rights_are_those_given_and_the_umask(tmp_path: Path, mode: int, umask: int, written: int) -> None:
    before = os.umask(umask)
    try:
        with rights(mode), whole_file(tmp_path / "a.txt") as unfinished:
            assert stat.S_IMODE(unfinished.stat().st_mode) == written, "before there is anything in it"
        write(tmp_path / "b.txt", "")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes == [written, 0o666 & ~umask]


@pytest.mark.parametrize("ignoring", [False, True])
def test_whether_a_disk_ignores_case_is_asked_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignoring: bool
) -> None:
    def exists(path: Path) -> bool:
        spelled = str.casefold if ignoring else str
        return spelled(path.name) in {spelled(entry.name) for entry in path.parent.iterdir()}

    monkeypatch.setattr(Path, "exists", exists)
    assert ignores_case(tmp_path) == ignoring
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_left_of_their_folders_is_deleted(tmp_path: Path) -> None:
    """Not what a living run holds, nor what one has made a moment ago, nor what has another name."""
    for name in ("run-dead/in", "run-new", "other/in"):
        (tmp_path / name).mkdir(parents=True)
    with own_folder("run-", tmp_path) as living:
        (living / "in").mkdir()
        with own_folder("run-", tmp_path) as second:
            assert {path.name for path in tmp_path.iterdir()} == {"run-new", "other", living.name, second.name}
            assert (living / "in").is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"run-new", "other"}
