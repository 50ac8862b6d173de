"""Finished runs -> the files that ship: `python examples/icons/release.py RUN [MORE...] DATA [--name icons]`.

Of several runs that go on from the same weights, or of one run's weights at several moments, the mean is taken: it is
often better than each (Wortsman et al. 2022). They have to share their encoder, since references are latents of it.

Writes weights/NAME.safetensors (the networks in bf16 and the references, with title, licence and credits in its
metadata), the skeleton of its graphs, so that nobody waits for them, and docs/pictures/grid.png: captions that nobody
chose, taken at equal steps from the held-out pictures, each drawn once with seed 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2i_cli import checkpoint, data, images, load
from t2i_cli.data import splits
from t2i_cli.runtime import graphs

PROMPTS = 64
LICENCE = "Apache-2.0"
DESCRIPTION = (
    "Text-to-image model of small drawings on a transparent background, trained from nothing on icons64. It holds "
    "compressed training pictures, from which it draws (drawings under MIT, Apache-2.0, CC0, public domain, CC BY 3.0 "
    "and CC BY 4.0; "
    "every source is credited in weights/README.md)."
)


def main() -> None:
    """Write the weights and the grid."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders or weights files")
    parser.add_argument("data", type=Path)
    parser.add_argument("--name", default="icons")
    asked = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    models = [checkpoint.load_model(checkpoint.resolve_model(run)) for run in asked.runs]
    loaded = models[0]
    target = root / "weights" / f"{asked.name}.safetensors"
    checkpoint.save_model(
        target,
        mean(models),
        loaded.config,
        loaded.tokenizer,
        references=loaded.references,
        words=loaded.words,
        title=asked.name,
        license=LICENCE,
        description=DESCRIPTION,
        tags=("text-to-image", "latent-flow", "icons", "rgba"),
        extra={key: value for key, value in loaded.info.metadata.items() if key in KEPT}
        | {"t2i.splits": json.dumps(splits_of(models))},
    )
    print(target)
    print(graphs.ship(target))
    pictures = data.load(asked.data, loaded.config.resolution)
    _, held_out = pictures.split()
    rows = held_out[np.linspace(0, len(held_out) - 1, PROMPTS).astype(int)]
    prompts = [pictures.captions[row][0] for row in rows]
    drawn = load(target).sample_many(prompts, [0] * len(prompts))
    grid = root / "docs" / "pictures" / "grid.png"
    sheet = images.grid(np.stack([np.asarray(picture) for picture in drawn]), prompts, columns=8)
    checkpoint.write_atomic(grid, images.encode(sheet))
    print(grid)


def splits_of(models: list[checkpoint.LoadedModel]) -> list[dict[str, object]]:
    """What all of the models were trained on, so that the mean is measured on nothing that any of them saw."""
    found = [record for model in models for record in splits.read_records(model.info.metadata)]
    return [record for k, record in enumerate(found) if record not in found[:k]]


def mean(models: list[checkpoint.LoadedModel]) -> dict[str, dict[str, Tensor]]:
    """The mean weights of models of one config, by network."""
    if any(model.config != models[0].config for model in models):
        sys.exit("these models are not of one config")
    parts = [dict(model.networks.named_children()) for model in models]
    first = parts[0]["encoder"].state_dict()
    for part in parts[1:]:
        if any(
            not torch.equal(value, first[k]) for k, value in part["encoder"].state_dict().items()
        ):
            sys.exit(
                "these models have different encoders: their references and latents do not fit together"
            )
    return {
        name: {
            key: torch.stack([part[name].state_dict()[key] for part in parts]).mean(0)
            if value.is_floating_point()
            else value
            for key, value in network.state_dict().items()
        }
        for name, network in parts[0].items()
    }


KEPT = (
    "t2i.stage",
    "t2i.step",
    "t2i.steps",
    "t2i.images",
    "t2i.seconds",
    "t2i.data",
    "t2i.train_config",
    "t2i.reconstruction_l1",
)

if __name__ == "__main__":
    main()
