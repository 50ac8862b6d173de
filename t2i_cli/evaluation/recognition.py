"""Features and what each picture shows -> a linear classifier, and how often it is right: recognised@5.

Multinomial logistic regression on features that no drawing trained. It is fitted to training drawings and asked about
drawn pictures: is what the caption names among the five things that the picture looks most like?
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli.evaluation.colours import COLOUR_WORDS

__all__ = [
    "FEWEST_CLASSES",
    "FEWEST_PICTURES",
    "RECIPE",
    "Recogniser",
    "concept_of",
    "fit_recogniser",
    "known_concepts",
]

FEWEST_PICTURES = 3  # of a concept, or it is left out
FEWEST_CLASSES = 10  # with fewer, five guesses would be right by chance too often
_EPOCHS = 20
_BATCH = 256
_LR = 1e-3
_WEIGHT_DECAY = 0.1
_RADIUS = 30.0  # length of a standardised feature row; sets how sure the classifier can be
RECIPE = f"recogniser {_EPOCHS} {_BATCH} {_LR} {_WEIGHT_DECAY} {_RADIUS}"  # changes with the fit
_ARTICLES = ("a", "an", "the", "some")


def concept_of(caption: str, meta: dict[str, Any]) -> str:
    """What a picture shows: the data's `concept`, else its caption up to a comma, without article and colours.

    >>> concept_of("a red and white cat, flat icon", {}), concept_of("an orange", {})
    ('cat', 'orange')
    >>> concept_of("a kitten", {"concept": "Cat"})
    'cat'
    """
    named = meta.get("concept")
    text = named if isinstance(named, str) and named.strip() else caption.partition(",")[0]
    words = re.findall(r"[^\W_]+", text.lower())
    if text is named:
        return " ".join(words)
    kept = [word for word in words if word not in _ARTICLES]
    coloured = [word in COLOUR_WORDS and i < len(kept) - 1 for i, word in enumerate(kept)]
    joins = [  # "red and white": the word between two colours
        word == "and" and 0 < i < len(kept) - 1 and coloured[i - 1] and coloured[i + 1]
        for i, word in enumerate(kept)
    ]
    return " ".join(
        word for word, *left_out in zip(kept, coloured, joins, strict=True) if not any(left_out)
    )


def known_concepts(concepts: Sequence[str]) -> list[str]:
    """The concepts that have at least `FEWEST_PICTURES` pictures, in alphabetical order."""
    return sorted(
        name for name, count in Counter(concepts).items() if name and count >= FEWEST_PICTURES
    )


@dataclass(frozen=True)
class Recogniser:
    """A linear classifier of concepts."""

    concepts: tuple[str, ...]
    tensors: dict[str, Tensor]  # centre (d,), scale (d,), weight (classes, d), bias (classes,)

    def hits(self, features: Tensor, concepts: Sequence[str], k: int = 5) -> Tensor:
        """1 where a picture's concept is among the best k, else 0; pictures of unknown concepts are left out.

        Args:
            features: (n, d).
            concepts: of the n pictures.
            k: guesses.

        Returns:
            float64 (m,), m at most n.
        """
        place = {name: i for i, name in enumerate(self.concepts)}
        rows = [row for row, name in enumerate(concepts) if name in place]
        right = torch.tensor([place[concepts[row]] for row in rows], dtype=torch.long)
        inputs = _standard(features[rows], self.tensors["centre"], self.tensors["scale"])
        logits = inputs @ self.tensors["weight"].T + self.tensors["bias"]
        best = logits.topk(min(k, len(self.concepts)), dim=1).indices
        return (best == right[:, None]).any(1).double()


def fit_recogniser(features: Tensor, concepts: Sequence[str], seed: int = 0) -> Recogniser:
    """A classifier of the concepts that have several pictures.

    AdamW on the cross-entropy, the learning rate falling to 0; the same seed gives the same classifier.

    Args:
        features: (n, d).
        concepts: of the n pictures.
        seed: of the order in which pictures are seen.

    Raises:
        ValueError: no concept has several pictures.
    """
    known = known_concepts(concepts)
    if not known:
        raise ValueError(f"none of {len(set(concepts))} concepts has {FEWEST_PICTURES} pictures")
    place = {name: i for i, name in enumerate(known)}
    rows = [row for row, name in enumerate(concepts) if name in place]
    classes = torch.tensor([place[concepts[row]] for row in rows])
    chosen = features[rows].float()
    centre, scale = chosen.mean(0), chosen.std(0) + 0.01
    inputs = _standard(chosen, centre, scale)
    weight = torch.zeros(len(known), inputs.shape[1], requires_grad=True)
    bias = torch.zeros(len(known), requires_grad=True)
    groups = [
        {"params": [weight], "weight_decay": _WEIGHT_DECAY},
        {"params": [bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_LR)
    per_epoch = -(-len(inputs) // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _EPOCHS * per_epoch)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(_EPOCHS):
        for some in torch.randperm(len(inputs), generator=draw).split(_BATCH):
            with torch.enable_grad():
                loss = F.cross_entropy(inputs[some] @ weight.T + bias, classes[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    found = {"centre": centre, "scale": scale, "weight": weight.detach(), "bias": bias.detach()}
    return Recogniser(tuple(known), found)


def _standard(features: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return _RADIUS * F.normalize((features.float() - centre) / scale, dim=1)
