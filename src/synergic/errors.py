"""The one exception that users meet, and what others say."""

from collections.abc import Iterator
from contextlib import contextmanager


class SynergicError(ValueError):
    """Bad input or usage. The message is one line: what was wrong, expected X but got Y, what to do."""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Where a package is missing, `what` says which, and the extra of this one that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SynergicError(f"{what}: expected {error.name}, got none; run pip install 'synergic[{extra}]'") from None


def first_line(error: BaseException) -> str:
    """What an error of a library says first; its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
