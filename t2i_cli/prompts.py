"""Lines of text from arguments, files and pipes -> `Request`s, one a prompt; a bad line costs that line alone.

A line is a prompt, or a JSON object with ``prompt`` and any of ``seed``, ``n``, ``out``, ``id``, ``negative``. What
`t2i sample --json` prints is such a line too, so results can be piped back in.
"""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from t2i_cli.errors import PromptError
from t2i_cli.noise import MAX_SEED

__all__ = [
    "MAX_LINE",
    "MAX_N",
    "BadLine",
    "LineReader",
    "Request",
    "argument",
    "open_prompts",
    "parse_line",
    "requests",
]

MAX_LINE = 65_536  # bytes of one line
MAX_N = 1_000_000  # pictures of one prompt
_OWN = frozenset(
    {
        "path",
        "model",
        "width",
        "height",
        "ms",
        "unknown_tokens",
        "truncated",
        "shard",
        "picked",
        "read_as",
        "to",
    }
)  # of `--json`


@dataclass(frozen=True)
class Request:
    """One prompt and what was asked for with it; None where the command's own default holds."""

    prompt: str
    seed: int | None = None  # of the first picture, 0..MAX_SEED
    n: int | None = None  # pictures, seeds seed .. seed + n - 1
    out: str | None = None  # a path or template, inside the folder asked for
    id: str | None = None  # the {id} of a template
    negative: str | None = None  # a prompt to move away from
    line: int = 0  # 1-based, where it was read; 0 for an argument


@dataclass(frozen=True)
class BadLine:
    """A line that is no prompt."""

    line: int
    error: PromptError


class LineReader:
    r"""The lines of a file descriptor, and whether another one is there without waiting.

    Reads with ``os.read`` alone, so no buffer or thread is left behind when a signal ends the process. A line longer
    than `MAX_LINE` bytes comes out cut to MAX_LINE + 1 bytes, and memory stays bounded.

    Args:
        fd: an open file descriptor; it is never closed here.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lines: list[bytes] = []  # whole lines, last first
        self._tail = b""
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        """The lines, without their newline."""
        while (line := self.next_line()) is not None:
            yield line

    def next_line(self) -> bytes | None:
        """The next line, waiting for it; None at the end."""
        while not self._lines:
            if self._ended:
                return None
            self._fill()
        return self._lines.pop()

    def ready(self) -> bool:
        """Whether `next_line` answers at once (as far as can be told without waiting)."""
        while not self._lines and not self._ended:
            try:
                if not select.select([self.fd], [], [], 0)[0]:
                    return False
            except (
                OSError,
                ValueError,
            ):  # not a thing that can be asked, such as a pipe on Windows
                return False
            self._fill()
        return True

    def end(self) -> None:
        """Read no further: `next_line` answers None from now on."""
        self._ended, self._lines, self._tail = True, [], b""

    def still_written(self) -> bool:
        """Whether this is a pipe that somebody may still write to: its lines may never end."""
        if self._ended or not hasattr(select, "poll"):
            return False
        mode = os.fstat(self.fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return False
        asked = select.poll()
        asked.register(self.fd, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in asked.poll(0))

    def _fill(self) -> None:
        block = os.read(self.fd, 65_536)
        if not block:
            self._ended = True
            if self._tail:
                self._lines = [self._tail]
            return
        first, *rest = block.split(b"\n")
        self._tail += first
        if not rest:
            self._tail = self._tail[: MAX_LINE + 1]
            return
        lines = [self._tail, *rest]
        self._tail = lines.pop()
        self._lines = [line[: MAX_LINE + 1] for line in reversed(lines)]


def parse_line(raw: bytes | str, number: int = 0) -> Request | None:
    r"""The request of one line, or None for an empty one.

    >>> parse_line('{"prompt": "a cat", "seed": 7}', 3)
    Request(prompt='a cat', seed=7, n=None, out=None, id=None, negative=None, line=3)
    >>> parse_line("  ") is None
    True

    Raises:
        PromptError: not UTF-8, too long, not a JSON object where it begins with ``{``, or a field of the wrong kind.
    """
    where = f"line {number}: " if number else ""
    if len(raw) > MAX_LINE:
        raise PromptError(f"{where}a line may have at most {MAX_LINE} bytes")
    if isinstance(raw, bytes):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PromptError(
                f"{where}not UTF-8 at byte {error.start}", "save the file as UTF-8"
            ) from None
    else:
        text = raw
    text = text.removeprefix("\ufeff").strip() if number <= 1 else text.strip()
    if not text:
        return None
    if not text.startswith("{"):
        return Request(prompt=_text(text, "the prompt", where), line=number)
    return _from_json(text, number, where)


def _from_json(text: str, number: int, where: str) -> Request:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where}begins with {{ but is not JSON: {error}") from None
    fields = cast("dict[str, Any]", data)
    unknown = sorted(set(fields) - {"prompt", "seed", "n", "out", "id", "negative"} - _OWN)
    if unknown:
        raise PromptError(
            f"{where}unknown field {unknown[0]!r}", "fields: prompt, seed, n, out, id, negative"
        )
    if not isinstance(fields.get("prompt"), str) or not fields["prompt"].strip():
        raise PromptError(f"{where}no prompt", 'write {"prompt": "a red cat"}')
    texts: dict[str, str | None] = {}
    for name in ("prompt", "out", "negative"):
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise PromptError(f"{where}{name} is {type(value).__name__}, expected text")
        texts[name] = None if value is None else _text(value, name, where)
    identity = fields.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity is not None and not isinstance(identity, str):
        raise PromptError(
            f"{where}id is {type(identity).__name__}, expected text or a whole number"
        )
    seed = _whole(fields.get("seed"), "seed", 0, MAX_SEED, where)
    n = _whole(fields.get("n"), "n", 1, MAX_N, where)
    return Request(
        prompt=cast("str", texts["prompt"]).strip(),
        seed=seed,
        n=n,
        out=texts["out"] or None,
        id=None if identity is None else _text(identity, "id", where),
        negative=texts["negative"],
        line=number,
    )


def requests(lines: Iterator[bytes]) -> Iterator[Request | BadLine | None]:
    """What each line asks for: a request, `BadLine` where it cannot be read, None where it is empty."""
    for number, raw in enumerate(lines, 1):
        try:
            yield parse_line(raw, number)
        except PromptError as error:
            yield BadLine(number, error)


def argument(text: str) -> Request:
    """The request of a prompt given as an argument: text only, never JSON.

    Raises:
        PromptError: empty, too long, or not text in this system's encoding.
    """
    if not text.strip():
        raise PromptError("the prompt is empty", 't2i sample "a red cat"')
    if len(text) > MAX_LINE:
        raise PromptError(f"a prompt may have at most {MAX_LINE} characters")
    return Request(prompt=_text(text.strip(), "the prompt", ""))


def open_prompts(path: str) -> LineReader:
    """A reader of a file of prompts; ``-`` is the standard input.

    Raises:
        PromptError: the file cannot be read.
    """
    if path == "-":
        return LineReader(sys.stdin.fileno())
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        if os.path.isdir(path):  # noqa: PTH112  (pathlib costs a cold start 5 ms)
            os.close(fd)
            raise IsADirectoryError(21, "is a folder")
    except (OSError, ValueError) as error:
        raise PromptError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return LineReader(fd)


def _text(value: str, name: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError(f"{where}{name} holds half a surrogate pair, which is no text") from None
    return value


def _whole(value: object, name: str, low: int, high: int, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        shown = str(value)[:40]
        raise PromptError(f"{where}{name} is {shown}, expected a whole number from {low} to {high}")
    return value
