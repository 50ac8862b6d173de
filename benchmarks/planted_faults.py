"""Does the doctor name what is wrong? `python -m benchmarks.planted_faults DATA [--seeds 1 2] [RUN...]`.

Trains at 32 px on part of DATA, with nothing wrong or with a planted fault, and prints which signs tripped after what
share of the whole run. A run with a fault is left after its first eighth, a healthy one goes to its end. Faults of the
discriminator are planted in runs of the founding form (`--objective gan`) whose other stages are 3% of the run, so that
a tenth of the run holds some of that stage; `healthy-gan` is the same run without a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from t2i_cli import data
from t2i_cli.config import TrainConfig, learning_rates
from t2i_cli.images import encode
from t2i_cli.models import Discriminator
from t2i_cli.train import TrainSettings, train
from t2i_cli.training.events import Report

# of contrastive, autoencoder, flow and gan
FLOW, GAN = (0.15, 0.25, 0.6, 0.0), (0.02, 0.01, 0.0, 0.97)
RUNS = {  # what is planted -> shares of the stages
    "healthy": FLOW,
    "healthy-gan": GAN,
    "lr-30-times": FLOW,
    "lr-30-times-gan": GAN,
    "no-gamma": GAN,
    "captions-shuffled": FLOW,
    "50-pictures": FLOW,
    "blind-to-text": GAN,
}
UNTIL = 0.125  # share of a run after which one with a fault is left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--until", type=float, help="leave every run after this share of it")
    parser.add_argument("--logs", type=Path, help="keep the logs here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="planted-") as place:
        os.environ["T2I_CACHE"] = f"{place}/cache"
        for name in asked.runs or RUNS:
            for seed in asked.seeds:
                began = time.process_time()
                until = asked.until or (1.0 if name.startswith("healthy") else UNTIL)
                log = run(name, asked.data, Path(place), seed, asked.steps, asked.pictures, until)
                if asked.logs:
                    asked.logs.mkdir(parents=True, exist_ok=True)
                    (asked.logs / f"{name}-{seed}.jsonl").write_bytes(log.read_bytes())
                told = "; ".join(tell(log)) or "nothing"
                cpu = time.process_time() - began
                print(f"| {name} | {seed} | {told} | {cpu:.0f} s |", flush=True)


def run(
    name: str, source: Path, place: Path, seed: int, steps: int, pictures: int, until: float
) -> Path:
    """Train with what is planted, up to a share of the run; the run's log."""
    out = place / f"{name}-{seed}"
    folder = copy(
        source, place, seed, 50 if name == "50-pictures" else pictures, name == "captions-shuffled"
    )
    contrastive, autoencoder, flow, gan = RUNS[name]
    usual = TrainConfig.flow_lr
    config = TrainConfig(
        resolution=32, time=0.0, steps=steps, objective="gan" if gan else "flow",
        contrastive=contrastive, autoencoder=autoencoder, flow=flow, gan=gan,
        batch_size=16, contrastive_batch_size=64, save_every=1e6, seed=seed,
        **learning_rates((30 if name.startswith("lr-30-times") else 1) * usual),
        gamma=1e-9 if name == "no-gamma" else 0.0,
    )  # fmt: skip
    logits = Discriminator.logits

    def blind(self: Discriminator, features: Tensor, text_features: Tensor) -> Tensor:
        return logits(
            self, features, torch.ones_like(text_features) / text_features.shape[1] ** 0.5
        )

    with mock.patch.object(Discriminator, "logits", blind if name == "blind-to-text" else logits):
        for event in train(TrainSettings(data=folder, out=out, config=config, device="cpu")):
            if isinstance(event, Report) and event.row["progress"] > until:
                break
    return out / "log.jsonl"


def copy(source: Path, place: Path, seed: int, count: int, shuffled: bool) -> Path:
    """Some pictures of the train split, as files with captions beside them; others for each seed."""
    folder = place / f"data-{seed}-{count}-{shuffled}"
    if folder.exists():
        return folder
    images = data.load(source, 64)
    draw = np.random.RandomState(seed)
    rows = draw.permutation(images.split(0.02, 0)[0])[:count]
    captions = draw.permutation(rows) if shuffled else rows
    folder.mkdir()
    for i, (row, of) in enumerate(zip(rows, captions, strict=True)):
        (folder / f"{i:05}.png").write_bytes(encode(images.pixels[row]))
        (folder / f"{i:05}.txt").write_text("\n".join(images.captions[of]), encoding="utf-8")
    return folder


def tell(log: Path) -> list[str]:
    """The signs in a log, and after what share of the run each came."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return [
        f"{sign['signal']} ({row['stage']}) {row['progress']:.1%}"
        for row in rows
        for sign in row.get("advice", [])
    ]


if __name__ == "__main__":
    main()
