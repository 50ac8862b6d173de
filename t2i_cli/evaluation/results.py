"""What was measured: a subject's figures and pictures, and the table of all of them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from t2i_cli.data import CaptionedImages
from t2i_cli.evaluation import calibration, metrics
from t2i_cli.evaluation.colours import colour_accuracy
from t2i_cli.evaluation.metrics import Estimate

__all__ = ["Evaluation", "Subject"]


@dataclass
class Subject:
    """One column of the table: what was measured, its figures, and its pictures."""

    name: str
    kind: Literal["model", "pictures", "real", "chance", "calibration"]
    scores: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    # of each of `pictures`, n of them
    pictures: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    captions: list[str] = field(default_factory=list[str])
    meta: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    hits: Tensor = field(default_factory=lambda: torch.zeros(0))  # chance of R@1, (n,)
    similarity: Tensor = field(default_factory=lambda: torch.zeros(0))  # to its caption, (n,)
    nearest: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # of train
    distance: Tensor = field(default_factory=lambda: torch.zeros(0))  # to it, over the usual one
    log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # of the run

    def breakdown(self, key: str) -> dict[str, dict[str, Estimate]]:
        """R@1, similarity and colour by a field of the data (style, category), most pictures first."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, meta in enumerate(self.meta):
            if isinstance(meta.get(key), str):
                groups[meta[key]].append(row)
        found: dict[str, dict[str, Estimate]] = {}
        for name, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
            found[name] = {
                "retrieval": metrics.mean_estimate(self.hits[rows])
                if len(self.hits)
                else _none(len(rows)),
                "similarity": metrics.mean_estimate(self.similarity[rows])
                if len(self.similarity)
                else _none(len(rows)),
                "colour": colour_accuracy(
                    [self.pictures[row] for row in rows], [self.captions[row] for row in rows]
                ),
            }
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        keys = ("style", "category", "split") if len(self.pictures) else ()
        return {
            "name": self.name,
            "kind": self.kind,
            "scores": {name: _plain(estimate) for name, estimate in self.scores.items()},
            "by": {
                key: {
                    group: {name: _plain(estimate) for name, estimate in row.items()}
                    for group, row in self.breakdown(key).items()
                }
                for key in keys
            },
        }


@dataclass
class Evaluation:
    """The whole table. Subjects come first, then `real`, then `chance`."""

    subjects: list[Subject]
    scores: tuple[str, ...]  # which, in order
    features: str  # name of the encoder
    features_note: str
    text_features: str  # name of the encoder of R@k and similarity
    reference: str  # what the pictures were compared with
    count: int  # pictures of each subject at most
    data: str
    data_digest: str
    images: CaptionedImages
    train: np.ndarray  # rows of the training pictures in ``images``; `Subject.nearest` counts in it
    warnings: tuple[str, ...] = ()  # what may have been seen in training
    calibration: list[Subject] = field(default_factory=list[Subject])  # damaged real pictures
    seconds: float = 0.0

    def measured(self) -> list[Subject]:
        """The models and folders of pictures."""
        return [subject for subject in self.subjects if subject.kind in ("model", "pictures")]

    def real(self) -> Subject:
        """What real pictures reach."""
        return next(subject for subject in self.subjects if subject.kind == "real")

    def tells_apart(self, score: str) -> tuple[str, ...]:
        """Which of the calibration's subjects a score finds worse than real pictures."""
        real = self.real().scores
        if score not in real:
            return ()
        others = {x.name: x.scores[score] for x in self.calibration if score in x.scores}
        return calibration.tells_apart(score, real[score], others)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; figures that are not known are None."""
        found: dict[str, Any] = {
            "data": self.data,
            "data_digest": self.data_digest,
            "reference": self.reference,
            "warnings": list(self.warnings),
            "count": self.count,
            "features": {
                "name": self.features,
                "note": self.features_note,
                "text": self.text_features,
                "lite0": "EfficientNet-Lite0 trained on ImageNet: kid_lite0, fd_lite0, recognised_5",
                "warning": "figures under different features or counts do not compare",
            },
            "subjects": [subject.to_dict() for subject in self.subjects],
            "seconds": round(self.seconds, 3),
        }
        if self.calibration:
            found["calibration"] = [subject.to_dict() for subject in self.calibration]
            found["tells_apart"] = {name: self.tells_apart(name) for name in self.scores}
        return found


def _none(count: int = 0) -> Estimate:
    return Estimate(math.nan, math.nan, count)


def _plain(estimate: Estimate) -> dict[str, Any]:
    def known(number: float) -> float | None:
        return number if math.isfinite(number) else None

    return {
        "value": known(estimate.value),
        "low": known(estimate.low),
        "high": known(estimate.high),
        "count": estimate.count,
    }
