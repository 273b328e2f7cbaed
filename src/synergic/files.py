"""Files that appear whole or not at all, and what a run that was killed leaves behind."""

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from synergic.errors import SynergicError

try:
    import fcntl
except ImportError:  # Windows, which refuses to delete a file that is open: the lock comes with the handle
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"(\.synergic-[0-9a-f]{16})(\.[^.]*)?")
_LOCK = ".being-written"
"""Ends the name of an empty file that is locked while one of the same hidden name is written: on network folders a
locked file can be written through nothing but what has locked it (CIFS since Linux 5.5)."""
_RIGHTS = ContextVar("rights", default=0o666)
_UNSUPPORTED = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems say that know no hard links (exFAT, some network folders), or no rename that replaces nothing."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
"""fcntl.h and linux/fs.h."""


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A file to write to, which takes the name `path` when the block ends, and is deleted when the block raises.

    Under `path` there is at any moment the old file, none, or the whole new one, also after a kill or a loss of power.
    Until then the file has a hidden name in the same folder and the same suffix. Parent folders are created.

    Raises SynergicError if the file exists and not `overwrite`, or if the system cannot write it.
    """
    hidden = f".synergic-{secrets.token_hex(8)}"
    unfinished, lock = path.with_name(hidden + path.suffix.lower()), path.with_name(hidden + _LOCK)
    try:
        if is_taken(path) and not overwrite:
            raise SynergicError(_exists(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _new_lock(lock):
                os.close(os.open(unfinished, _NEW, _RIGHTS.get()))
                yield unfinished
                with unfinished.open("r+b") as file:
                    os.fsync(file.fileno())  # the name must not reach the disk before the contents
                _publish(unfinished, path, overwrite)
        finally:
            unfinished.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise SynergicError(
            f"{path}: cannot be written: {reason}; check the path, its rights and free space"
        ) from error


def _new_lock(path: Path) -> IO[bytes]:
    """A new file, locked; made again if a run that clears up took it, in the moment before, for one that is left."""
    file = path.open("xb")
    with suppress(OSError):  # a file system without locks
        _lock(file, wait=True)
    if fcntl is None or path.exists():
        return file
    file.close()
    return _new_lock(path)


@contextmanager
def rights(mode: int) -> Iterator[None]:
    """Whole files that this block writes are for nobody whom `mode` shuts out; the umask applies as well."""
    token = _RIGHTS.set(0o600 | mode & 0o666)
    try:
        yield
    finally:
        _RIGHTS.reset(token)


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text as a whole file, in UTF-8, its lines ended as they are."""
    with whole_file(path, overwrite=overwrite) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse a name that is taken, or that a file cannot have: a command asks before it computes anything."""
    check_folder(path.parent)
    if path.is_dir():
        raise SynergicError(f"{path}: expected the name of a file, got a folder; choose another")
    if is_taken(path) and not overwrite:
        raise SynergicError(_exists(path))


def is_taken(path: Path) -> bool:
    """Is there anything of that name, if only a link to nothing? What is in an object store links to nothing."""
    return path.exists() or (isinstance(path, Path) and path.is_symlink())


def check_folder(folder: Path) -> None:
    """Refuse a folder that could not be made, before anything is computed."""
    there = next(part for part in (folder, *folder.parents) if part.exists() or part.is_symlink())
    if not there.is_dir():
        got = "a file" if there.exists() else "a link to nothing"
        raise SynergicError(f"{there}: expected a folder, got {got}; choose another")


def ignores_case(folder: Path) -> bool:
    """Are names that differ in capitals one file there? Asked by making one, in the folder or where it would be made;
    False where nothing can be made, and in an object store."""
    if not isinstance(folder, Path):
        return False
    there = next(part for part in (folder, *folder.parents) if part.exists())
    with suppress(OSError), tempfile.NamedTemporaryFile(prefix=".synergic-a", dir=there) as file:
        name = Path(file.name)
        return name.with_name(name.name.swapcase()).exists()
    return False


def _exists(path: Path) -> str:
    return f"{path}: exists; pass --overwrite to replace it"


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs left half-written in `folder`: locks that no living run holds, and hidden files without
    one. An object store shows none."""
    for path in folder.glob(".synergic-*") if isinstance(folder, Path) else ():
        if (parts := _UNFINISHED.fullmatch(path.name)) is None:  # somebody's own
            continue
        lock = path.with_name(parts[1] + _LOCK)
        with suppress(OSError):  # held, gone meanwhile, or not ours to delete
            if lock.exists():
                with _open_to_lock(lock) as file:
                    _lock(file)
                    lock.unlink()
            if path != lock:
                path.unlink()


def _open_to_lock(path: Path) -> AbstractContextManager[IO[Any] | int]:
    """The file; nothing on Windows, which deletes none that is open, here or in another run."""
    return nullcontext(-1) if fcntl is None else path.open("r+b")


@contextmanager
def own_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, deleted when the block ends, whose name begins with `prefix`. What killed runs
    left under the prefix is deleted first: folders that hold something and that no living run has locked."""
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError), _locked(left):  # locked, gone meanwhile, or not ours
            if any(left.iterdir()):  # or a run has made it a moment ago, and is about to lock it
                shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        with suppress(OSError):  # a file system without locks
            stack.enter_context(_locked(Path(folder), wait=True))  # for one who looks whether it is empty
        yield Path(folder)


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder, as `_lock` does. Raises OSError where folders cannot be locked (Windows), too."""
    opened = os.open(folder, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        _lock(opened, wait=wait)
        yield
    finally:
        os.close(opened)


def _lock(file: IO[Any] | int, *, wait: bool = False) -> None:
    """Lock for as long as the file is open. Raises OSError if another process holds it, unless it may `wait`."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _publish(unfinished: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name. A hard link, unlike a rename, refuses a name that is taken."""
    if overwrite:
        unfinished.replace(path)
        return
    try:
        try:
            os.link(unfinished, path)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            if not _renamed(unfinished, path):
                _claim(unfinished, path)
    except FileExistsError as error:
        raise SynergicError(_exists(path)) from error


def _renamed(unfinished: Path, path: Path) -> bool:
    """Rename, but replace nothing; False where the system cannot. Raises OSError."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(unfinished), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE) == 0:
        return True
    if (number := ctypes.get_errno()) in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


def _claim(unfinished: Path, path: Path) -> None:
    """Make an empty file of the name, which fails where there is one, and replace it. A kill in between leaves it."""
    path.open("xb").close()
    try:
        unfinished.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
