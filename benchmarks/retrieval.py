"""How well a model's own encoders match held-out pictures and captions: `python -m benchmarks.retrieval MODEL DATA`.

For each held-out split: how often a picture's own caption is the nearest of 100 (chance: 0.01; captions that are
the same text are not wrong).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from t2i_cli import checkpoint, data
from t2i_cli.evaluation import metrics
from t2i_cli.models import encode
from t2i_cli.pixels import to_images
from t2i_cli.tokenizer import Tokenizer


@torch.no_grad()
def main() -> None:
    """Print one JSON object a split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    asked = parser.parse_args()
    loaded = checkpoint.load_model(checkpoint.resolve_model(asked.model))
    networks, tokenizer = loaded.networks.eval(), Tokenizer(loaded.tokenizer)
    pictures = data.load(asked.data, loaded.config.resolution, image_channels=4)
    _, held_out = pictures.split()
    for split in sorted({pictures.splits[row] for row in held_out}):
        rows = np.array([row for row in held_out if pictures.splits[row] == split])
        captions = [pictures.captions[row][0] for row in rows]
        image_features, text_features = [], []
        for start in range(0, len(rows), 100):
            part = slice(start, start + 100)
            pixels = torch.from_numpy(np.ascontiguousarray(pictures.pixels[rows[part]]))
            image_features.append(networks.image_encoder(to_images(pixels)))
            tokens, mask = tokenizer.batch(captions[part], loaded.config.text.context_length)
            text = encode(networks.text_encoder, torch.from_numpy(tokens), torch.from_numpy(mask))
            text_features.append(text.text_features)
        found = metrics.retrieval_at_k(
            torch.cat(image_features), torch.cat(text_features), captions
        )
        print(
            json.dumps(
                {"split": split or "held out", "pictures": len(rows), "retrieval": round(found, 3)}
            )
        )


if __name__ == "__main__":
    main()
