"""Whether pictures are new, and differ from each other: `python -m benchmarks.originality MODEL DATA`.

Distances are those of the evaluation encoder's features, which no training loss saw. For held-out captions: the
distance of each picture to the nearest training picture, over that of held-out real ones; `--sheet` draws the 16
nearest pairs. For some captions, eight pictures each: how often two of them are nearer to each other than
the nearest neighbours of real pictures mostly are (the 5th percentile of these distances), and how often two of eight
training pictures are that have a caption in common.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2i_cli import checkpoint, evaluate, images, load
from t2i_cli.evaluation.features import Encoder, load_encoder

EIGHT = 8


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=50, help="with eight pictures each")
    parser.add_argument("--sheet", type=Path, help="the 16 pairs nearest to each other")
    parser.add_argument(
        "--real", type=int, default=300, help="captions with eight real pictures each"
    )
    asked = parser.parse_args()
    told = evaluate.evaluate(
        evaluate.EvalSettings(
            (asked.model,), asked.data, scores=("nearest", "copies"), count=asked.count
        )
    )
    subject = told.subjects[0]
    order = subject.distance.argsort()[:16].tolist()
    nearest = told.images.pixels[told.train[subject.nearest[order].numpy()]]
    encoder = load_encoder()
    train = encoder.features(told.images.pixels[told.train[:: max(len(told.train) // 2000, 1)]])
    gaps = torch.cdist(train, train).fill_diagonal_(torch.inf).amin(1)
    limit = float(gaps.quantile(0.05))

    model = load(asked.model)
    captions = subject.captions[: asked.prompts]
    drawn = np.stack(
        [
            np.asarray(made)
            for caption in captions
            for made in model.sample_many([caption] * EIGHT, list(range(EIGHT)))
        ]
    )
    apart = closest(encoder, drawn.reshape(-1, EIGHT, *drawn.shape[1:]))
    shared: dict[str, list[int]] = defaultdict(list)
    for row in told.train.tolist():
        for caption in told.images.captions[row]:
            shared[caption].append(row)
    random = np.random.default_rng(0)
    groups = [rows for rows in shared.values() if len(rows) >= EIGHT]
    random.shuffle(groups)
    eights = [random.choice(rows, EIGHT, replace=False) for rows in groups[: asked.real]]
    real_alike = None
    if eights:
        real = np.stack([told.images.pixels[np.sort(rows)] for rows in eights])
        real_alike = round(float((closest(encoder, real) < limit).float().mean()), 3)
    print(
        json.dumps(
            {
                "pictures": len(subject.pictures),
                "nearest, over that of real ones": round(subject.scores["nearest"].value, 3),
                "copies": round(subject.scores["copies"].value, 4),
                "nearest of all": round(float(subject.distance.min()), 3),
                "prompts with two of eight alike": round(float((apart < limit).float().mean()), 3),
                "the same, of real pictures of one caption": real_alike,
                "alike is under": round(limit, 3),
                "closest two of eight, median": round(float(apart.median()), 3),
            }
        )
    )
    if asked.sheet:
        cells = np.stack([subject.pictures[order], nearest], axis=1)
        cells = cells.reshape(-1, *nearest.shape[1:])
        labels = [
            label
            for row in order
            for label in (subject.captions[row], f"training, {float(subject.distance[row]):.2f}")
        ]
        sheet = images.grid(cells, labels, columns=8)
        checkpoint.write_atomic(asked.sheet, images.encode(sheet))


def closest(encoder: Encoder, eights: np.ndarray) -> Tensor:
    """Of groups of pictures, uint8 (n, 8, h, w, c), the distance of the two nearest to each other: (n,)."""
    features = encoder.features(eights.reshape(-1, *eights.shape[2:]))
    return torch.stack(
        [
            torch.cdist(eight, eight).fill_diagonal_(torch.inf).amin()
            for eight in features.view(len(eights), EIGHT, -1)
        ]
    )


if __name__ == "__main__":
    main()
