"""Data sets -> what is in them, what is wrong and how to mend it, as lines for a person and as plain data. No torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2i_cli import images
from t2i_cli.checkpoint import write_atomic
from t2i_cli.data import DataReport, ReadOptions, preview, scan, share_bad
from t2i_cli.errors import DataError, OutputError, visible
from t2i_cli.wording import number_of

__all__ = ["CheckReport", "Line", "check", "refuse_existing", "write_preview"]

_FITTED = {
    "crop": "cut to a square, centred on what it shows",
    "pad": "padded to a square",
    "stretch": "stretched to a square",
}


@dataclass(frozen=True)
class Line:
    """One line for the console; safe to print."""

    sign: Literal["", "✗", "!", "✓"]  # found, left out, warning, result
    message: str
    mend: str = ""  # what to do, shown in a column beside


@dataclass(frozen=True)
class CheckReport:
    """What `check` found."""

    data: DataReport
    estimate: str = ""  # e.g. "about 25 min on this machine for --size small"

    @property
    def ok(self) -> bool:
        """Whether training may go on."""
        return self.data.usable

    @property
    def exit_code(self) -> int:
        """0, or 3 where training would be refused."""
        return 0 if self.ok else 3

    @property
    def lines(self) -> tuple[Line, ...]:
        """The layout, what was left out with its mend, the warnings on one line, and what there is."""
        data = self.data
        lines: list[Line] = []
        if data.layout:
            lines.append(Line("", visible(data.layout)))
        lines += [Line("", visible(note)) for note in data.notes]
        lines += [Line("✗", problem.text, visible(problem.mend)) for problem in data.errors]
        if data.warnings:
            texts = "; ".join(problem.text for problem in data.warnings)
            mend = data.warnings[0].mend if len(data.warnings) == 1 else ""
            lines.append(Line("!", texts, visible(mend)))
        lines += [Line("", text) for text in self._facts()]
        return (*lines, *self._result())

    def _facts(self) -> list[str]:
        """What happens to pictures, which splits there are, and what else is kept of each picture."""
        data = self.data
        texts = [
            f"{number_of(count, 'picture')} {'is' if count == 1 else 'are'} {_FITTED[how]}"
            for how, count in data.fitted.items()
        ]
        if data.splits:
            each = ", ".join(f"{visible(name)} {count:,}" for name, count in data.splits.items())
            never = " (test is never trained on)" if "test" in data.splits else ""
            texts.append(f"splits: {each}{never}")
        if data.attributes:
            texts.append("kept of each picture: " + visible(", ".join(list(data.attributes)[:12])))
        return texts

    def _result(self) -> list[Line]:
        data = self.data
        found = ", ".join(
            (
                number_of(data.pairs, "pair"),
                number_of(data.captions, "caption"),
                number_of(data.words, "word"),
            )
        )
        if data.bad:
            found += f"; {data.bad:,} left out"
        command = f"t2i train {shlex.quote(visible(data.path))}"
        if data.usable:
            mend = f"{command}: {self.estimate}" if self.estimate else command
            return [Line("✓", found, mend)]
        if not data.pairs:
            return []
        only_test = data.bad_share <= data.max_bad
        why = "nothing to train on" if only_test else f"t2i train would refuse: {share_bad(data)}"
        return [Line("✗", found, why)]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary: the data report with every item, and the estimate."""
        return {**self.data.to_dict(), "estimate": self.estimate}


def check(
    path: Path | str | Sequence[Path | str],
    options: ReadOptions | None = None,
    *,
    min_size: int = 64,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    estimate: Callable[[DataReport], str] | None = None,
) -> CheckReport:
    """Read a data set whole and report on it. Writes nothing but its cache, where one is given.

    Args:
        path: a folder, an archive or a metadata file, or several, which are read as one set.
        options: how to read it.
        min_size: px; pictures whose long side is under it are counted in a warning.
        cache: folder of the cache, where what was seen of a large set's files is kept.
        progress: called with (done, total) pictures now and then; total 0 while files are looked for.
        estimate: how long training would take, in words; asked only for data that can be trained on.

    Raises:
        DataError: there is nothing at the path, or it may not be read.
    """
    data = scan(path, options, min_size=min_size, cache=cache, progress=progress)
    return CheckReport(data, estimate(data) if estimate and data.usable else "")


def write_preview(
    report: CheckReport, path: Path, options: ReadOptions, resolution: int = 64
) -> None:
    """Write a sheet of pictures as the model will see them, with their captions.

    Args:
        report: of `check`.
        path: of the PNG; it must not exist.
        options: as `check` had them.
        resolution: px, the side of a picture.

    Raises:
        DataError: there is no picture to show.
        OutputError: it exists, or cannot be written.
    """
    refuse_existing(path)
    pixels, captions = preview(report.data, resolution, options)
    if not len(pixels):
        raise DataError(f"{report.data.path}: no picture to show in {path}")
    sheet = images.grid(pixels, captions)
    told = json.dumps({"kind": "preview", "data": Path(report.data.path).name})
    write_atomic(path, images.encode(sheet, text={"t2i": told}), overwrite=False)


def refuse_existing(path: Path) -> None:
    """Refuse to write a preview over a file.

    Raises:
        OutputError: there is one.
    """
    if path.is_file():
        raise OutputError(f"{path}: exists", "give --preview another name")
