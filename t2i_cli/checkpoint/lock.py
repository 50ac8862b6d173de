"""One trainer a run folder: a lock that the system frees when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from t2i_cli.checkpoint.files import remove_orphans, reported
from t2i_cli.errors import T2IError, visible

__all__ = ["LOCK_NAME", "RunLock", "holder_of"]

LOCK_NAME = ".lock"
_ATTEMPTS = 1000  # each meets a holder that has just let go; on a busy machine many may, in a row


class RunLock:
    """Hold a run folder for the length of a ``with`` block; the folder is made where it is missing.

    Once held, what a killed run left unfinished there is removed; `removed` names it. The lock is
    the system's (``flock``; ``msvcrt.locking`` on Windows), so a kill frees it, and a forked worker
    never keeps it.

    Raises:
        T2IError: another process trains there; the message says which, where and since when.
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, run: Path | str) -> None:
        self.run = Path(run)
        self.removed: list[Path] = []
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        """Take the lock, or say who has it."""
        path = self.run / LOCK_NAME
        with reported(self.run):
            self.run.mkdir(parents=True, exist_ok=True)
            for _ in range(_ATTEMPTS):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
                if not _try_lock(handle, patience=0.05):
                    holder = _holder(handle)
                    os.close(handle)
                    raise T2IError(
                        f"{self.run}: already being trained by {holder}",
                        "wait for it or stop it, or train into another folder with -o",
                    )
                if _same_file(handle, path):
                    break
                os.close(
                    handle
                )  # its holder removed it while we waited for it: lock the one that is there now
            else:
                raise T2IError(f"{self.run}: could not be locked", "try again")
            self._handle = handle
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._forget)
            try:
                _write_holder(handle)
            except OSError:
                self._release(path)
                raise
            self.removed = remove_orphans(self.run)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go, and take the lock's file away."""
        self._release(self.run / LOCK_NAME)

    def _release(self, path: Path) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if os.name == "nt":
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is still held, so nobody else's file is removed
            os.close(handle)

    def _forget(self) -> None:
        """In a forked child: close our copy, or it keeps the lock when the parent is killed."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)


def holder_of(run: Path | str) -> str | None:
    """Who trains in a run folder, in words; None where nobody does.

    To find out, the lock is held for an instant, which `RunLock` waits out.
    """
    try:
        handle = os.open(Path(run) / LOCK_NAME, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    try:
        return None if _try_lock(handle) else _holder(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int, patience: float = 0.0) -> bool:
    """Take the system's lock; where it is taken, try again for ``patience`` seconds."""
    until = time.monotonic() + patience
    while not _try_lock_once(handle):
        if time.monotonic() >= until:
            return False
        time.sleep(0.005)
    return True


def _try_lock_once(handle: int) -> bool:
    if os.name == "nt":
        import msvcrt

        try:
            os.lseek(handle, 2**20, os.SEEK_SET)  # beyond the text, which others may still read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(handle: int) -> None:
    text = json.dumps(
        {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    )
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    os.write(handle, text.encode() + b"\n")


def _holder(handle: int) -> str:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        told: Any = json.loads(os.read(handle, 4096))
        where, since = visible(told["host"], 100), visible(told["since"], 40)
        return f"process {int(told['pid'])} on {where} since {since}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
