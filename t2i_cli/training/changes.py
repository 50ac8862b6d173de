"""What differs between a run's start and its resume, in words: its settings, its budget, its pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from t2i_cli.config import RATES
from t2i_cli.wording import number_of, plain

__all__ = [
    "BUDGET",
    "Pictures",
    "budget_change",
    "pictures_change",
    "refusal",
    "remembered",
    "rows",
]

BUDGET = ("time", "steps")  # settings that make a run longer or shorter
# settings that have an option of their own
_FLAGS = frozenset(
    (
        *("size", "resolution", "text_encoder", "batch_size", "lr", "seed", "val", "precision"),
        *("init", "objective", "attributes", "tokenizer", "prompts", "device"),
    )
)
_OF_OPTIONS = {"teacher": "--text-encoder", "defaults": "--default"}  # facts -> what they come from
_FILES = {  # known by a checksum, which says nothing to a person
    "init": "the weights that it starts from",
    "tokenizer": "the tokenizer",
    "teacher": "the language model that teaches it",
}

# SHA-256 of a picture's file -> its name, and which side it was on: train, val or test
Pictures = dict[str, tuple[str, str]]


def rows(
    names: Sequence[str], hashes: Sequence[str], train: Sequence[int], held_out: Sequence[int]
) -> list[list[str]]:
    """The pictures of a run for its ``data.json``: name, SHA-256, side.

    Args:
        names: of all pictures.
        hashes: of all pictures.
        train: indices of those that are trained on.
        held_out: indices of those that are held out.
    """
    sides = ["test"] * len(names)
    for row in train:
        sides[row] = "train"
    for row in held_out:
        sides[row] = "val"
    return [list(row) for row in zip(names, hashes, sides, strict=True)]


def remembered(path: Path) -> tuple[Pictures, bool, list[str]]:
    """What a run's ``data.json`` says of its pictures.

    The pictures, whether their sides were kept through a change, and the SHA-256 of those that were trained on and are
    not any more.

    Nothing where there is no such file, or one of a version that did not list them.
    """
    try:
        told = json.loads(path.read_bytes())
        listed = cast("list[tuple[str, str, str]]", told["pictures"])
        found: Pictures = {}
        for name, sha256, side in listed:
            # of two files with one content, one that was trained on tells
            if found.get(sha256, ("", ""))[1] != "train":
                found[sha256] = (name, side)
        return found, bool(told.get("kept_sides")), list(map(str, told.get("once_trained", [])))
    except (OSError, ValueError, KeyError, TypeError):
        return {}, False, []


def pictures_change(before: Pictures, names: Sequence[str], hashes: Sequence[str]) -> str:
    """What became of a run's pictures since it was started.

    >>> before = {"h1": ("a.png", "train"), "h2": ("b.png", "val")}
    >>> pictures_change(before, ["a.png", "b.png", "c.png"], ["h1", "h3", "h4"])
    '1 picture was added, 1 picture is another one now'
    >>> pictures_change(before, ["a.png", "b.png"], ["h1", "h2"])
    'the pictures are the same, their captions or the way they are read are not'
    """
    was = {name: sha256 for sha256, (name, _) in before.items()}
    now = dict(zip(names, hashes, strict=True))
    changed = sum(name in was and was[name] != sha256 for name, sha256 in now.items())
    added = sum(name not in was and sha256 not in before for name, sha256 in now.items())
    here = set(hashes)
    gone = sum(sha256 not in here and name not in now for name, sha256 in was.items())
    told = [
        number_of(count, f"picture {one}", f"pictures {many}")
        for count, one, many in (
            (added, "was added", "were added"),
            (gone, "was removed", "were removed"),
            (changed, "is another one now", "are other ones now"),
        )
        if count
    ]
    return ", ".join(told) or (
        "the pictures are the same, their captions or the way they are read are not"
    )


def budget_change(changed: Mapping[str, tuple[Any, Any]], seconds: float, steps: int) -> str:
    """That a run goes on for longer, or that nothing is left to do.

    Args:
        changed: the settings of `BUDGET` that differ, each with what it was and is.
        seconds: that the run has trained so far.
        steps: that it has made so far.
    """
    _, steps_now = changed.get("steps", (0, 0))
    _, time_now = changed.get("time", (0, 0))
    if steps_now:
        left, asked = steps_now - steps, number_of(int(steps_now), "step")
        more = number_of(int(left), "step")
    else:
        left, asked, more = time_now - seconds, _span(time_now), _span(max(time_now - seconds, 0))
    if left <= 0:
        return f"the run is asked for {asked} in all now, and has had them: nothing is left to do"
    return f"the run is asked for {asked} in all now: it goes on for {more} more"


def refusal(changed: Mapping[str, tuple[Any, Any]]) -> tuple[str, str]:
    """Why a run cannot go on, and what to type.

    >>> refusal({"lr": (1.0, 2.0), "gamma": (0.0, 0.5)})
    ('--lr was 1 and is 2 now; --set gamma was 0 and is 0.5 now', 'leave out --lr and --set gamma, or give another -o')
    >>> refusal({"init": ("a8f...", None)})[0]
    'the weights that it starts from were given and are not now'
    >>> refusal({"defaults": ("", "style=bold")})
    ('--default was none and is style=bold now', 'leave out --default, or give another -o')
    """
    told: list[str] = []
    flags: list[str] = []
    changed = _with_lr(changed)
    for key, (was, now) in changed.items():
        flag = "--" + key.replace("_", "-") if key in _FLAGS else f"--set {key}"
        flag = _OF_OPTIONS.get(key, flag)
        if key in _FILES:
            told.append(_of_file(_FILES[key], was, now))
        else:
            told.append(f"{flag} was {_value(was)} and is {_value(now)} now")
        flags.append(flag)
    given_again = [
        flag
        for flag, (key, (was, now)) in zip(flags, changed.items(), strict=True)
        if key in _FILES and was is not None and now is None
    ]
    others = [flag for flag in flags if flag not in given_again]
    mends = []
    if given_again:
        mends.append(f"give {' and '.join(given_again)} again")
    if others:
        mends.append(f"leave out {' and '.join(others)}")
    return "; ".join(told), f"{' and '.join(mends)}, or give another -o"


def _with_lr(changed: Mapping[str, tuple[Any, Any]]) -> Mapping[str, tuple[Any, Any]]:
    """Learning rates that changed together, as `--lr` changes them, are told as it."""
    factors = [now / was for was, now in (changed.get(key, (0, 0)) for key in RATES) if was]
    if len(factors) < len(RATES) or not math.isclose(min(factors), max(factors)):
        return changed
    others = {key: values for key, values in changed.items() if key not in RATES}
    return {"lr": changed["flow_lr"], **others}


def _of_file(what: str, was: object, now: object) -> str:
    verb = "were" if what.startswith("the weights") else "was"
    if was is None:
        return f"{what} {verb} not given and {'are' if verb == 'were' else 'is'} now"
    if now is None:
        return f"{what} {verb} given and {'are' if verb == 'were' else 'is'} not now"
    return f"{what} {'are others' if verb == 'were' else 'is another one'} now"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return plain(value)
    return "not given" if value is None else str(value) or "none"


def _span(seconds: float) -> str:
    """A span of time in words.

    >>> _span(90), _span(7200), _span(5400)
    ('90 s', '2 h', '1 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] if hours else []
    return " ".join(parts + ([f"{minutes} min"] if minutes or not hours else []))
