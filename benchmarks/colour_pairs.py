"""Colours of things that were never drawn in them: `python -m benchmarks.colour_pairs MODEL DATA [--sheet out.png]`.

Of the training captions that give a thing one colour ("a red cat"), every other colour of `augment.COLOURS` that no
caption of the data gives to that thing makes a pair that occurs nowhere ("a teal cat"); some of them, drawn by lot
with a fixed seed, are prompts. Each picture's own colour is judged by `colours.hue_name`, as in `t2i eval`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np

from t2i_cli import checkpoint, data, images, load
from t2i_cli.evaluation import colours
from t2i_cli.training.augmentation import COLOURS, colour_of, with_colour

LONGEST = 4  # words of a caption: "a red fire truck"


def unseen(captions: list[str], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts and their colours: pairs of a colour and a thing that no caption holds together.

    >>> unseen(["a red cat", "a blue cat", "a dog"], 2)[0][0].endswith(" cat")
    True
    """
    given: dict[str, set[str]] = {}
    for caption in captions:
        for colour in COLOURS:
            if colour in caption.lower().split():
                given.setdefault(thing_of(caption.lower(), colour), set()).add(colour)
    plain = sorted(
        {
            c.lower()
            for c in captions
            if colour_of(c) and c.startswith("a") and not re.search(r",|\band\b", c)
        }
    )
    pairs: set[tuple[str, str]] = set()
    for caption in plain:
        colour = colour_of(caption)
        if colour is None or len(caption.split()) > LONGEST or caption.split()[1] != colour:
            continue
        for other in set(COLOURS) - given[thing_of(caption, colour)]:
            pairs.add((with_colour(caption, other), other))
    return random.Random(seed).sample(sorted(pairs), min(count, len(pairs)))


def thing_of(caption: str, colour: str) -> str:
    """What a caption is about, without its colour: "a red cat" -> "cat"."""
    return re.sub(rf"\b(an? )?{colour} ", "", caption)


def main() -> None:
    """Print one JSON object, and draw the first pictures on a sheet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    model = load(asked.model)
    pictures = data.load(asked.data, model.resolution)
    prompts = unseen([text for texts in pictures.captions for text in texts], asked.count)
    drawn = np.stack(
        [
            np.asarray(made)
            for made in model.sample_many([p for p, _ in prompts], [0] * len(prompts))
        ]
    )
    own = [colours.hue_name(picture) for picture in drawn]
    right = {
        colour: [
            found == colour
            for found, (_, wanted) in zip(own, prompts, strict=True)
            if wanted == colour
        ]
        for colour in COLOURS
    }
    hits = np.array([found == wanted for found, (_, wanted) in zip(own, prompts, strict=True)])
    print(
        json.dumps(
            {
                "pairs": len(prompts),
                "right": round(float(hits.mean()), 3),
                "by_colour": {c: round(float(np.mean(r)), 3) for c, r in right.items() if r},
            }
        )
    )
    if asked.sheet:
        sheet = images.grid(drawn[:48], [prompt for prompt, _ in prompts[:48]], columns=8)
        checkpoint.write_atomic(asked.sheet, images.encode(sheet))


if __name__ == "__main__":
    main()
