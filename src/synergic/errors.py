"""The one exception that users meet, and what others say."""


class SynergicError(ValueError):
    """Bad input or usage. The message is one line: what was wrong, expected X but got Y, what to do."""


def first_line(error: BaseException) -> str:
    """What an error of a library says first; its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
