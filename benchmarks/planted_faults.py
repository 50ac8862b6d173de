"""Does the doctor name what is wrong? `python -m benchmarks.planted_faults DATA [--steps 1000] [FAULT...]`.

Begins runs of 32 px on part of DATA, healthy ones and one for each planted fault, and prints which signs tripped and
how much of the run had gone since the stage with the fault began. A run is left an eighth of it later.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from t2i_cli import data
from t2i_cli.config import TrainConfig
from t2i_cli.images import encode
from t2i_cli.models import Discriminator
from t2i_cli.train import TrainSettings, train
from t2i_cli.training.events import Report

FAULTS = {  # fault -> stage in which it acts
    "healthy-contrastive": "contrastive",
    "healthy-adversarial": "adversarial",
    "lr-30-times": "contrastive",
    "no-gamma": "adversarial",
    "captions-shuffled": "contrastive",
    "50-pictures": "contrastive",
    "blind-to-text": "adversarial",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--logs", type=Path, help="keep the logs here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="planted-") as place:
        for fault in asked.faults or FAULTS:
            log = run(fault, asked.data, Path(place), asked.steps, asked.pictures)
            if asked.logs:
                asked.logs.mkdir(parents=True, exist_ok=True)
                (asked.logs / f"{fault}.jsonl").write_bytes(log.read_bytes())
            print(fault, *(tell(log, FAULTS[fault]) or ["nothing"]), sep="\n    ", flush=True)


def run(fault: str, source: Path, place: Path, steps: int, pictures: int) -> Path:
    """Train with a fault; the run's log."""
    folder, out = place / f"data-{fault}", place / f"run-{fault}"
    copy(source, folder, 50 if fault == "50-pictures" else pictures, fault == "captions-shuffled")
    stage = FAULTS[fault]
    early = (
        0.15 if stage == "contrastive" else 0.05
    )  # the usual share, or no more than is needed to get further
    config = TrainConfig(
        resolution=32, time=0.0, steps=steps, contrastive=early, flow=early, adversarial=1 - 2 * early, batch_size=32,
        contrastive_batch_size=128, report_every=1.0, sample_every=15.0, save_every=1e6,
        lr=30.0 if fault == "lr-30-times" else 1.0, gamma=1e-9 if fault == "no-gamma" else 0.0,
    )  # fmt: skip
    logits = Discriminator.logits

    def blind(self: Discriminator, features: Tensor, text_features: Tensor) -> Tensor:
        return logits(
            self, features, torch.ones_like(text_features) / text_features.shape[1] ** 0.5
        )

    with mock.patch.object(Discriminator, "logits", blind if fault == "blind-to-text" else logits):
        begun = None
        for event in train(TrainSettings(data=folder, out=out, config=config, device="cpu")):
            row = event.row if isinstance(event, Report) else {}
            if row.get("stage") == stage:
                begun = row["progress"] if begun is None else begun
                if row["progress"] - begun > 0.125:
                    break
    return out / "log.jsonl"


def copy(source: Path, folder: Path, count: int, shuffled: bool) -> None:
    """Some pictures of the train split, as files with captions beside them."""
    images = data.load(source, 64)
    rows = np.random.RandomState(0).permutation(images.split(0.02, 0)[0])[:count]
    captions = np.random.RandomState(1).permutation(rows) if shuffled else rows
    folder.mkdir()
    for i, (row, of) in enumerate(zip(rows, captions, strict=True)):
        (folder / f"{i:05}.png").write_bytes(encode(images.pixels[row]))
        (folder / f"{i:05}.txt").write_text("\n".join(images.captions[of]), encoding="utf-8")


def tell(log: Path, stage: str) -> list[str]:
    """The signs in a log, and when they came."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    begins = next((row["progress"] for row in rows if row.get("stage") == stage), 0.0)
    return [
        f"{sign['signal']} in the {row['stage']} stage, at {row['progress']:.1%} of the run "
        f"({row['progress'] - begins:+.1%} after the stage began)"
        for row in rows
        for sign in row.get("advice", [])
    ]


if __name__ == "__main__":
    main()
