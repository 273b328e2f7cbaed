"""Where pictures lie: in folders, or in object stores under URLs such as s3://bucket/scans (by fsspec).

A URL becomes a `UPath`, which has the methods of a `Path` and is none; what both cannot do alike is here.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from synergic.errors import SynergicError, needs
from synergic.files import own_folder

if TYPE_CHECKING:
    from upath import UPath


def place(text: str) -> Path:
    """The path, or what a URL names. Raises SynergicError for a store that cannot be reached, and for "", which would
    be the current folder and comes of a variable that is not set."""
    if not text:
        raise SynergicError("'': expected a path or a URL, got an empty name; the current folder is .")
    if "://" not in text:
        return Path(text)
    with needs("store", text):
        from upath import UPath

        try:
            named = UPath(text, use_listings_cache=False)  # other machines write as well
        except ValueError as error:
            raise SynergicError(f"{text}: expected a path or a URL such as s3://bucket/folder; {error}") from None
    with reached(named):
        named.exists()  # finds out now what else every file would
    if named.protocol in ("file", "local"):
        return Path(named.path)
    return named  # type: ignore[return-value]  # it has what is asked of it


def as_place(given: Path | str) -> Path:
    """A path as it is; of text, what `place` makes."""
    return place(given) if isinstance(given, str) else given


@contextmanager
def reached(named: "Path | UPath") -> Iterator[None]:
    """Turn the errors of a store, each of which has kinds of its own, into one SynergicError with its URL."""
    try:
        yield
    except SynergicError:
        raise
    except Exception as error:
        if isinstance(named, Path):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SynergicError(f"{named}: cannot be reached: {reason}; check the URL and the rights to it") from error


def files_in(folder: "Path | UPath") -> list[Path]:
    """All files in a folder and its folders, by their path relative to it, sorted."""
    if isinstance(folder, Path):
        return sorted(path.relative_to(folder) for path in folder.rglob("*") if is_file(path))
    with reached(folder):
        names = [name for name in folder.fs.find(folder.path) if not name.endswith("/")]  # markers of folders
        return sorted(Path(name).relative_to(folder.path) for name in names)


def is_file(path: Path) -> bool:
    """Is it a file? Not one if the system does not tell: its folder may be listed and not entered."""
    try:
        return path.is_file()
    except OSError:
        return False


def identity(file: "Path | UPath") -> object:
    """The same for all names of a file, links and other spellings; None for none that is there."""
    if not isinstance(file, Path):
        return type(file.fs), file.path  # s3://b/a is s3a://b/a
    status = file.stat() if file.exists() else None
    return status and (status.st_dev, status.st_ino)


def check_apart(output: "Path | UPath", read: set[object], option: str = "name") -> None:
    """Refuse an output that is one of the files that are read, by their identities: overwriting is for results.
    `option`: what another is to be chosen of."""
    found = identity(output)
    if found is not None and found in read:
        raise SynergicError(
            f"{output}: expected an output apart from the inputs, got one of them; choose another {option}"
        )


def path_inside(folder: "Path | UPath", other: "Path | UPath") -> Path | None:
    """Where a folder lies in another, relative to it; None if it does not."""
    if isinstance(folder, Path) and isinstance(other, Path):
        folder, other = real_path(folder), real_path(other)
        return folder.relative_to(other) if other in folder.parents else None
    if isinstance(folder, Path) or isinstance(other, Path) or type(folder.fs) is not type(other.fs):
        return None
    inner, outer = folder.path, other.path.rstrip("/") + "/"
    return Path(inner.removeprefix(outer)) if inner.startswith(outer) and inner != outer else None


def real_path(path: Path) -> Path:
    """Where links lead, as far as they do: one that leads to itself stays, which `Path.resolve` does not bear. What is
    in an object store is where it is."""
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


@contextmanager
def fetched(source: "Path | UPath") -> Iterator[Path]:
    """A file on this machine with the contents of `source`, for as long as the block lasts."""
    if isinstance(source, Path):
        yield source
        return
    with copy_of(source) as copy:
        with reached(source):
            source.fs.get_file(source.path, str(copy))
        yield copy


@contextmanager
def stored(target: "Path | UPath", *, overwrite: bool) -> Iterator[Path]:
    """A name on this machine for a file that becomes `target` when the block ends: an object appears whole."""
    if isinstance(target, Path):
        yield target
        return
    with copy_of(target) as copy:
        yield copy
        with reached(target):
            if target.exists() and not overwrite:
                raise SynergicError(f"{target}: exists; pass --overwrite to replace it")
            target.fs.put_file(str(copy), target.path)


@contextmanager
def copy_of(named: "UPath") -> Iterator[Path]:
    """A temporary name on this machine, which no error tells; what killed runs left of theirs is deleted."""
    with own_folder("synergic-store-", Path(tempfile.gettempdir())) as folder:
        copy = folder / f"copy{named.suffix}"
        try:
            yield copy
        except SynergicError as error:
            raise SynergicError(str(error).replace(str(copy), str(named))) from error
