"""How much of the hardware a training step uses, on one CPU thread: `python -m benchmarks.training_step`.

The floor is the rate of bf16 3x3 convolutions, forward and backward, channels-last, at the model's own
widths and grids and at the batch size, measured in turn with the steps in one process (medians of process CPU time).
Widths are those of the generator and of the decoder. The contrastive stage takes twice the batch and the autoencoder
half of it, as by default; the autoencoder's step is one of its later part, with the patch discriminator. The flow's
latents are made up. A share is the step's floating point operations, as torch counts them, over its time and over
that rate. Peak memory is that of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from t2i_cli.config import ModelConfig, TrainConfig, model_config
from t2i_cli.folders import cache_folder
from t2i_cli.models import build
from t2i_cli.models.layers import Conv
from t2i_cli.tokenizer import train_tokenizer
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import STAGES, Material


class Noise:
    """Random pictures: the time of a step does not depend on what they show."""

    def __init__(self, config: ModelConfig, count: int) -> None:
        random = np.random.default_rng(0)
        side = config.resolution
        self.pixels = random.integers(0, 256, (count, side, side, 4), dtype=np.uint8)
        self.captions = [[f"a picture of thing number {row}"] for row in range(count)]
        self.meta = [dict[str, str]() for _ in range(count)]


def material_of(size: str, resolution: int, batch_size: int) -> Material:
    """Fresh networks in bf16, and batches for them."""
    tokenizer = train_tokenizer((f"a picture of thing number {row}" for row in range(4096)), 4096)
    model = model_config(size, resolution, vocab_size=tokenizer.vocab_size)
    pictures = Noise(model, 4 * batch_size)
    networks = build(model)
    networks.set_trunk_dtype(torch.bfloat16)
    cpu = torch.device("cpu")
    batches = Batches(
        pictures,
        np.arange(4 * batch_size),
        tokenizer,
        context_length=64,
        seed=0,
        device=cpu,
    )
    config = TrainConfig(
        batch_size=batch_size,
        contrastive_batch_size=2 * batch_size,
        autoencoder_batch_size=max(batch_size // 2, 1),
    )
    return Material(config, networks, batches, "", cpu, cache_folder())


def convolution(width: int, grid: int, batch_size: int) -> tuple[Callable[[], None], float]:
    """A 3x3 convolution, forward and backward, and its floating point operations."""
    conv = Conv(width, width)
    x = (
        torch.randn(batch_size, width, grid, grid)
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    weight = (
        torch.randn(batch_size, width, grid, grid)
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
    )
    return lambda: conv(x).backward(weight), 3 * 2 * 9 * width * width * grid * grid * batch_size


def seconds(work: Callable[[], object]) -> float:
    """Process CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--memory", action="store_true", help="only the peak memory of one step of each stage"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    material = material_of(asked.size, asked.resolution, asked.batch_size)
    steps: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    for name, kind in STAGES.items():
        stage = kind(material)
        rehearsal = stage.rehearse()
        sizes[name] = stage.batch_size
        steps[name] = lambda rehearsal=rehearsal: rehearsal(0)
        steps[name]()
    if asked.memory:
        print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
        return
    flops: dict[str, float] = {}
    for stage, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[stage] = counter.get_total_flops()
    config = material.networks.config
    grids = [(width, config.cells >> level) for level, width in enumerate(config.channels)]
    grids += [(width, config.cells << level) for level, width in enumerate(config.decoder_channels)]
    floors = {
        f"conv3x3 {width} at {grid} cells": convolution(width, grid, asked.batch_size)
        for width, grid in grids
    }
    times: dict[str, list[float]] = {name: [] for name in (*steps, *floors)}
    for _ in range(asked.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
        for name, (work, _) in floors.items():
            times[name].append(statistics.median(seconds(work) for _ in range(5)))
    rates = {name: work[1] / statistics.median(times[name]) / 1e9 for name, work in floors.items()}
    floor = statistics.harmonic_mean(list(rates.values()))
    memory = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_step", "--memory", "--size", asked.size, "--batch-size", "16",
         "--resolution", str(asked.resolution)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = {
        "size": asked.size,
        "resolution": asked.resolution,
        "batch_size": asked.batch_size,
        "floor_gflops": {
            **{name: round(rate) for name, rate in rates.items()},
            "harmonic mean": round(floor),
        },
        "stages": {
            stage: {
                "images_per_second": round(sizes[stage] / statistics.median(times[stage]), 1),
                "gflop_per_image": round(flops[stage] / sizes[stage] / 1e9, 2),
                "gflops": round(flops[stage] / statistics.median(times[stage]) / 1e9),
                "share_of_floor": round(
                    flops[stage] / statistics.median(times[stage]) / 1e9 / floor, 3
                ),
            }
            for stage in steps
        },
        "peak_mb_at_batch_16": json.loads(memory.stdout)["peak_mb"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
