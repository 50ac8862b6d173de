"""Bytes -> files that are whole or absent, whatever happens: kill, full disk, power loss.

A file is written beside its name, synced, renamed over it, and its folder synced. What a kill
leaves behind carries `TEMPORARY` as its suffix and is removed by `remove_orphans` at the next
start, or by the next writer of that folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from t2i_cli.errors import OutputError
from t2i_cli.leftovers import hold, sweep_once
from t2i_cli.nodes import open_stream, target_of

__all__ = [
    "TEMPORARY",
    "append_line",
    "remove_orphans",
    "sync_folder",
    "truncate_log",
    "write_atomic",
]

TEMPORARY = ".t2i-tmp"  # suffix of what is not finished; the name also begins with a dot
_NOT_SYNCABLE = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EBADF,
}  # file systems and pipes without fsync


def write_atomic(
    path: Path | str, content: bytes | Callable[[IO[bytes]], None], *, overwrite: bool = True
) -> None:
    """Put ``content`` at ``path``: the file is the old one or the whole new one, and on the disk.

    Missing folders are made. The file's mode is the umask's. What is not a regular file is treated
    by the rule of `t2i_cli.nodes`: links are followed, pipes and devices written into.

    Args:
        path: where to write.
        content: the bytes, or a function that writes them to the open file it is given.
        overwrite: False refuses a name that is taken, without a race.

    Raises:
        OutputError: it could not be written (disk full, no permission, name taken); the old file is
            as it was.
    """
    path = Path(path)
    with reported(path):
        target, stream = target_of(str(path))
        if stream:
            with os.fdopen(open_stream(target), "wb") as file:
                _fill(file, content)
            return
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(str(path.parent), is_unfinished)
        temporary = temporary_beside(path)
        try:
            with _open_held(temporary) as file:
                _fill(file, content)
                file.flush()
                sync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                os.link(temporary, path)
                temporary.unlink()
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def append_line(path: Path | str, text: str) -> None:
    """Add ``text`` and a newline to the end of a file, and wait for the disk.

    Raises:
        OutputError: the line could not be written; the file is as it was.
    """
    path = Path(path)
    line = (text + "\n").encode("utf-8", "surrogatepass")
    with reported(path):
        existed = path.exists()
        flags = (
            os.O_RDWR
            | os.O_CREAT
            | os.O_APPEND
            | getattr(os, "O_BINARY", 0)
            | getattr(os, "O_CLOEXEC", 0)
        )
        handle = os.open(path, flags, 0o666)
        try:
            before = os.fstat(handle).st_size if stat.S_ISREG(os.fstat(handle).st_mode) else 0
            if before and _last_byte(handle, before) != b"\n":  # a kill tore the line before
                line = b"\n" + line
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                sync(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if not existed:
            sync_folder(path.parent)


def truncate_log(path: Path | str, step: int) -> int:
    """Drop the rows that a run wrote after ``step``, so that going on writes them again, once.

    Rows are JSON objects, one a line, in the order they happened. From the end of the file, rows
    with a ``step`` beyond ``step`` go, and so does a torn line; a row without a ``step`` shares the
    fate of the row before it. Write the rows of a step before its state is saved.

    Returns:
        How many lines were dropped. A missing file has none.

    Raises:
        OutputError: the file could not be read or written again.
    """
    path = Path(path)
    with reported(path):
        if not path.exists():
            return 0
        data = path.read_bytes()
    lines = data.split(b"\n")
    torn = lines.pop()
    dropped = 1 if torn else 0
    keep = len(lines)
    for index in range(len(lines) - 1, -1, -1):
        at = _step_of(lines[index])
        if at is not None and at <= step:
            break
        if at is not None or not _is_row(lines[index]):
            keep = index
    if keep == len(lines) and not torn:
        return 0
    write_atomic(path, b"".join(line + b"\n" for line in lines[:keep]))
    return dropped + len(lines) - keep


def remove_orphans(folder: Path) -> list[Path]:
    """Remove what a killed writer left unfinished in ``folder`` and in the folders right under it.

    Only the one process that may write there (see `RunLock`) may call this.
    """
    removed: list[Path] = []
    for place in (
        folder,
        *(child for child in _listed(folder) if child.is_dir() and not child.is_symlink()),
    ):
        for entry in _listed(place):
            if is_unfinished(entry.name):
                remove(entry)
                removed.append(entry)
    return removed


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk (where the system can: not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(handle: int) -> None:
    """Wait until a file is on the disk; what has no such notion (a pipe) is passed over."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SYNCABLE:
            raise


def temporary_beside(path: Path) -> Path:
    """A fresh name in the same folder, hidden, at most 255 bytes, that `remove_orphans` knows."""
    stem = path.name.encode("utf-8", "surrogateescape")[:180].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


def open_new(path: Path) -> IO[bytes]:
    """Open a file that must not exist yet, for writing bytes, with the umask's mode."""
    flags = (
        os.O_WRONLY
        | os.O_CREAT
        | os.O_EXCL
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0)
    )
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def _open_held(path: Path) -> IO[bytes]:
    while True:
        file = open_new(path)
        if hold(file.fileno(), str(path)):
            return file
        file.close()


def is_unfinished(name: str) -> bool:
    """Whether a file of this name was not finished, or is not yet."""
    return name.startswith(".") and name.endswith(TEMPORARY)


def remove(path: Path) -> None:
    """Remove a file or a folder as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn an OSError about ``path`` into an OutputError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OutputError(f"{path}: could not be written: {reason}", _hint(error)) from error


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, then go on; what existed is as it was"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder that can be written"
    if error.errno == errno.EEXIST:
        return "choose another name, or overwrite it with -f"
    return ""


def _fill(file: IO[bytes], content: bytes | Callable[[IO[bytes]], None]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)


def _last_byte(handle: int, size: int) -> bytes:
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1)


def _is_row(line: bytes) -> bool:
    return isinstance(_parsed(line), dict)


def _step_of(line: bytes) -> int | None:
    row = _parsed(line)
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int else None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
