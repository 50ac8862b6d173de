"""A signal -> a wish that a training run looks at between two steps, or the end of any other command.

For `t2i train` the command line installs a handler that calls `StopRequest.receive`; `train.train` reads the fields
after each step. Every other command runs inside `interruptible`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Interrupted", "StopRequest", "interruptible"]


class Interrupted(BaseException):
    """A signal asked for the end of a command. No ``except Exception`` on its way takes it for a failure.

    Args:
        signum: 2 for SIGINT, 15 for SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def interruptible() -> Generator[None]:
    """Within it SIGINT and SIGTERM raise `Interrupted`, so that what is half written is removed on the way out.

    That holds even where a shell has SIGINT ignored; a second signal ends the process at once. Outside the main
    thread it does nothing.
    """
    before: dict[Any, Any] = {}

    def stop(signum: int, frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        raise Interrupted(signum)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class StopRequest:
    """What signals have asked for so far.

    >>> wish = StopRequest()
    >>> wish.receive(signal.SIGUSR1)
    >>> wish.save_now, bool(wish)
    (True, False)
    >>> wish.receive(signal.SIGTERM)
    >>> wish.signum, bool(wish)
    (15, True)
    """

    signum: int = (
        0  # SIGINT or SIGTERM: finish the step, save, raise errors.Stopped(signum); 0: go on
    )
    save_now: bool = False  # SIGUSR1: save and go on; who saves sets it back to False
    # s after the first SIGINT or SIGTERM in which another one is taken for the same: torchrun passes on what the
    # terminal has sent to its processes already
    grace: float = 0.0
    since: float = 0.0  # of the first one, on the monotonic clock

    def __bool__(self) -> bool:
        """True where the run has to end."""
        return self.signum != 0

    def receive(self, signum: int, frame: object = None) -> None:
        """Note a signal; a signal handler. The second SIGINT or SIGTERM leaves at once, with nothing flushed."""
        if signum == getattr(signal, "SIGUSR1", None):
            self.save_now = True
        elif not self.signum:
            self.signum, self.since = int(signum), time.monotonic()
        elif time.monotonic() - self.since >= self.grace:
            os._exit(128 + signum)
