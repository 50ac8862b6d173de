"""More than a picture: contact sheets, animations between two prompts, near relatives of a picture, previews."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from t2i_cli import libraries
from t2i_cli.noise import noise_for
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

    The style goes along the great circle between the two. The text that the picture attends to changes over piece by
    piece; first and last frame are the two prompts' own pictures.

    Args:
        model: draws them.
        first: the first frame.
        prompt: of the last frame.
        frames: 2 or more.
    """
    config = model.runtime.config
    a, b = model.encode(first.prompt, first), model.encode(prompt, first)
    last = replace(first, prompt=prompt)
    style_a, style_b = model._style(first, a), model._style(last, b)
    noise = noise_for(first.seed, config.image_channels, config.resolution) * np.float32(
        first.truncation
    )
    length = max(len(a.text_embeds), len(b.text_embeds))
    embeds_a, embeds_b = (_stretched(text.text_embeds, length) for text in (a, b))
    out: list[np.ndarray] = []
    for frame in range(frames):
        share = frame / (frames - 1)
        share = share * share * (3 - 2 * share)  # ease in and out
        if share in (0.0, 1.0):
            text, style = (a, style_a) if share == 0.0 else (b, style_b)
        else:
            between = ((1 - share) * embeds_a + share * embeds_b).astype(np.float32)
            text = replace(a, text_embeds=between)
            style = _between(style_a, style_b, share)
        image = model.runtime.draw(noise[None], [text], style[None])[0]
        out.append(finished(image, first.scale, first.background, opaque=model.runtime.opaque))
    return out


def _stretched(values: np.ndarray, length: int) -> np.ndarray:
    """Rows (t, d) -> (length, d), length >= t: the last row, the text's end, repeated."""
    return np.concatenate([values, np.repeat(values[-1:], length - len(values), axis=0)])


def _between(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Spherical interpolation (Shoemake 1985), lengths interpolated in a line."""
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    cosine = float(np.clip(a @ b / max(length_a * length_b, 1e-12), -1, 1))
    angle = math.acos(cosine)
    if angle < 1e-4:
        return ((1 - share) * a + share * b).astype(np.float32)
    direction = (
        math.sin((1 - share) * angle) * a / length_a + math.sin(share * angle) * b / length_b
    ) / math.sin(angle)
    return (direction * ((1 - share) * length_a + share * length_b)).astype(np.float32)


def vary(
    model: Model,
    pixels: np.ndarray,
    wishes: Sequence[Wish],
    *,
    strength: float = 0.3,
    steps: int = 150,
    progress: Callable[[int, int], None] | None = None,
) -> list[Picture]:
    """Near relatives of a picture: invert G by gradient descent on its noise, then move the noise a little.

    Args:
        model: draws them.
        pixels: the picture, uint8 (h, w, 3 or 4), of any size.
        wishes: prompt, seed and settings of each relative; the first one's prompt guides the inversion.
        strength: how far to go, 0 (as near as the inversion came) to 1 (another seed altogether).
        steps: of gradient descent.
        progress: called with steps done and to do.
    """
    with libraries.Compiler():
        import torch

    from t2i_cli import images
    from t2i_cli.pixels import to_images
    from t2i_cli.runtime import TorchRuntime

    runtime = model.runtime
    torch_side = runtime if isinstance(runtime, TorchRuntime) else TorchRuntime(model.path, "cpu")
    config = runtime.config
    fitted = images.fit(pixels, config.resolution)
    if config.image_channels == 3:
        fitted = images.flatten(fitted)
    target = to_images(torch.from_numpy(np.ascontiguousarray(fitted))[None]).to(torch_side.device)
    text = model.encode(wishes[0].prompt, wishes[0])
    embeds, style = (
        torch.from_numpy(text.text_embeds)[None],
        torch.from_numpy(model._style(wishes[0], text))[None],
    )
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
    embeds, style, mask = (value.to(torch_side.device) for value in (embeds, style, mask))
    start = noise_for(wishes[0].seed, config.image_channels, config.resolution)
    noise = torch.from_numpy(start)[None].to(torch_side.device).requires_grad_(True)
    level = torch.ones(1, device=torch_side.device)
    optimizer = torch.optim.Adam([noise], lr=0.05)
    best, best_loss = start, math.inf
    for step in range(steps):
        optimizer.zero_grad()
        image = torch_side.loaded.networks.generator(noise, level, embeds, mask, style)
        error = (image - target).square().mean()
        # keep the noise standard normal: its mean square is 1 where G was trained
        loss = error + 0.01 * (noise.square().mean() - 1).square()
        loss.backward()
        if error.item() < best_loss:
            best_loss, best = error.item(), noise.detach()[0].cpu().numpy().copy()
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
    out: list[Picture] = []
    angle = min(max(strength, 0.0), 1.0) * math.pi / 2
    for wish in wishes:
        other = noise_for(wish.seed, config.image_channels, config.resolution)
        moved = (math.cos(angle) * best + math.sin(angle) * other).astype(np.float32) * np.float32(
            wish.truncation
        )
        said = model.encode(wish.prompt, wish)
        image = runtime.draw(moved[None], [said], model._style(wish, said)[None])[0]
        picture = model._finish(wish, image, said, 0)
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
