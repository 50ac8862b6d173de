"""Do the metrics tell good pictures from bad ones? `python -m benchmarks.good_from_bad DATA`.

Makes folders of pictures that are good or bad in a known way, measures them with `t2i_cli.evaluate`
as any folder of another tool, and prints a table for docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t2i_cli import data
from t2i_cli.evaluate import EvalSettings, evaluate
from t2i_cli.evaluation.calibration import blur
from t2i_cli.evaluation.scores import SCORES
from t2i_cli.images import encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=900)
    parser.add_argument("--features", default="own")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="good-from-bad-"))
    try:
        cases = make(asked.data, asked.n, folder)
        settings = EvalSettings(
            tuple(str(folder / name) for name in cases),
            asked.data,
            count=asked.n,
            features=asked.features,
        )
        found = evaluate(settings)
    finally:
        shutil.rmtree(folder)
    print(f"{found.count} pictures against {found.reference}; {found.features_note}\n")
    names = list(SCORES)
    print("| pictures | " + " | ".join(SCORES[name].label for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    labels = [*(name.replace("-", " ") for name in cases), "(column real)", "(column chance)"]
    for label, subject in zip(labels, found.subjects, strict=True):
        cells = [
            f"{subject.scores[name].value:.3f}" if name in subject.scores else "" for name in names
        ]
        print(f"| {label} | " + " | ".join(cells) + " |")
    print(f"\n{found.seconds:.0f} s")


def make(source: Path, count: int, folder: Path) -> list[str]:
    images = data.load(source, 64)
    train, held_out = images.split_to_measure(0.02, 0)
    order = np.random.RandomState(0).permutation(held_out)  # as evaluate draws its reference
    other = order[count : 2 * count]
    draw = np.random.RandomState(1)
    names: list[str] = []

    def write(
        name: str,
        rows: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels,
        captions: np.ndarray | None = None,
    ) -> None:
        names.append(name)
        (folder / name).mkdir()
        for i, row in enumerate(rows):
            stem = folder / name / f"{i:05}"
            stem.with_suffix(".png").write_bytes(encode(change(images.pixels[row])))
            of = row if captions is None else captions[i]
            stem.with_suffix(".txt").write_text(images.captions[of][0], encoding="utf-8")

    write("real", other)
    write("real-blurred-a-little", other, lambda pixels: blur(pixels[None], 1.0)[0])
    write("real-blurred", other, lambda pixels: blur(pixels[None], 2.5)[0])
    write("real-with-noise", other, lambda pixels: noise(pixels, 40, draw))
    write("noise-alone", other, lambda pixels: noise(pixels, 1e4, draw))
    write("grey", other, grey)
    write("one-picture", np.repeat(other[:1], len(other)), captions=other)
    write("captions-shuffled", other, captions=draw.permutation(other))
    write("training-pictures-copied", draw.permutation(train)[: len(other)])
    return names


def noise(pixels: np.ndarray, sigma: float, draw: np.random.RandomState) -> np.ndarray:
    noisy = pixels + draw.standard_normal(pixels.shape) * sigma
    if sigma <= 255:
        noisy[..., 3] = pixels[..., 3]
    return np.clip(noisy, 0, 255).astype(np.uint8)


def grey(pixels: np.ndarray) -> np.ndarray:
    level = pixels[..., :3].mean(-1, keepdims=True).round().astype(np.uint8)
    return np.concatenate([level, level, level, pixels[..., 3:]], axis=-1)


if __name__ == "__main__":
    main()
