"""Make weights/evaluation/encoder.safetensors: `python -m benchmarks.train_eval_encoder DATA [-o FILE]`.

Trains `EvalEncoder` on the train split alone: pictures against captions (InfoNCE, captions that are
the same text are no negatives), and pictures against their style and category where the data names
them. The two classifiers are thrown away. Prints retrieval on each held-out split.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli import data
from t2i_cli.checkpoint.weights import save_tensors
from t2i_cli.data import CaptionedImages
from t2i_cli.evaluation.metrics import retrieval_at_k
from t2i_cli.models.eval_encoder import RESOLUTION, EvalEncoder, hash_words, pictures_to_inputs

SEED = 20_011  # no training run's default
BATCH = 256
LR = 2e-3
SIDES = ("left", "right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("weights/evaluation/encoder.safetensors")
    )
    parser.add_argument("--minutes", type=float, default=25)
    asked = parser.parse_args()
    encoder, figures = fit(data.load(asked.data, RESOLUTION), asked.minutes * 60)
    save(encoder, asked.out, figures)


def save(encoder: EvalEncoder, path: Path, figures: dict[str, str]) -> None:
    tensors = {
        name: value for name, value in encoder.state_dict().items() if value.is_floating_point()
    }
    save_tensors(path, tensors, {"format": "pt", **figures}, dtype=torch.float16)


def fit(images: CaptionedImages, seconds: float) -> tuple[EvalEncoder, dict[str, str]]:
    torch.manual_seed(SEED)
    encoder = EvalEncoder().to(memory_format=torch.channels_last)
    train, _ = images.split(0.05, 0)
    labels = [
        classes([meta.get(key) for meta in images.attributes]) for key in ("style", "category")
    ]
    heads = nn.ModuleList(nn.Linear(encoder.feature_dim, 1 + int(label.max())) for label in labels)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [*encoder.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [*(p for p in parameters if p.ndim < 2), scale], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(SEED)
    started, step, shown = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - started) / seconds) < 1:
        indices = train[data.batch_indices(len(train), BATCH, SEED, step)]
        inputs, captions = batch(images, indices, draw)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * done))
        encoder.train()
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder.features(inputs)
        loss = contrast(
            encoder.image_features(features), encoder.text_features(hash_words(captions)),
            scale.clamp(max=math.log(100)).exp(), captions,
        )  # fmt: skip
        for head, label in zip(heads, labels, strict=True):
            if int(label.max()) > 0:
                wanted = label[torch.from_numpy(indices)]
                loss = loss + 0.3 * F.cross_entropy(head(features), wanted, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if time.monotonic() - shown > 120:
            shown = time.monotonic()
            print(
                f"{done:4.0%}  step {step}  loss {float(loss.detach()):.3f}",
                held_out(encoder, images),
            )
    encoder.eval()
    figures = held_out(encoder, images)
    print("done", step, "steps", figures)
    return encoder, {"t2i.eval.steps": str(step), "t2i.eval.retrieval": str(figures)}


def batch(
    images: CaptionedImages, indices: np.ndarray, draw: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Inputs (b, 4, 64, 64), shifted, scaled and mirrored at random, and one caption of each."""
    pick = torch.randint(1 << 30, (len(indices),), generator=draw).tolist()
    captions = [
        images.captions[i][p % len(images.captions[i])] for i, p in zip(indices, pick, strict=True)
    ]
    inputs = pictures_to_inputs(torch.from_numpy(np.stack([images.pixels[i] for i in indices])))
    opaque = torch.rand(len(indices), generator=draw) < 0.3
    inputs[opaque, 3] = 1.0
    mirror = torch.rand(len(indices), generator=draw) < 0.5
    mirror &= ~torch.tensor([any(s in caption for s in SIDES) for caption in captions])
    zoom = 1 + 0.15 * (2 * torch.rand(len(indices), generator=draw) - 1)
    affine = torch.zeros(len(indices), 2, 3)
    affine[:, 0, 0] = zoom * torch.where(mirror, -1.0, 1.0)
    affine[:, 1, 1] = zoom
    affine[:, :, 2] = (torch.rand(len(indices), 2, generator=draw) - 0.5) * 0.2
    plain = torch.rand(len(indices), generator=draw) < 0.3  # a third as they are: eval sees those
    affine[plain, :, 2] = 0
    affine[plain, 0, 0], affine[plain, 1, 1] = affine[plain, 0, 0].sign(), 1.0
    where = F.affine_grid(affine, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, where, padding_mode="border", align_corners=False), captions


def contrast(images: Tensor, texts: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """Symmetric InfoNCE; pairs with the same text are left out of the denominator."""
    _, place = np.unique(np.array(captions), return_inverse=True)
    place = torch.from_numpy(place)
    same = (place[:, None] == place[None]) & ~torch.eye(len(captions), dtype=torch.bool)
    logits = (scale * images @ texts.T).masked_fill(same, -math.inf)
    target = torch.arange(len(captions))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def classes(values: list[str | None]) -> Tensor:
    """One class a distinct value, int64 (n,)."""
    names = {value: i for i, value in enumerate(sorted({str(value) for value in values}))}
    return torch.tensor([names[str(value)] for value in values])


@torch.no_grad()
def held_out(encoder: EvalEncoder, images: CaptionedImages) -> dict[str, float]:
    """R@1 among 100 on the pictures of each held-out split, by their first caption."""
    encoder.eval()
    _, val = images.split(0.05, 0)
    figures: dict[str, float] = {}
    for name in sorted({images.splits[i] for i in val}):
        chosen = [i for i in val if images.splits[i] == name][:1000]
        inputs = pictures_to_inputs(torch.from_numpy(np.stack([images.pixels[i] for i in chosen])))
        with torch.autocast("cpu", torch.bfloat16):
            features = torch.cat([encoder.features(part) for part in inputs.split(250)])
        captions = [images.captions[i][0] for i in chosen]
        texts = encoder.text_features(hash_words(captions))
        value = retrieval_at_k(encoder.image_features(features), texts, captions)
        figures[name or "val"] = round(value, 4)
    return figures


if __name__ == "__main__":
    main()
