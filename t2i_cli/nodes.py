"""What lies at a path that is to be written: one rule for every file that this tool writes.

- A regular file, or nothing: a whole new file takes its place.
- A link is followed: what it leads to is written by this rule, and the link stays.
- A pipe or a character device (/dev/null, a terminal) is written into.
- Anything else (a folder, a socket, a disk) is refused.

Nothing but a regular file is ever replaced or removed.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["open_stream", "target_of"]


def target_of(path: str) -> tuple[str, bool]:
    """Where to write, links followed, and whether that is a stream to be written into.

    Args:
        path: where somebody asked for a file.

    Raises:
        OSError: a folder, a socket, a disk, or links in a circle.
    """
    if os.path.islink(path):  # noqa: PTH114  (pathlib costs a cold start 5 ms)
        path = os.path.realpath(path)
        if os.path.islink(path):  # noqa: PTH114
            raise OSError(errno.ELOOP, "links in a circle", path)
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return path, False
    if stat.S_ISREG(mode):
        return path, False
    _check_stream(mode, path)
    return path, True


def open_stream(path: str) -> int:
    """A descriptor of a pipe or a character device, to write into; a pipe waits for its reader.

    Raises:
        OSError: it is neither (any more), or cannot be written.
    """
    flags = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
    fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        _check_stream(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_stream(mode: int, path: str) -> None:
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "it is a folder", path)
    what = (
        "a socket" if stat.S_ISSOCK(mode) else "a disk" if stat.S_ISBLK(mode) else "no regular file"
    )
    raise OSError(errno.EINVAL, f"it is {what}, which is never written to", path)
