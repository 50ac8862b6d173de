"""More than a picture: contact sheets, animations between two prompts, near relatives of a picture, previews."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from t2i_cli.pixels import as_images
from t2i_cli.references import ReferenceStore, quantised_latents
from t2i_cli.sample import Model, Picture, Wish, finished

__all__ = ["contact_sheet", "morph", "preview", "vary"]


def contact_sheet(pictures: Sequence[Picture], columns: int = 0) -> np.ndarray:
    """Pictures with their prompts under them on one sheet -> pixels, uint8 (h, w, 3)."""
    from t2i_cli import images

    pixels = np.stack([picture.pixels for picture in pictures])
    several = len({picture.recipe.prompt for picture in pictures}) > 1
    captions = [
        picture.recipe.prompt
        + (f" #{picture.recipe.picked or picture.recipe.seed}" if not several else "")
        for picture in pictures
    ]
    if not columns:
        columns = _columns([picture.recipe.prompt for picture in pictures])
    return images.grid(pixels, captions, columns)


def _columns(prompts: Sequence[str]) -> int:
    """Columns of a sheet: as many as each prompt has pictures, so that it has a row; else about as many as rows."""
    runs = [len(list(group)) for _, group in itertools.groupby(prompts)]
    if len(runs) > 1 and len(set(runs)) == 1 and 1 < runs[0] <= 32:
        return runs[0]
    return min(8, math.ceil(math.sqrt(len(prompts))))


def morph(model: Model, first: Wish, prompt: str, frames: int) -> list[np.ndarray]:
    """Pictures on the way from a wish to another prompt, same noise -> pixels of each frame, uint8 (h, w, 3 or 4).

    First and last frame are the two prompts' own pictures.

    Args:
        model: draws them.
        first: the first frame.
        prompt: of the last frame.
        frames: 2 or more.
    """
    shares = [frame / (frames - 1) for frame in range(frames)]
    eased = [share * share * (3 - 2 * share) for share in shares]
    last = replace(first, prompt=prompt)
    rows = [model.row(wish, first.seed) for wish in (first, last)]
    opaque = model.runtime.config.opaque
    return [
        finished(image, first.scale, first.background, opaque=opaque)
        for image in model.runtime.between(rows[0], rows[1], eased)
    ]


def vary(
    model: Model, pixels: np.ndarray, wishes: Sequence[Wish], *, strength: float = 0.3
) -> list[Picture]:
    """Near relatives of a picture: noise is put on its latents, and taken off again (Meng et al. 2022, SDEdit).

    The picture is the only reference that is read.

    Args:
        model: draws them.
        pixels: the picture, uint8 (h, w, 3 or 4), of any size.
        wishes: prompt, seed and settings of each relative.
        strength: how far to go: 0 gives the picture back, 1 draws anew.
    """
    from t2i_cli import images

    runtime = model.runtime
    image = as_images(images.fit(pixels, runtime.config.resolution)[None])
    latents = runtime.latents(image)
    kinds = np.array([[len(one.values) for one in runtime.config.attributes]], np.int16)
    store = ReferenceStore(
        quantised_latents(latents),
        np.ones((1, runtime.config.text.dim), np.int8),
        kinds.reshape(1, -1),
        np.zeros(1, np.int32),
    )
    rows = [
        replace(
            model.row(wish, wish.seed),
            store=store,
            start=latents[0],
            strength=min(max(strength, 0.0), 1.0),
        )
        for wish in wishes
    ]
    out: list[Picture] = []
    for wish, row, drawn in zip(wishes, rows, runtime.draw(rows), strict=True):
        picture = model.finish(wish, replace(drawn, references=()), row.text, 0)
        out.append(replace(picture, recipe=replace(picture.recipe, kind="vary")))
    return out


def preview(pixels: np.ndarray) -> str:
    """Pixels, uint8 (h, w, 3 or 4) -> text that draws them in a terminal of 24-bit colours, two rows a line."""
    if pixels.shape[0] > 64:
        step = -(-pixels.shape[0] // 64)
        pixels = pixels[::step, ::step]
    if pixels.shape[0] % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    if pixels.shape[-1] == 3:
        pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
    lines: list[str] = []
    for top, bottom in zip(pixels[::2], pixels[1::2], strict=True):
        cells: list[str] = []
        for (r, g, b, a), (r2, g2, b2, a2) in zip(top.tolist(), bottom.tolist(), strict=True):
            if a >= 128 and a2 >= 128:
                cells.append(f"\x1b[38;2;{r};{g};{b};48;2;{r2};{g2};{b2}m▀")
            elif a >= 128:
                cells.append(f"\x1b[49;38;2;{r};{g};{b}m▀")
            elif a2 >= 128:
                cells.append(f"\x1b[49;38;2;{r2};{g2};{b2}m▄")
            else:
                cells.append("\x1b[49m ")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)
