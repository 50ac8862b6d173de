"""What reading costs: decode once, open again, and a batch against a training step's compute.

    python benchmarks/data_loading.py [DATA] [--resolution 64] [--batch-size 64]

The step is a stand-in that is cheaper than any real one: forward and backward, in bf16, of the 3x3 convolutions of the
tiny preset's trunk alone (no attention, no text, no optimizer). A batch is read as training reads it: the indices of a
step, then those pictures from the memory-mapped cache as one uint8 array. Goal: under 3% of the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from t2i_cli import data

ICONS = Path(__file__).parent.parent / "examples" / "icons"


def seconds(work: Callable[[int], object], repeats: int) -> float:
    """The median time of one call."""
    times: list[float] = []
    for index in range(repeats):
        start = time.perf_counter()
        work(index)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def trunk() -> torch.nn.Sequential:
    def stage(channels: int) -> list[torch.nn.Module]:
        return [
            layer
            for _ in range(8)
            for layer in (torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.SiLU())
        ]

    down = torch.nn.Conv2d(96, 128, 3, stride=2, padding=1)
    return torch.nn.Sequential(*stage(96), down, *stage(128)).to(
        torch.bfloat16, memory_format=torch.channels_last
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, default=ICONS)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        data.load(options.data, options.resolution, cache=cache)
        cold = time.perf_counter() - start
        start = time.perf_counter()
        images = data.load(options.data, options.resolution, cache=cache)
        warm = time.perf_counter() - start

        def read(step: int) -> object:
            return images.pixels[data.batch_indices(len(images), options.batch_size, 0, step)]

        network = trunk()
        features = torch.randn(options.batch_size, 96, 16, 16).to(
            torch.bfloat16, memory_format=torch.channels_last
        )

        def compute(_: int) -> object:
            return network(features).float().square().mean().backward()

        read_s = seconds(read, 200)
        compute(0)
        step_s = seconds(compute, 5)
    row = {
        "pictures": options.data.name,
        "load_cold_s": round(cold, 2),
        "load_warm_s": round(warm, 3),
        "batch_size": options.batch_size,
        "read_batch_ms": round(1000 * read_s, 3),
        "step_ms": round(1000 * step_s, 1),
        "read_share": round(read_s / step_s, 5),
    }
    print(json.dumps(row))
    assert read_s < 0.03 * step_s, f"reading a batch costs {read_s / step_s:.1%} of a step"


if __name__ == "__main__":
    main()
