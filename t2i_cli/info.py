"""`t2i info`: what a weights file, a run folder or a picture made by t2i says about itself.

Enters: a path, or the name of a shipped model. Leaves: an `InfoReport` of plain data. No tensor is kept and no torch
imported; the bytes of a weights file are read once, to be compared with their SHA-256.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from t2i_cli import checkpoint, images, metadata
from t2i_cli.errors import DataError, InputError, WeightsError, visible
from t2i_cli.solver import DEFAULT_GUIDANCE
from t2i_cli.wording import number_of

__all__ = ["InfoReport", "Stage", "info", "sparkline"]

MAX_POINTS = 120  # of a curve; more are averaged in groups
MAX_LINE = 1_000_000  # bytes; a longer line of a log is no row of ours
# how files of pictures begin; read as the length of a weights file's header, each is far beyond its bound
_PICTURES = (b"\x89PNG", b"RIFF", b"\xff\xd8\xff", b"GIF8")
_RUN_FILES = ("config.toml", "log.jsonl", "state", "model.safetensors")
_SEEDS = ("seed", "picked", "first")  # numbers that are typed again, so without commas
_BARS = "▁▂▃▄▅▆▇█"
_NOT_CURVES = frozenset(
    {
        "step",
        "progress",
        "stage_progress",
        "images",
        "seconds",
        "eta_s",
        "skipped",
        "memory_mb",
        "retrieval_chance",
    }
)


@dataclass(frozen=True)
class Stage:
    """How far one stage of a run has come."""

    name: str
    progress: float  # 0 to 1
    rows: int  # of the log


@dataclass(frozen=True)
class InfoReport:
    """What a file or folder says about itself; every text in it may come from a stranger."""

    kind: Literal["weights", "run", "picture"]
    path: Path
    facts: dict[str, Any]  # what to show, in order: label -> text, number or a list of texts
    details: dict[str, Any] = field(default_factory=dict[str, Any])  # the rest, for --json
    stages: tuple[Stage, ...] = ()  # of a run
    curves: dict[str, tuple[float, ...]] = field(
        default_factory=dict[str, tuple[float, ...]]
    )  # of a run's log
    verdict: tuple[str, ...] = ()  # of a run: one plain sentence each, the state of the run first

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of every fact, safe for a terminal; empty facts left out."""
        told: list[tuple[str, str]] = []
        for label, value in self.facts.items():
            if isinstance(value, list | tuple):
                value = ", ".join(map(str, cast("Sequence[object]", value)))
            if value not in (None, ""):
                shown = str(value) if label in _SEEDS else _figure(value)
                told.append((visible(label, 60), visible(shown, 2000)))
        return told

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; numbers that are not finite are null."""
        data: dict[str, Any] = {
            "kind": self.kind,
            "path": str(self.path),
            **self.facts,
            **self.details,
        }
        if self.kind == "run":
            data["stages"] = [dataclasses.asdict(stage) for stage in self.stages]
            data["curves"] = self.curves
            data["verdict"] = self.verdict
        return cast("dict[str, Any]", _plain(data))


def info(path: Path | str | None = None) -> InfoReport:
    """What a weights file, a run folder or a picture says about itself.

    Args:
        path: any of these, or the name of a shipped model; None is the default model.

    Raises:
        WeightsError: no such thing, or a weights file that is cut or changed.
        DataError: a picture that cannot be read.
        InputError: a folder that is no run.
    """
    place = Path(path) if path is not None else None
    try:
        if place is not None and place.is_dir():
            return _run(place)
        if place is not None and place.is_file():
            with place.open("rb") as file:
                if file.read(12).startswith(_PICTURES):
                    return _picture(place)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    return _weights(checkpoint.resolve_model(path))


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve as one line of block characters, the lowest value lowest; gaps where a value is not finite.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7])
    '▁▂▃▄▅▆▇█'
    >>> sparkline([3.0, 3.0])
    '▁▁'
    """
    points = _thinned(values, width)
    known = [value for value in points if math.isfinite(value)]
    if not known:
        return " " * len(points)
    low, span = min(known), max(known) - min(known)
    scale = (len(_BARS) - 1) / span if span > 0 else 0.0
    return "".join(
        _BARS[min(round((value - low) * scale), len(_BARS) - 1)] if math.isfinite(value) else " "
        for value in points
    )


# -- a weights file -------------------------------------------------------------------------------


def _weights(path: Path) -> InfoReport:
    told = checkpoint.read_info(path, verify=True)
    config, meta = told.config, told.metadata
    facts: dict[str, Any] = {
        "title": told.title,
        "description": meta.get("modelspec.description", ""),
        "license": told.license,
        "date": meta.get("modelspec.date", ""),
        "tags": meta.get("modelspec.tags", ""),
        "pictures": f"{config.resolution} x {config.resolution} px, {'RGB' if config.opaque else 'RGBA'}",
        "size": config.size,
        "parameters": sum(told.parameters.values()),
        "networks": [f"{name} {count:,}" for name, count in told.parameters.items()],
        "reads": f"{config.text.vocab_size:,} pieces, {config.text.context_length} tokens a prompt",
        **{
            one.name: [
                value + (" (default)" if value == one.default else "") for value in one.values
            ]
            for one in config.attributes
        },
        "references": _references(told),
        "trained": _trained(meta),
        "stored as": meta.get("t2i.dtype", ""),
        "file": f"{told.size:,} bytes",
        "sha256": told.hash,
        "integrity": "whole: header and tensors are the bytes that were saved",
    }
    details = {
        "resolution": config.resolution,
        "channels": 3 if config.opaque else 4,
        "reference_count": _reference_count(told),
        "bytes": told.size,
        "hash": told.hash,
        "config": config.to_dict(),
        "metadata": {key: value for key, value in meta.items() if key != "t2i.config"},
        "tensors": len(told.tensors),
    }
    return InfoReport("weights", path, facts, details)


def _reference_count(told: checkpoint.WeightsInfo) -> int:
    place = told.tensors.get("references.latents")
    return place.shape[0] if place is not None and place.shape else 0


def _references(told: checkpoint.WeightsInfo) -> str:
    count = _reference_count(told)
    if not count:
        return "none: the file holds no training pictures"
    return (
        f"{count:,} compressed training pictures, which it draws from; "
        "t2i export --no-references leaves them out"
    )


def _trained(meta: Mapping[str, str]) -> str:
    parts: list[str] = []
    if step := meta.get("t2i.step"):
        parts.append(_counted(step, "step"))
    if seen := meta.get("t2i.images"):
        parts.append(_counted(seen, "picture") + " seen")
    if stage := meta.get("t2i.stage"):
        parts.append(f"up to the {stage} stage")
    return ", ".join(parts)


def _counted(number: str, thing: str) -> str:
    return number_of(int(number), thing) if number.isdecimal() else f"{number} {thing}s"


# -- a run folder ---------------------------------------------------------------------------------


def _run(path: Path) -> InfoReport:
    if not any((path / name).exists() for name in _RUN_FILES):
        raise InputError(
            f"{path}: holds no run of t2i train ({', '.join(_RUN_FILES)})",
            "give a run folder, a weights file or a picture",
        )
    config = _toml(path / "config.toml")
    log = _Log(path / "log.jsonl")
    holder = checkpoint.holder_of(path)
    last = log.last
    ended = checkpoint.read_status(path)
    whole = holder is None and _state(last, ended) == "finished"
    facts: dict[str, Any] = {
        "status": _status(last, holder, ended),
        "stage": last.get("stage", ""),
        "step": last.get("step"),
        "progress": _share(1.0 if whole else last.get("progress")),
        "pictures seen": last.get("images"),
        "pictures a second": last.get("images_per_second"),
        "trained for": _clock(last.get("seconds")),
        "left": "" if whole else _clock(last.get("eta_s")),
        "size": config.get("size", ""),
        "resolution": config.get("resolution"),
        "budget": _budget(config),
        "data": _data(path / "data.json"),
        "losses": [f"{name} {_figure(value)}" for name, value in _losses(last).items()],
        "model": _model(path / "model.safetensors"),
        "best": _model(path / "best.safetensors"),
        "last save": _saved(path),
        "samples": _samples(path / "samples"),
        "log": number_of(log.rows, "row")
        + (f", {number_of(log.torn, 'line that is', 'lines that are')} none" if log.torn else ""),
    }
    healthy = "; no sign of trouble in its log" if log.rows > 1 and not log.advice else ""
    verdict = [f"{facts['status']}{healthy}.", *log.advice]
    stages = tuple(
        Stage(name, 1.0 if index < len(log.stages) - 1 else progress, rows)
        for index, (name, (progress, rows)) in enumerate(log.stages.items())
    )
    curves = {
        name: tuple(_thinned(values, MAX_POINTS))
        for name, values in log.curves.items()
        if len(values) > 1
    }
    details = {
        "config": config,
        "last": last,
        "advice": log.advice,
        "held_by": holder,
        "state": "running" if holder is not None else _state(last, ended),
    }
    return InfoReport("run", path, facts, details, stages, curves, tuple(map(visible, verdict)))


class _Log:
    """A run's log, read once from its start, a line at a time; lines that are no rows are counted and passed over."""

    def __init__(self, path: Path) -> None:
        self.rows = self.torn = 0
        self.last: dict[str, Any] = {}
        self.stages: dict[str, tuple[float, int]] = {}  # name -> progress, rows
        self.curves: dict[str, list[float]] = {}
        self.advice: list[str] = []
        try:
            with path.open("rb") as file:
                while line := file.readline(MAX_LINE):
                    self._add(line)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            self.torn += 1
            return
        told = cast("dict[str, Any]", row)
        self.rows += 1
        self.last = told
        stage = str(told.get("stage", ""))
        if stage:
            _, rows = self.stages.get(stage, (0.0, 0))
            self.stages[stage] = (_number(told.get("stage_progress")) or 0.0, rows + 1)
        for name, value in told.items():
            number = _number(value)
            if (
                number is not None
                and name not in _NOT_CURVES
                and (name in self.curves or len(self.curves) < 100)
            ):
                self.curves.setdefault(name, []).append(number)
        advice = told.get("advice")
        for entry in cast("list[object]", advice) if isinstance(advice, list) else [advice]:
            text = (
                cast("dict[str, object]", entry).get("text") if isinstance(entry, dict) else entry
            )
            if isinstance(text, str) and text not in self.advice and len(self.advice) < 100:
                self.advice.append(text)


def _state(last: Mapping[str, Any], ended: Mapping[str, str]) -> str:
    """How a run that nobody trains stands: finished, stopped, killed, failed or not begun."""
    if ended["status"] == "running":
        return "killed"
    if ended["status"]:
        return ended["status"]
    if not last:
        return "not begun"
    return "finished" if (_number(last.get("progress")) or 0.0) >= 1.0 else "stopped"


def _status(last: Mapping[str, Any], holder: str | None, ended: Mapping[str, str]) -> str:
    if holder is not None:
        return f"being trained by {holder}"
    state = _state(last, ended)
    if state == "finished":
        return state
    if state == "not begun":
        return "not begun: its log holds no row"
    at = f"{state} at step {last['step']}" if "step" in last else f"{state} before its first report"
    why = f": {ended['why']}" if state == "failed" and ended["why"] else ""
    return f"{at}{why}; go on with t2i train DATA -o RUN --resume"


def _losses(row: Mapping[str, Any]) -> dict[str, float]:
    named = ("loss", "penalty", "gap", "retrieval", "diversity")
    numbers = {
        name: _number(value) for name, value in row.items() if any(word in name for word in named)
    }
    return {
        name: value
        for name, value in numbers.items()
        if value is not None and name not in _NOT_CURVES
    }


def _model(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        told = checkpoint.read_info(path)
    except WeightsError as error:
        return f"not valid: {str(error).removeprefix(f'{path}: ')}"
    stage, step = told.metadata.get("t2i.stage", ""), told.metadata.get("t2i.step", "")
    return f"{path.name}, step {step or '?'}{f' of the {stage} stage' if stage else ''}, {told.size:,} bytes"


def _saved(path: Path) -> str:
    try:
        step = checkpoint.saved_step(path)
    except WeightsError as error:
        return f"not valid: {str(error).removeprefix(f'{path}: ')}"
    return "" if step is None else f"step {step:,}"


def _samples(folder: Path) -> str:
    grids = sorted(path.name for path in folder.glob("*.png")) if folder.is_dir() else []
    return f"{number_of(len(grids), 'grid')}, the last is {folder / grids[-1]}" if grids else ""


def _data(path: Path) -> str:
    try:
        told = json.loads(path.read_bytes()) if path.stat().st_size < 64 * 2**20 else None
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    data = cast("dict[str, Any]", told)
    parts = [str(data.get("layout", ""))]
    parts += [
        number_of(data[name], name.removesuffix("s"))
        for name in ("pairs", "captions", "words")
        if type(data.get(name)) is int
    ]
    return ", ".join(part for part in parts if part)


def _budget(config: Mapping[str, Any]) -> str:
    steps, seconds = _number(config.get("steps")), _number(config.get("time"))
    if steps:
        return f"{int(steps):,} steps"
    return _clock(seconds) if seconds else ""


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read: {error}", "mend it, or start the run again with -f"
        ) from error


# -- a picture ------------------------------------------------------------------------------------


def _picture(path: Path) -> InfoReport:
    if path.stat().st_size > images.MAX_FILE_BYTES:
        raise DataError(f"{path}: larger than {images.MAX_FILE_BYTES:,} bytes")
    told = images.read_text(path.read_bytes(), name=str(path))
    facts: dict[str, Any] = {"format": told.format, "width": told.width, "height": told.height}
    details: dict[str, Any] = {"generated": metadata.GENERATED in told.xmp, "text": told.text}
    try:
        recipe = metadata.from_text(told.text, str(path))
    except InputError as error:
        facts["made by"] = "t2i, without its recipe" if "t2i" in told.xmp else "not known"
        facts["parameters"] = told.text.get("parameters", "")
        facts["note"] = str(error).removeprefix(f"{path}: ")
        return InfoReport("picture", path, facts, details)
    unset = dataclasses.asdict(metadata.Recipe(recipe.prompt, recipe.seed))
    given = {
        name: value
        for name, value in dataclasses.asdict(recipe).items()
        if name in ("prompt", "seed") or value != unset[name]
    }
    given.pop("format", None)
    details["recipe"] = given
    if recipe.sheet:
        given = given | {"sheet": [_of_sheet(*row) for row in recipe.sheet]}
    facts |= {name.replace("_", " "): value for name, value in given.items()}
    return InfoReport("picture", path, facts, details)


def _of_sheet(
    prompt: str, seed: int, count: int, negative: str, guidance: float, attributes: str
) -> str:
    """A row of a sheet in words."""
    without = f", without {negative}" if negative else ""
    strong = f", guidance {_figure(guidance)}" if guidance != DEFAULT_GUIDANCE else ""
    asked = f", {attributes}" if attributes else ""
    return f"{prompt} ({number_of(count, 'picture')} from seed {seed}{without}{strong}{asked})"


# -- numbers and texts ----------------------------------------------------------------------------


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**15 else str(value)[:40]
    return str(value)


def _share(value: object) -> str:
    number = _number(value)
    return "" if number is None else f"{100 * number:.1f}%"


def _clock(value: object) -> str:
    number = _number(value)
    if number is None or not 0 <= number < 1e10:
        return ""
    minutes, seconds = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` values: the mean of each group, over what is finite in it."""
    if len(values) <= most:
        return list(values)
    out: list[float] = []
    for index in range(most):
        group = values[index * len(values) // most : (index + 1) * len(values) // most]
        known = [value for value in group if math.isfinite(value)]
        out.append(sum(known) / len(known) if known else math.nan)
    return out


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item) for key, item in cast("Mapping[object, object]", value).items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
