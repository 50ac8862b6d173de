"""What a model of each size holds and what it costs: `python -m benchmarks.sizes`. The tables of docs/model.md.

Parameters in millions and floating-point operations (as torch counts them) in billions, of fresh networks: of one
evaluation of the generator, of encoder and decoder, and of a picture at the sampler's defaults with three references.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from t2i_cli import models
from t2i_cli.config import PRESETS, model_config
from t2i_cli.references import COUNT
from t2i_cli.solver import DEFAULT_STEPS, GUIDED_ABOVE, levels


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of a call, in billions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops() / 1e9


def evaluations(steps: int = DEFAULT_STEPS) -> int:
    """Evaluations of the generator for a picture with guidance.

    >>> evaluations(8)
    15
    """
    return sum(1 + (level > GUIDED_ABOVE) for level in levels(steps)[:-1])


def row(size: str, resolution: int) -> str:
    """One line of a table."""
    config = model_config(size, resolution)
    networks = models.build(config).eval().requires_grad_(False)
    generator, n, c = networks.generator, config.cells, config.latent_channels
    images, latents = torch.zeros(1, 4, resolution, resolution), torch.zeros(1, c, n, n)
    references = torch.zeros(1, COUNT, c, n, n)
    kinds = torch.zeros(1, COUNT, 0, dtype=torch.long)
    condition = generator.null_condition(kinds[:, 0])
    read = generator.read(references, kinds)
    encoder = operations(lambda: networks.encoder(images))
    decoder = operations(lambda: networks.decoder(latents))
    reading = operations(lambda: generator.read(references, kinds))
    step = operations(lambda: generator(latents, torch.ones(1), condition, read))
    millions = {name: count / 1e6 for name, count in networks.parameter_count().items()}
    told = "  ".join(f"{name} {count:.1f}" for name, count in millions.items())
    picture = evaluations() * step + reading + decoder
    return (
        f"{size:6} {resolution:4} px  {told}  all {sum(millions.values()):.1f} M   GFLOP: encoder {encoder:.2f}  "
        f"decoder {decoder:.2f}  evaluation {step:.2f}  picture {picture:.1f}   "
        f"reference {c * n * n + config.text.dim + 4} bytes"
    )


def main() -> None:
    """Print a line for each size at 64 px, and for size small at the larger resolutions."""
    for size in PRESETS:
        print(row(size, 64), flush=True)
    for resolution in (128, 256):
        print(row("small", resolution), flush=True)


if __name__ == "__main__":
    main()
