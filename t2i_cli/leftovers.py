"""Unfinished files and folders: held while they are made, and removed by the next writer if theirs was killed.

Whoever makes one holds the system's lock on it, which no kill outlives. So `sweep` can tell what is being written from
what was left behind, without asking for process numbers, which other machines and containers share.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

__all__ = ["held_folder", "hold", "sweep", "sweep_once"]

_swept: set[str] = set()  # folders that this process has looked through


def hold(handle: int, path: str) -> bool:
    """Lock what is being made.

    Args:
        handle: open descriptor of it; the lock goes when it is closed.
        path: where it is.

    Returns:
        False where a sweep took it away before it was held: make another one.
    """
    try:
        import fcntl
    except ImportError:  # Windows: nothing is swept there
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))  # noqa: PTH116
    except OSError:
        return False


def held_folder(name: Callable[[], str]) -> tuple[str, int]:
    """Make a folder under a fresh name and hold it.

    Args:
        name: gives a name that is not taken.

    Returns:
        The path, and the descriptor to close when it is finished or removed; -1 where folders cannot be held.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        path = name()
        os.mkdir(path)  # noqa: PTH102
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except PermissionError:  # Windows opens no folder
            return path, -1
        except FileNotFoundError:  # swept at once
            continue
        if hold(handle, path):
            return path, handle
        os.close(handle)


def sweep(folder: str, ours: Callable[[str], bool]) -> list[str]:
    """Remove what killed writers left in a folder.

    Args:
        folder: where to look; it need not be there.
        ours: whether a name is one that a writer gives to what is unfinished.

    Returns:
        The names that were removed.
    """
    try:
        import fcntl

        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in entries if ours(entry.name)]
    except (ImportError, OSError):
        return []
    removed: list[str] = []
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118
        try:
            handle = os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
            )
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mode = os.fstat(handle).st_mode
            if stat.S_ISDIR(mode):
                import shutil  # here, for a cold start has no time for it

                shutil.rmtree(path)
            elif stat.S_ISREG(mode):
                os.unlink(path)  # noqa: PTH108
            else:
                continue
            removed.append(name)
        except OSError:  # somebody holds it, or it may not be removed
            pass
        finally:
            os.close(handle)
    return removed


def sweep_once(folder: str, ours: Callable[[str], bool]) -> None:
    """`sweep`, the first time that this process writes there."""
    key = os.path.realpath(folder or ".")
    if key not in _swept:
        _swept.add(key)
        sweep(folder, ours)
