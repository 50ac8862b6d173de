"""A signal -> a wish that a training run looks at between two steps: the only thing cli.py and train.py share.

The command line installs a handler that calls `StopRequest.receive`; `train.train` reads the fields after each step.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

__all__ = ["StopRequest"]


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

    def __bool__(self) -> bool:
        """True where the run has to end."""
        return self.signum != 0

    def receive(self, signum: int, frame: object = None) -> None:
        """Note a signal; a signal handler. The second SIGINT or SIGTERM leaves at once, with nothing flushed."""
        if signum == getattr(signal, "SIGUSR1", None):
            self.save_now = True
        elif self.signum:
            os._exit(128 + signum)
        else:
            self.signum = int(signum)
