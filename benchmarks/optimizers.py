"""Muon against AdamW, step by step: `python -m benchmarks.optimizers DATA MODEL [--stage distill]`.

Both arms begin from the same weights and see the same batches and noise. `flow`: the encoders of MODEL and a fresh
generator; how far the averaged generator's denoised pictures are from held-out ones, at four noise levels.
`distill`: MODEL, weights that a flow stage ended with; how far one step is from what the flow draws of held-out
captions and other noise in many guided steps, by pixels and as the image encoder sees it. One thread, process CPU
time; one JSON object a row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2i_cli import checkpoint, data
from t2i_cli.config import TrainConfig
from t2i_cli.models import build, many_steps, one_step
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.training.batches import Batch, Batches
from t2i_cli.training.losses import perceptual_loss
from t2i_cli.training.stages import Learner

LEVELS = (0.3, 0.6, 0.8, 1.0)
LOOKS = 5  # rows of each arm


def main() -> None:
    """Run both arms and print their rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--stage", choices=("flow", "distill"), default="flow")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=256, help="pictures of the measure")
    parser.add_argument("--adamw", type=float, default=1.2e-3, help="learning rate of that arm")
    parser.add_argument("--pairs", type=int, default=768, help="to distill from")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for arm in ("adamw", "muon"):
        learner, batches, held_out = learner_of(arm, asked)
        learner.begin(asked.stage)
        off = denoising(learner, held_out) if asked.stage == "flow" else drawing(learner, held_out)
        start, aside = time.process_time(), 0.0
        for step in range(asked.steps):
            batch = batches.get(asked.stage, step, asked.batch_size)
            learner.step(asked.stage, batch, step, step / asked.steps)
            if (step + 1) % max(1, asked.steps // LOOKS) == 0:
                now = time.process_time()
                row = {"arm": arm, "steps": step + 1, "cpu_s": round(now - start - aside), **off()}
                aside += time.process_time() - now
                print(json.dumps(row), flush=True)


def learner_of(arm: str, asked: argparse.Namespace) -> tuple[Learner, Batches, Batch]:
    """A learner that begins where the arm shall, batches of the training split, and one batch of the held-out one."""
    start = checkpoint.load_model(checkpoint.resolve_model(asked.model))
    config = start.config
    torch.manual_seed(0)
    networks = build(config, discriminator=True)
    for name, network in start.networks.named_children():
        if name != "generator" or asked.stage == "distill":
            getattr(networks, name).load_state_dict(network.state_dict())
    networks.set_trunk_dtype(torch.bfloat16)
    networks.text_encoder.requires_grad_(requires_grad=False)
    networks.image_encoder.requires_grad_(requires_grad=False)
    pictures = data.load(asked.data, config.resolution)
    learned, others = pictures.split()
    options: dict[str, Any] = {
        "context_length": config.text.context_length,
        "seed": 0,
        "device": torch.device("cpu"),
    }
    tokenizer = Tokenizer(start.tokenizer)
    held_out = Batches(pictures, others, tokenizer, **options)
    batches = Batches(
        pictures,
        learned,
        tokenizer,
        recolour=0.5,
        mirror=0.5,
        slips=0.1,
        **options,
    )
    train = TrainConfig(batch_size=asked.batch_size, distill_pairs=asked.pairs)
    if arm == "adamw":
        train = dataclasses.replace(train, flow_lr=asked.adamw)
    learner = Learner(networks, train, batches.tokens([""]))
    if arm == "adamw":
        learner.optimizers[asked.stage] = torch.optim.AdamW(
            networks.generator.parameters(),
            lr=train.flow_lr,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
    learner.start_average()
    return learner, batches, held_out.get("measure", 0, asked.held_out)


def denoising(learner: Learner, held_out: Batch) -> Callable[[], dict[str, float]]:
    """A function that says how far the averaged generator's denoised pictures are off, by noise level."""
    noise = torch.randn(held_out.images.shape, generator=torch.Generator().manual_seed(7))
    text = learner.encode(held_out.tokens, held_out.mask)

    @torch.no_grad()
    def off() -> dict[str, float]:
        net, rows = learner.average, len(noise)
        style = net.style(text.text_features)
        found: dict[str, float] = {}
        for s in LEVELS:
            noisy = (1 - s) * held_out.images + s * noise
            clean = net(noisy, torch.full((rows,), s), text.text_embeds, text.mask, style)
            found[f"error_at_{s:g}"] = round(float((clean - held_out.images).square().mean()), 5)
        return found

    return off


def drawing(learner: Learner, held_out: Batch) -> Callable[[], dict[str, float]]:
    """A function that says how far the averaged generator's one step is from the flow's many."""
    noise = torch.randn(held_out.images.shape, generator=torch.Generator().manual_seed(7))
    text, config = learner.encode(held_out.tokens, held_out.mask), learner.config
    assert learner.anchor is not None
    with torch.no_grad():
        null = learner.null(len(noise))
        wanted: Tensor = many_steps(
            learner.anchor, noise, text, null, config.distill_steps, config.distill_guidance
        ).clamp(-1, 1)

    @torch.no_grad()
    def off() -> dict[str, float]:
        drawn = one_step(learner.average, noise, text)
        maps = learner.networks.image_encoder.feature_maps
        return {
            "squared_error": round(float((drawn - wanted).square().mean()), 5),
            "perceptual": round(float(perceptual_loss(maps(drawn), maps(wanted))), 5),
        }

    return off


if __name__ == "__main__":
    main()
