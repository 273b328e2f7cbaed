"""Ctrl-C, SIGTERM and SIGHUP: one KeyboardInterrupt, at a place where nothing is lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def kept_handlers() -> Iterator[None]:
    """What a block puts in the place of these signals' handlers is taken back at its end."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) != handler:  # never in a thread, which may set none
                signal.signal(number, handler)


class Interruptions:
    """From `listen` on the first of these signals raises KeyboardInterrupt, and all others are ignored.

    From `hold` on it is raised only inside `let_in`: what is being written is finished and told however often they
    come. A signal that is ignored already, as under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.asked = False
        self.held = False

    def listen(self) -> None:
        """Take the signals of this process, which must be its main thread."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's parameters
        first, self.asked = not self.asked, True
        if first and not self.held:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """To the end, but for `let_in`."""
        self.held = True

    @contextmanager
    def let_in(self) -> Iterator[None]:
        """A block that may be interrupted, also by what came before it."""
        self.held = False
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self.held = True
