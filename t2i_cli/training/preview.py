"""Looking at a model while it learns: figures on held-out pictures, and a grid of samples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from t2i_cli import checkpoint, images, metadata
from t2i_cli.evaluation import metrics
from t2i_cli.pixels import to_pixels
from t2i_cli.runtime import Row
from t2i_cli.runtime.torch_runtime import TorchRuntime
from t2i_cli.training.events import Event, Sampled
from t2i_cli.training.run import Run

__all__ = ["preview"]

HELD_OUT = 64  # pictures that are looked at while training
STEPS = 6  # of the sampler, each with guidance
KNOWN = 2000  # training pictures that drawn ones are compared with, at most
GRID = 24  # pictures in a sample grid
BATCH = 16


@torch.no_grad()
def preview(run: Run) -> Iterator[Event]:
    """Figures into the next report, and a grid of samples or, of an autoencoder, of pictures beside its own."""
    if not run.first:
        return
    began = time.monotonic()
    at = run.at
    at.previewed = at.step
    networks = run.material.networks
    rows = run.held_out if len(run.held_out) >= 20 else run.learned_from
    rows = rows[np.linspace(0, len(rows) - 1, min(HELD_OUT, len(rows))).astype(int)]
    real = run.material.batches.of(rows)
    text = networks.text_encoder(real.tokens, real.mask).text_features.float().cpu()
    pool = min(100, len(rows))

    def features_of(pictures: Tensor) -> Tensor:
        found = [networks.image_encoder(part) for part in pictures.split(64)]
        return torch.cat(found).float().cpu()

    def retrieval(features: Tensor) -> float:
        return metrics.retrieval_at_k(features, text, real.captions, pool)

    real_features = features_of(real.images)
    at.fresh |= {"retrieval_real": retrieval(real_features), "retrieval_chance": 1 / pool}
    grid: np.ndarray | None = None
    captions = run.prompts
    if at.stage == "contrastive":
        at.fresh["retrieval"] = at.fresh["retrieval_real"]
    elif at.stage == "autoencoder":
        again = run.stage.averages["decoder"](networks.encoder(real.images))
        at.fresh["reconstruction_l1"] = float((again - real.images).abs().mean())
        if math.isfinite(error := at.fresh["reconstruction_l1"]):
            at.reconstruction = f"{error:.4f}"
        half = GRID // 2
        pairs = torch.stack([real.images[:half], again[:half]], dim=1).flatten(0, 1)
        captions = [text for text in real.captions[:half] for _ in range(2)]
        grid = to_pixels(pairs.float().nan_to_num().cpu().numpy())
    else:
        drawn = features_of(_drawn(run, real.captions, range(len(rows))))
        at.fresh["retrieval"] = retrieval(drawn)
        _add_distances(run, drawn, real_features, features_of)
        pictures = _drawn(run, run.prompts, range(len(run.prompts)))
        grid = to_pixels(pictures.float().nan_to_num().cpu().numpy())
    at.figures = dict(at.fresh)
    if grid is not None:
        path = run.out / "samples" / f"{at.step:08}.png"
        sheet = images.grid(grid, captions, columns=8)
        checkpoint.write_atomic(path, images.encode(sheet, xmp=metadata.xmp()))
        yield Sampled(path, at.step)
    run.last_preview = time.monotonic()
    run.preview_seconds = run.last_preview - began


def _add_distances(run: Run, drawn: Tensor, real: Tensor, features_of) -> None:  # noqa: ANN001
    """How near drawn pictures come to training ones, and how much those of one prompt differ."""
    at = run.at
    if run.known is None:  # the image encoder no longer changes
        count = min(KNOWN, len(run.learned_from))
        known = run.learned_from[np.linspace(0, len(run.learned_from) - 1, count).astype(int)]
        parts = np.array_split(known, count // 64 + 1)
        run.known = torch.cat([features_of(run.material.batches.of(part).images) for part in parts])
    held_out = real if len(run.held_out) >= 20 else None
    if len(run.known) > 1:
        nearest = metrics.memorisation(run.known, held_out, drawn).ratio.value
        if math.isfinite(nearest):
            at.fresh["nearest"] = nearest
    some = run.prompts[:4]
    four = _drawn(run, [prompt for prompt in some for _ in range(4)], [0, 1, 2, 3] * len(some))
    features = features_of(four).view(len(some), 4, -1)
    within = torch.stack([torch.pdist(group).mean() for group in features]).mean()
    between = torch.pdist(features[:, 0]).mean() if len(some) > 1 else within
    at.fresh["diversity"] = float(within / between.clamp(min=1e-6))


def _drawn(run: Run, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Pictures of the averaged generator: fp32 (b, 4, r, r)."""
    averaged = run.stage.averages.get("generator")
    networks = run.material.networks
    own = networks.generator
    try:
        if averaged is not None:
            networks.generator = averaged  # pyright: ignore[reportAttributeAccessIssue]
        runtime = TorchRuntime.of_training(
            networks, run.tokenizer, run.words, run.material.references, run.device, BATCH
        )
        steps = 1 if run.at.stage == "gan" else STEPS
        guidance = 1.0 if run.at.stage == "gan" else 2.5
        rows = [
            Row(runtime.encode(prompt), seed, steps=steps, guidance=guidance)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        drawn = np.stack([one.image for one in runtime.draw(rows)])
    finally:
        networks.generator = own
    return torch.from_numpy(drawn).to(run.device)
