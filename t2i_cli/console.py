"""What a person sees: results on stdout, everything else on stderr, a live display where stderr is a terminal.

Text from strangers enters through `visible` here and is never read as markup. rich is imported only where something
is drawn with it, so a command that prints a line does not pay for it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO, cast

from t2i_cli.errors import OutputError, Stopped, T2IError, visible
from t2i_cli.wording import number_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from t2i_cli.training.events import Event, Finished, StageStarted

__all__ = [
    "TrainingDisplay",
    "checklist",
    "clock",
    "count",
    "detail",
    "facts",
    "fail",
    "figure",
    "is_terminal",
    "mark",
    "note",
    "open_streams",
    "progress",
    "reader_is_gone",
    "result",
    "result_bytes",
    "result_json",
    "set_level",
    "table",
    "warn",
]

PLAIN_EVERY = 30.0  # s between two plain progress lines where stderr is no terminal
_COLOURS = {"✓": "32", "!": "33", "✗": "31"}  # sign -> SGR colour


@dataclass
class _Level:
    quiet: bool = False
    verbose: bool = False
    name: str = "t2i"  # who speaks, in front of errors
    reader_gone: bool = False  # stdout's reader has closed the pipe
    live: list[Live] = field(default_factory=list)  # the display that lines must be printed above


_level = _Level()


def set_level(
    *, quiet: bool | None = None, verbose: bool | None = None, name: str | None = None
) -> None:
    """Turn ``-q`` (errors and results only) or ``-v`` (details too) on or off, say who speaks; None leaves as it is."""
    if quiet is not None:
        _level.quiet = quiet
    if verbose is not None:
        _level.verbose = verbose
    if name is not None:
        _level.name = name


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream, stderr by default, is a terminal that can move its cursor."""
    return (stream or sys.stderr).isatty() and os.environ.get("TERM", "") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """Whether a stream takes colours: NO_COLOR, then FORCE_COLOR, then whether it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def open_streams() -> None:
    """Make stdin, stdout and stderr usable: a closed one is opened on nothing, and no character is too much for one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# --- results: stdout


def result(text: str) -> bool:
    """Print one line of results and flush it.

    Returns:
        False where nobody reads any more (``| head``): nothing is printed from then on.

    Raises:
        OutputError: stdout cannot be written (a full disk).
    """
    return _write(lambda: print(visible(text, 100_000), flush=True))


def result_json(row: Mapping[str, Any]) -> bool:
    """Print one JSON object on a line of its own; returns and raises as `result`."""
    return _write(lambda: print(json.dumps(row, default=str), flush=True))


def result_bytes(data: bytes) -> bool:
    """Write bytes (a picture) to stdout; returns and raises as `result`."""

    def write() -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    return _write(write)


def reader_is_gone() -> bool:
    """Whether the reader of stdout has closed its end."""
    return _level.reader_gone


def _write(write: Callable[[], None]) -> bool:
    if _level.reader_gone:
        return False
    try:
        write()
    except OSError as error:
        silence_stdout()
        if error.errno not in (errno.EPIPE, errno.EINVAL, errno.ESHUTDOWN):
            raise OutputError(f"standard output: {error.strerror or error}") from error
        return False
    return True


def silence_stdout() -> None:
    """Send what is still buffered, and all that follows, nowhere."""
    _level.reader_gone = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> bool:
    """Print a table to stdout: drawn on a terminal, tab-separated columns in a pipe."""
    cells = [[visible(cell) for cell in row] for row in rows]
    if not is_terminal(sys.stdout):
        lines = ["\t".join(row) for row in [[visible(name) for name in columns], *cells]]
        return _write(lambda: print(*lines, sep="\n", flush=True))
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=Text(visible(title)) if title else None, box=box.SIMPLE_HEAD, title_justify="left"
    )
    numeric = [
        bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))
    ]
    for name, right in zip(columns, numeric, strict=True):
        drawn.add_column(Text(visible(name)), justify="right" if right else "left")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    return _write(lambda: _rich(sys.stdout).print(drawn))


def mark(sign: str, text: str, stream: TextIO | None = None) -> str:
    """A line with its sign in front (✓, ! or ✗), coloured where the stream, stdout by default, takes colour.

    >>> mark("✓", "7,921 pairs", sys.stdin)
    '✓ 7,921 pairs'
    """
    if sign in _COLOURS and has_colour(stream or sys.stdout):
        sign = f"\x1b[{_COLOURS[sign]}m{sign}\x1b[0m"
    return f"{sign} {visible(text, 4000)}".lstrip()


def checklist(lines: Iterable[tuple[str, str, str]]) -> bool:
    """Print lines of (sign, what is so, what to do), the last in a column of its own; returns as `result`."""
    rows = [(sign, visible(text, 4000), visible(mend, 1000)) for sign, text, mend in lines]
    width = max((len(text) for _, text, mend in rows if mend and len(text) <= 60), default=0)
    drawn = [mark(sign, f"{text:<{width}}  {mend}".rstrip()) for sign, text, mend in rows]
    return _write(lambda: print(*drawn, sep="\n", flush=True))


def facts(rows: Iterable[tuple[str, str]], title: str = "") -> bool:
    """Print labels with their texts in a column beside them; returns as `result`."""
    pairs = [(visible(label, 60), visible(text, 4000)) for label, text in rows]
    width = max((len(label) for label, _ in pairs), default=0)
    lines = [f"\n{visible(title)}"] if title else []
    lines += [f"{label:<{width}}  {text}" for label, text in pairs]
    return _write(lambda: print(*lines, sep="\n", flush=True))


# --- everything else: stderr


def note(text: str) -> None:
    """Say something on stderr, unless ``-q``."""
    if not _level.quiet:
        _say(visible(text, 4000))


def detail(text: str) -> None:
    """Say something on stderr with ``-v`` only."""
    if _level.verbose and not _level.quiet:
        _say(visible(text, 4000))


def warn(text: str) -> None:
    """A warning on stderr, unless ``-q``."""
    if not _level.quiet:
        _say(mark("!", text, sys.stderr))


def fail(error: T2IError) -> None:
    """An error as one line on stderr: what was expected and came, and what to do. A stop is no error."""
    message = str(error).rstrip(". ")
    _say(
        f"{_level.name}: {'' if isinstance(error, Stopped) else 'error: '}"
        + message
        + (f"; {error.hint}" if error.hint else "")
    )


def _say(line: str) -> None:
    """A safe line to stderr, above the live display where there is one; a closed stderr is nobody's trouble."""
    try:
        if _level.live:
            from rich.text import Text

            _level.live[-1].console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def _rich(stream: TextIO) -> Console:
    from rich.console import Console

    colour = "auto" if has_colour(stream) else None
    return Console(
        file=stream,
        color_system=colour,
        force_terminal=is_terminal(stream),
        markup=False,
        highlight=False,
    )


# --- numbers as a person reads them


def count(number: float) -> str:
    """A whole number with its thousands apart.

    >>> count(7921)
    '7,921'
    """
    return f"{int(number):,}"


def clock(seconds: float) -> str:
    """A span of time.

    >>> clock(42), clock(754), clock(1800), clock(7503), clock(200000)
    ('42 s', '12 min 34 s', '30 min', '2 h 5 min', '2 d 7 h')
    """
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        parts.append(f"{left // size} {unit}")
        left %= size
    while len(parts) > 1 and parts[0].startswith("0 "):
        del parts[0]
    return " ".join([parts[0], *(part for part in parts[1:2] if not part.startswith("0 "))])


def figure(value: object) -> str:
    """A number of a log in three or four digits.

    >>> figure(0.034567), figure(1234), figure(True)
    ('0.0346', '1,234', 'True')
    """
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return visible(value)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True


# --- progress


@contextmanager
def progress(label: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a plain line every 30 s; gives ``update(done, total)``, total 0 where unknown."""
    label = visible(label, 200)
    started = last = time.monotonic()
    tail = f" {unit}" if unit else ""

    def speak(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_EVERY:
            last = now
            left = (
                f", {clock((total - done) * (now - started) / max(done, 1))} left"
                if total and done
                else ""
            )
            note(f"{label}: {count(done)}" + (f" of {count(total)}" if total else "") + tail + left)

    if _level.quiet or not is_terminal() or _level.live:
        yield speak
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeRemainingColumn(),
        console=_rich(sys.stderr),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=None)

        def draw(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        _level.live.append(bar.live)
        try:
            yield draw
        finally:
            _level.live.pop()


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """One `progress` after another: gives ``tell(what, done, total)``, a new one where ``what`` changes."""
    with ExitStack() as open_now:
        current: list[tuple[str, Callable[[int, int], None]]] = []

        def tell(what: str, done: int, total: int) -> None:
            if not current or current[-1][0] != what:
                open_now.close()
                current[:] = [(what, open_now.enter_context(progress(what)))]
            current[-1][1](done, total)

        yield tell


class TrainingDisplay:
    """Draws the events of a training run: a live panel on a terminal, plain lines elsewhere, JSON rows with ``--json``.

    Args:
        json_rows: print every report and the end as JSON objects on stdout.
    """

    def __init__(self, *, json_rows: bool = False) -> None:
        self.json_rows = json_rows
        self.stages: dict[str, float] = {}  # name -> share done, 0..1
        self.stage: StageStarted | None = None
        self.row: dict[str, Any] = {}
        self.advice = ""
        self.grid = ""
        self.saved = ""
        self._live: Live | None = None
        self._spoke = time.monotonic()
        self._decoded = ""

    def __enter__(self) -> TrainingDisplay:
        """Start the live panel where stderr is a terminal."""
        if is_terminal() and not _level.quiet:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._panel, console=_rich(sys.stderr), refresh_per_second=2, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
            _level.live.append(self._live)
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the live panel away."""
        if self._live is not None:
            _level.live.pop()
            self._live.stop()
            self._live = None

    def decoding(self, done: int, total: int) -> None:
        """Show how far the decoding of pictures is, before the first stage."""
        self._decoded = f"decoding: {count(done)} of {number_of(total, 'picture')}"
        now = time.monotonic()
        if self._live is None and now - self._spoke >= PLAIN_EVERY:
            self._spoke = now
            note(self._decoded)

    def show(self, event: Event) -> None:
        """Draw one event."""
        from t2i_cli.training import events

        match event:
            case events.Message(text):
                note(text)
            case events.StageStarted():
                self._start(event)
            case events.Report(row):
                self._report(row)
            case events.Saved(path, step):
                self.saved = f"{path} at step {count(step)}"
                detail(f"saved {self.saved}")
            case events.Sampled(path, _):
                self.grid = str(path)
                detail(f"drew {path}")
            case events.Advice(signal, text):
                self.advice = text
                warn(text)
                if self.json_rows:
                    result_json({"event": "advice", "signal": signal, "text": text})
            case events.Finished():
                self._finish(event)
            case _:
                detail(repr(event))

    def _start(self, event: StageStarted) -> None:
        for name in self.stages:
            self.stages[name] = 1.0
        self.stages[event.stage] = event.progress
        self.stage = event
        self._spoke = float("-inf")  # the first report of a stage is shown at once
        going = f", from {event.progress:.0%}" if event.progress > 0 else ""
        note(f"stage {event.index} of {event.stages}: {event.stage}{going}")

    def _report(self, row: dict[str, Any]) -> None:
        self.row = row
        stage = row.get("stage")
        if isinstance(stage, str):
            self.stages[stage] = float(row.get("stage_progress") or 0.0)
        if self.json_rows:
            result_json({"event": "report", **row})
        now = time.monotonic()
        if self._live is None and now - self._spoke >= PLAIN_EVERY:
            self._spoke = now
            note(report_line(row))

    def _finish(self, event: Finished) -> None:
        for name in self.stages:
            self.stages[name] = 1.0
        scores = "".join(
            f", {name.replace('_', ' ')} {figure(value)}" for name, value in event.figures.items()
        )
        note(f"done: {count(event.steps)} steps in {clock(event.seconds)}{scores}")
        for advice in event.advice:
            warn(advice.text)
        if self.json_rows:
            result_json(
                {
                    "event": "finished",
                    "path": str(event.path),
                    "model": str(event.model),
                    "steps": event.steps,
                    "seconds": round(event.seconds, 3),
                    "advice": [{"signal": item.signal, "text": item.text} for item in event.advice],
                    "figures": event.figures,
                }
            )
        else:
            result(str(event.model))

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bars = Table.grid(padding=(0, 1))
        current = self.stage
        for name, share in list(self.stages.items()):
            here = current is not None and name == current.stage and share < 1
            bars.add_row(
                Text(visible(name), style="bold" if here else "dim"),
                ProgressBar(total=1.0, completed=share, width=32),
                Text(f"{share:.0%}"),
            )
        parts: list[RenderableType] = [bars]
        if current is None:
            parts.insert(0, Text(self._decoded))
        else:
            parts.insert(
                0,
                Text(
                    f"stage {current.index} of {current.stages}: {visible(current.stage)}",
                    style="bold",
                ),
            )
        if self.row:
            parts.append(Text(_speed(self.row)))
            losses = _losses(self.row)
            if losses:
                parts.append(
                    Text(
                        "  ".join(f"{name} {figure(value)}" for name, value in losses.items()),
                        style="cyan",
                    )
                )
        if self.saved:
            parts.append(
                Text(
                    f"saved {visible(self.saved)}"
                    + (f"; grid {visible(self.grid)}" if self.grid else ""),
                    style="dim",
                )
            )
        if self.advice:
            parts.append(Text(f"! {visible(self.advice)}", style="yellow"))
        return Group(*parts)


_SPEED_KEYS = {
    "step", "stage", "progress", "stage_progress", "images", "images_per_second", "memory_mb", "eta_s",
    "seconds", "skipped",
}  # fmt: skip


def _speed(row: Mapping[str, Any]) -> str:
    """The part of a row that says how fast and how far: step, pictures a second, memory, time left."""
    parts: list[str] = []
    if "step" in row:
        parts.append(f"step {figure(row['step'])}")
    if "progress" in row:
        parts.append(f"{float(row['progress']):.0%} done")
    if row.get("images_per_second") is not None:
        parts.append(f"{figure(float(row['images_per_second']))} images/s")
    if row.get("memory_mb") is not None:
        parts.append(f"{count(float(row['memory_mb']))} MB")
    if row.get("eta_s") is not None:
        parts.append(f"{clock(float(row['eta_s']))} left")
    return " · ".join(parts)


def _losses(row: Mapping[str, Any]) -> dict[str, float]:
    """The losses and gaps of a row: its ``losses`` object, and the other numbers at its top."""
    found: dict[str, float] = {}
    nested = row.get("losses")
    if isinstance(nested, Mapping):
        found.update(_numbers(cast("Mapping[str, object]", nested)))
    found.update(_numbers({key: value for key, value in row.items() if key not in _SPEED_KEYS}))
    return found


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    return {
        visible(name, 40): float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def report_line(row: Mapping[str, Any]) -> str:
    """A log row as one plain line.

    >>> report_line({"stage": "flow", "step": 1200, "progress": 0.5, "losses": {"flow": 0.25}})
    'flow: step 1,200 · 50% done · flow 0.25'
    """
    losses = [f"{name} {figure(value)}" for name, value in list(_losses(row).items())[:8]]
    stage = f"{visible(row['stage'])}: " if "stage" in row else ""
    return stage + " · ".join(part for part in [_speed(row), *losses] if part)
