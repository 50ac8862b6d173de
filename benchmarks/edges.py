"""How even fills are and how firm outlines: `python -m benchmarks.edges MODEL... DATA`, beside real pictures.

Of one picture a held-out caption: the share of neighbouring pixels in a picture's body that are alike (less than 3 of
256 apart in every channel), the share of pixels that are neither transparent nor solid, and dots: the power at the
frequencies that repeat every `fold` pixels, along the two axes, over that at their neighbours. With `--steps N` the
pictures are those of the models' many-step samplers. `--sheet` draws some prompts, a row a model, and real pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from t2i_cli import checkpoint, evaluate, images
from t2i_cli.pixels import FAINT

ALIKE = 3  # of 256
COLUMNS = 16  # of the sheet


def main() -> None:
    """Print a JSON object a subject."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=0, help="of the flow; 0: in one step")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    told = evaluate.evaluate(
        evaluate.EvalSettings(
            tuple(asked.models),
            asked.data,
            scores=("similarity",),
            count=asked.count,
            steps=asked.steps,
            guidance=asked.guidance,
        )
    )
    drawn = [subject for subject in told.subjects if subject.kind in ("model", "real")]
    if asked.steps:  # each model is there twice: in one step, and then in many
        drawn = [*drawn[1:-1:2], drawn[-1]]
    fold = checkpoint.read_info(checkpoint.resolve_model(asked.models[0])).config.fold
    for subject in drawn:
        figures = measured(subject.pictures, fold)
        print(json.dumps({"name": subject.name, **{k: round(v, 3) for k, v in figures.items()}}))
    if asked.sheet:
        rows = np.linspace(0, len(drawn[0].pictures) - 1, COLUMNS).astype(int)
        cells = np.concatenate([subject.pictures[rows] for subject in drawn])
        labels = [subject.captions[row] for subject in drawn for row in rows]
        sheet = images.grid(cells, labels, columns=COLUMNS)
        checkpoint.write_atomic(asked.sheet, images.encode(sheet))


def measured(pixels: np.ndarray, fold: int) -> dict[str, float]:
    """The figures of pictures, uint8 (n, h, w, 3 or 4)."""
    values = pixels.astype(np.float32)
    alpha = values[..., 3] if values.shape[-1] == 4 else np.full(values.shape[:3], 255.0)
    shown = np.concatenate([values[..., :3] * alpha[..., None] / 255, alpha[..., None]], axis=-1)
    faint = round(255 * FAINT)
    body = alpha >= 255 - faint
    alike, pairs = 0, 0
    for x, solid in ((shown, body), (shown.swapaxes(1, 2), body.swapaxes(1, 2))):
        both = solid[:, 1:] & solid[:, :-1]
        apart = np.abs(np.diff(x, axis=1)).max(-1)
        alike, pairs = alike + int((apart[both] < ALIKE).sum()), pairs + int(both.sum())
    power = (np.abs(np.fft.fft2(shown, axes=(1, 2))) ** 2).mean((0, 3))
    along = power[:, 0] + power[0, :]
    at = len(along) // fold
    return {
        "alike neighbours": alike / max(pairs, 1),
        "neither transparent nor solid": float(((alpha > faint) & ~body).mean()),
        "dots": float(along[at] / np.mean([along[at - 1], along[at + 1]])),
    }


if __name__ == "__main__":
    main()
