"""A data set -> what is in it, what is wrong and how to mend it, as lines for a person and as plain data. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2i_cli.data import CaptionsFrom, DataReport, scan
from t2i_cli.data.report import BAD_SHARE
from t2i_cli.errors import visible

__all__ = ["CheckReport", "Line", "check"]


@dataclass(frozen=True)
class Line:
    """One line for the console; safe to print."""

    sign: Literal["", "✗", "!", "✓"]  # found, error, warning, result
    message: str
    mend: str = ""  # what to do, shown in a column beside


@dataclass(frozen=True)
class CheckReport:
    """What `check` found."""

    data: DataReport
    estimate: str = ""  # e.g. "about 25 min on this machine for --size small"

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.data.ok

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is wrong."""
        return 0 if self.ok else 3

    @property
    def lines(self) -> tuple[Line, ...]:
        """The layout, the errors with their mends, the warnings on one line, and what there is."""
        data = self.data
        lines: list[Line] = []
        if data.layout:
            lines.append(Line("", visible(data.layout)))
        lines += [Line("✗", problem.text, visible(problem.mend)) for problem in data.errors]
        if data.warnings:
            texts = "; ".join(problem.text for problem in data.warnings)
            mend = data.warnings[0].mend if len(data.warnings) == 1 else ""
            lines.append(Line("!", texts, visible(mend)))
        found = ", ".join(
            (
                _count(data.pairs, "pair"),
                _count(data.captions, "caption"),
                _count(data.words, "word"),
            )
        )
        command = f"t2i train {shlex.quote(visible(data.path))}"
        if data.usable:
            lines.append(
                Line("✓", found, f"{command}: {self.estimate}" if self.estimate else command)
            )
        elif data.pairs:
            fatal = any(problem.fault.fatal for problem in data.errors)
            share = f"{100 * data.bad_share:.0f}% is bad, at most {100 * BAD_SHARE:.0f}% may be"
            lines.append(
                Line(
                    "✗",
                    found,
                    "not enough to train on" if fatal else f"t2i train would refuse: {share}",
                )
            )
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary: the data report with every item, and the estimate."""
        return {**self.data.to_dict(), "estimate": self.estimate}


def check(
    path: Path | str,
    *,
    captions_from: CaptionsFrom | None = None,
    caption_key: str | None = None,
    min_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    estimate: Callable[[DataReport], str] | None = None,
) -> CheckReport:
    """Read a data set whole and report on it. Writes nothing.

    Args:
        path: a folder, a tar shard or a metadata file.
        captions_from: the layout, where it is not to be found by looking.
        caption_key: the key of the captions in a metadata file or JSON sidecar.
        min_size: px; pictures whose long side is under it are counted in a warning.
        progress: called with (done, total) pictures now and then.
        estimate: how long training would take, in words; asked only for data that can be trained on.

    Raises:
        DataError: there is nothing at the path, or it may not be read.
    """
    data = scan(
        path,
        captions_from=captions_from,
        caption_key=caption_key,
        min_size=min_size,
        progress=progress,
    )
    return CheckReport(data, estimate(data) if estimate and data.usable else "")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
