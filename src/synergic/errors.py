"""The one exception that users meet."""


class SynergicError(ValueError):
    """Bad input or usage. The message is one line: what was wrong, expected X but got Y, what to do."""
