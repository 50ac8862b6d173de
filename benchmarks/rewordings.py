"""What pictures lose when their prompts say the same in other words: `python -m benchmarks.rewordings MODEL DATA`.

For each rewording of `benchmarks.synonyms`: pictures of held-out captions, and pictures of the same captions
reworded, from the same noise. Of both, how often the caption as it was is the best of 100, by the evaluation
encoder, which no training loss saw. `lands`: how often, by the model's own text encoder, a reworded caption is nearest
to its own of 100 as they were. Unknown words are read as the tool reads them, or with `--literal` by their letters.
With `--sheet`, the first pairs side by side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.synonyms import REWRITES
from t2i_cli import checkpoint, data, images, load
from t2i_cli.evaluation import metrics
from t2i_cli.evaluation.features import load_encoder


@torch.no_grad()
def main() -> None:
    """Print one JSON object a rewording."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=500, help="captions, before rewording")
    parser.add_argument("--split", default="val_style")
    parser.add_argument("--literal", action="store_true", help="unknown words by their letters")
    parser.add_argument("--sheet", type=Path, help="pairs of the synonyms, plain and reworded")
    asked = parser.parse_args()
    model, encoder = load(asked.model), load_encoder()
    assert encoder.to_shared and encoder.text_features
    pictures = data.load(asked.data, model.resolution)
    rows = [row for row, split in enumerate(pictures.splits) if split == asked.split]
    chosen = np.random.default_rng(0).permutation(rows)[: asked.count]
    captions = [pictures.captions[row][0] for row in chosen]
    texts = encoder.text_features(captions)

    def drawn(prompts: list[str], seeds: list[int]) -> np.ndarray:
        made = model.sample_many(prompts, seeds, literal=asked.literal)
        return np.stack([np.asarray(picture) for picture in made])

    def meant(prompts: list[str]) -> torch.Tensor:
        read = prompts if asked.literal else [model.runtime.words.read(text) for text in prompts]
        said = [model.runtime.encode(text) for text in read]
        return torch.from_numpy(np.stack([one.text_features for one in said]))

    plain = drawn(captions, list(range(len(captions))))
    hits = metrics.retrieval_hits(encoder.to_shared(encoder.features(plain)), texts, captions)
    for name, rewrite in REWRITES.items():
        reworded = {at: text for at, text in enumerate(map(rewrite, captions)) if text}
        at = list(reworded)
        made = drawn(list(reworded.values()), at)
        shown = plain.copy()
        shown[at] = made
        found = metrics.retrieval_hits(encoder.to_shared(encoder.features(shown)), texts, captions)
        own = [captions[row] for row in at]
        lands = metrics.retrieval_at_k(meant(list(reworded.values())), meant(own), own)
        was, now = float(hits[at].mean()), float(found[at].mean())
        print(
            json.dumps(
                {
                    "rewording": name,
                    "pictures": len(at),
                    "plain": round(was, 3),
                    "reworded": round(now, 3),
                    "kept": round(now / was, 3) if was else None,
                    "lands": round(lands, 3),
                }
            )
        )
        if asked.sheet and name == "synonyms":
            cells = np.stack([plain[at[:24]], made[:24]], axis=1).reshape(-1, *made.shape[1:])
            labels = [text for k in at[:24] for text in (captions[k], reworded[k])]
            sheet = images.grid(cells, labels, columns=8)
            checkpoint.write_atomic(asked.sheet, images.encode(sheet))


if __name__ == "__main__":
    main()
