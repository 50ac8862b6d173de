"""Lines of text from arguments, files and pipes -> `Request`s, one a prompt; a bad line costs that line alone.

A line is a prompt, or a JSON object with ``prompt`` and any of ``seed``, ``n``, ``out``, ``id``, ``negative`` and
``style``. What `t2i sample --json` prints is such a line too, so results can be piped back in. Empty lines and those
that start with ``#`` are passed over. A JSON array of such objects or of texts, and a CSV with a ``prompt`` column, are
read as the lines that they stand for; UTF-16 as UTF-8.
"""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
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
    "read_prompts",
    "requests",
]

MAX_LINE = 65_536  # bytes of one line
MAX_N = 1_000_000  # pictures of one prompt
FIELDS = ("prompt", "seed", "n", "out", "id", "negative", "style")
MAX_WHOLE = 2**28  # bytes of an array or a CSV, which are read as a whole
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
        "references",
        "attributes",
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
    style: str | None = None  # the attribute of that name
    line: int = 0  # 1-based, where it was read; 0 for an argument
    unknown: tuple[str, ...] = ()  # fields that say nothing to t2i


@dataclass(frozen=True)
class BadLine:
    """A line that is no prompt."""

    line: int
    error: PromptError


class LineReader:
    r"""The lines of a file descriptor, and whether another one is there without waiting.

    Reads with ``os.read`` alone, so no buffer or thread is left behind when a signal ends the process. A line longer
    than `MAX_LINE` bytes comes out cut to MAX_LINE + 1 bytes, and memory stays bounded.

    The first bytes decide what the rest is: UTF-16 is read as UTF-8, and a JSON array or a CSV as JSON lines, one a
    prompt, for which everything is read first.

    Args:
        fd: an open file descriptor; it is never closed here.
        table: whether it is a CSV whatever its first line says.
    """

    def __init__(self, fd: int, *, table: bool = False) -> None:
        self.fd = fd
        self._lines: list[bytes] = []  # whole lines, last first
        self._tail = b""
        self._ended = False
        self._table = table
        self._begun = False  # whether the first line was looked at
        self._decoder: Any = None  # of UTF-16

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
        block = self._block()
        if (
            not self._begun
            and not self._ended
            and b"\n" not in block
            and len(self._tail) < MAX_LINE
        ):
            self._tail += block  # the first line is not whole yet
            return
        if not self._begun:
            self._begun = True
            block, self._tail = self._tail + block, b""
            whole = self._whole(block)
            if whole is not None:
                self._lines, self._ended = whole[::-1], True
                return
        if self._ended:
            if self._tail or block:
                lines = (self._tail + block).split(b"\n")
                lines = lines[:-1] if not lines[-1] else lines
                self._lines = [line[: MAX_LINE + 1] for line in reversed(lines)]
            return
        first, *rest = block.split(b"\n")
        self._tail += first
        if not rest:
            self._tail = self._tail[: MAX_LINE + 1]
            return
        lines = [self._tail, *rest]
        self._tail = lines.pop()
        self._lines = [line[: MAX_LINE + 1] for line in reversed(lines)]

    def _block(self) -> bytes:
        """What can be read now, as UTF-8; at the end of it, nothing, and `_ended` is set."""
        block = os.read(self.fd, 65_536)
        first = not self._begun and not self._tail and self._decoder is None
        if first and (coding := _wide(block)):
            import codecs

            self._decoder = codecs.getincrementaldecoder(coding)("replace")
        if not block:
            self._ended = True
        if self._decoder is not None:
            block = self._decoder.decode(block, final=self._ended).encode("utf-8", "replace")
        return block

    def _whole(self, start: bytes) -> list[bytes] | None:
        """The lines that an array or a CSV stands for; None for plain lines."""
        head = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        array = head[:1] == b"[" and head[1:].lstrip()[:1] in (b"", b"{", b'"', b"]")
        if not array and not self._table and not _is_header(head.split(b"\n", 1)[0]):
            return None
        while not self._ended and len(start) <= MAX_WHOLE:
            start += self._block()
        text = start.decode("utf-8-sig", "surrogateescape")
        lines = _array_lines(text) if array else _table_lines(text)
        if lines is None:
            lines = text.split("\n")
        return [line.encode("utf-8", "surrogateescape")[: MAX_LINE + 1] for line in lines]


def _wide(block: bytes) -> str:
    """The wide encoding of a text's first bytes; empty where it is none."""
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = block[:4096:2].count(0), block[1:4096:2].count(0)
    if max(even, odd) * 4 > len(block[:4096]) > 3:
        return "utf-16-le" if odd > even else "utf-16-be"
    return ""


def _is_header(line: bytes) -> bool:
    """Whether a first line is that of a CSV: fields of a request alone, prompt and another one among them."""
    for separator in (b",", b";", b"\t", b"|"):
        cells = [cell.strip().strip(b'"').lower() for cell in line.split(separator)]
        known = {name.encode() for name in (*FIELDS, *_OWN)}
        if len(cells) > 1 and b"prompt" in cells and set(cells) <= known:
            return True
    return False


def _array_lines(text: str) -> list[str] | None:
    """A JSON array's elements, each as a line of JSON; None where it is none."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    elements = cast("list[object]", found)
    return [json.dumps(one if isinstance(one, dict) else {"prompt": one}) for one in elements]


def _table_lines(text: str) -> list[str]:
    """A CSV's rows, each as a line of JSON, the header as an empty line.

    Raises:
        PromptError: it has no prompt column, or is no CSV.
    """
    import csv
    import io

    header = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t|", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise PromptError(f"not a CSV: {error}", "write one prompt a line instead") from None
    names = [cell.strip().lower() for cell in (rows[0] if rows else [])]
    if "prompt" not in names:
        raise PromptError(
            f"no prompt column; the columns are {', '.join(names[:8])}",
            "call the column with the prompts prompt",
        )
    lines = [""]
    for row in rows[1:]:
        known = {name: cell for name, cell in zip(names, row, strict=False) if cell.strip()}
        lines.append(json.dumps(known) if known else "")
    return lines


def parse_line(raw: bytes | str, number: int = 0) -> Request | None:
    r"""The request of one line, or None for an empty one.

    >>> parse_line('{"prompt": "a cat", "seed": 7}', 3)
    Request(prompt='a cat', seed=7, n=None, out=None, id=None, negative=None, style=None, line=3, unknown=())
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
    if not text or text.startswith("#"):
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
    unknown = sorted(set(fields) - set(FIELDS) - _OWN)
    if not isinstance(fields.get("prompt"), str) or not fields["prompt"].strip():
        raise PromptError(f"{where}no prompt", 'write {"prompt": "a red cat"}')
    texts: dict[str, str | None] = {}
    for name in ("prompt", "out", "negative", "style"):
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
        style=texts["style"],
        line=number,
        unknown=tuple(unknown),
    )


def requests(
    lines: Iterator[bytes], warn: Callable[[str], None] | None = None
) -> Iterator[Request | BadLine | None]:
    """What each line asks for: a request, `BadLine` where it cannot be read, None where it is empty.

    Args:
        lines: as `LineReader` gives them.
        warn: called with a line of text for each field that says nothing to t2i, once.
    """
    warned: set[str] = set()
    for number, raw in enumerate(lines, 1):
        try:
            request = parse_line(raw, number)
        except PromptError as error:
            yield BadLine(number, error)
            continue
        for name in request.unknown if request is not None and warn is not None else ():
            if name not in warned and len(warned) < 20 and warn is not None:
                warned.add(name)
                fields = ", ".join(FIELDS)
                warn(
                    f"line {number}: the field {name[:40]} is not known and not used; fields: {fields}"
                )
        yield request


def read_prompts(path: str, warn: Callable[[str], None] | None = None) -> list[str]:
    """Every prompt of a file.

    Raises:
        PromptError: it cannot be read, holds none, or a line is no prompt.
    """
    reader = open_prompts(path)
    try:
        found: list[str] = []
        for item in requests(iter(reader), warn):
            if isinstance(item, BadLine):
                raise PromptError(f"{path}: {item.error}", item.error.hint)
            if item is not None:
                found.append(item.prompt)
    finally:
        if path != "-":
            os.close(reader.fd)
    if not found:
        raise PromptError(f"{path}: holds no prompt", "write one prompt a line")
    return found


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
    return LineReader(fd, table=path.lower().endswith((".csv", ".tsv")))


def _text(value: str, name: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError(f"{where}{name} holds half a surrogate pair, which is no text") from None
    return value


def _whole(value: object, name: str, low: int, high: int, where: str) -> int | None:
    if value is None:
        return None
    given = value
    if isinstance(value, str) and len(value) < 30:  # as a CSV or a careless script has it
        text = value.strip()
        value = int(text) if text.isascii() and text.isdecimal() else value
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        shown = str(given)[:40]
        raise PromptError(f"{where}{name} is {shown}, expected a whole number from {low} to {high}")
    return value
