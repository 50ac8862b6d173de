"""What is measured, what each figure is called, and the conditions that a script may set on one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from t2i_cli.errors import ThresholdError, UsageError
from t2i_cli.evaluation.metrics import Estimate
from t2i_cli.wording import plain

__all__ = [
    "METRICS",
    "READ",
    "SCORES",
    "Condition",
    "Score",
    "chosen_scores",
    "hold",
    "parse_condition",
]


@dataclass(frozen=True)
class Score:
    """What a figure is called and which way is good."""

    label: str
    better: Literal["lower", "higher", "as real"]
    metric: str  # the name of --metrics that it belongs to
    meaning: str


SCORES: dict[str, Score] = {
    "recognised_5": Score(
        "recognised@5", "higher", "recognised", "an ImageNet classifier has its thing among 5"
    ),
    "kid": Score("KID", "lower", "kid", "distance to real pictures, by --features; 0: none"),
    "kid_lite0": Score(
        "KID, ImageNet", "lower", "kid", "the same by features of EfficientNet-Lite0"
    ),
    "fd": Score("FD", "lower", "fd", "Frechet distance, by --features; falls with the count"),
    "fd_lite0": Score("FD, ImageNet", "lower", "fd", "the same by features of EfficientNet-Lite0"),
    "precision": Score("precision", "higher", "prdc", "share of pictures that look real"),
    "recall": Score("recall", "higher", "prdc", "share of real pictures that could be made"),
    "density": Score("density", "higher", "prdc", "how deep pictures lie among real ones"),
    "coverage": Score("coverage", "higher", "prdc", "share of real pictures with one beside them"),
    "retrieval": Score("R@1 of 100", "higher", "text", "its own caption is the best of 100"),
    "retrieval_5": Score("R@5 of 100", "higher", "text", "its own caption is among the best 5"),
    "similarity": Score("similarity", "higher", "text", "cosine of a picture and its caption"),
    "diversity": Score(
        "diversity", "as real", "diversity", "distance between pictures of a prompt"
    ),
    "nearest": Score("nearest", "as real", "memory", "distance to training pictures; 0: copies"),
    "copies": Score("copies", "as real", "memory", "share nearer to one than 99% of real ones"),
    "colour": Score("colour", "higher", "colour", "the colour that the caption names"),
}
# metrics that need captions
READ = frozenset(("text", "diversity", "colour", "recognised"))
METRICS = tuple(sorted(dict.fromkeys(score.metric for score in SCORES.values())))


@dataclass(frozen=True)
class Condition:
    """A condition of --fail-if, such as kid>0.05."""

    score: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a figure meets it; a figure that could not be measured does."""
        if math.isnan(value):
            return True
        above, equal = value > self.limit, value == self.limit
        return (
            (above or (equal and "=" in self.sign))
            if self.sign[0] == ">"
            else not above and (not equal or "=" in self.sign)
        )


def parse_condition(text: str) -> Condition:
    """A condition out of a text.

    Raises:
        UsageError: it is none, or names no score.

    >>> parse_condition("kid > 0.05")
    Condition(score='kid', sign='>', limit=0.05)
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*", text)
    try:
        if match and match[1] in SCORES:
            return Condition(match[1], match[2], float(match[3]))
    except ValueError:
        pass
    raise UsageError(
        f"--fail-if {text}: not a condition",
        "for example 'kid>0.05'; scores: " + ", ".join(SCORES),
    )


def hold(figures: Mapping[str, Mapping[str, Estimate]], conditions: Sequence[Condition]) -> None:
    """Raise ThresholdError where a subject, name -> its scores, meets a condition."""
    met = [
        f"{name}: {condition.score} is {plain(round(value, 6))}, "
        f"{condition.sign} {plain(condition.limit)}"
        for condition in conditions
        for name, scores in figures.items()
        if condition.holds(value := scores.get(condition.score, Estimate(math.nan)).value)
    ]
    if met:
        raise ThresholdError("; ".join(met))


def chosen_scores(names: str | None) -> tuple[str, ...]:
    """The scores that --metrics names, by metric or by score, in their order; None: all.

    Raises:
        UsageError: a name is not known.
    """
    if names is None:
        return tuple(SCORES)
    asked = {name.strip() for name in names.split(",") if name.strip()}
    unknown = sorted(asked - {*METRICS, *SCORES})
    if unknown or not asked:
        raise UsageError(f"--metrics {names}: no such metric", "use " + ", ".join(METRICS))
    return tuple(name for name, score in SCORES.items() if {name, score.metric} & asked)
