"""Changes to pictures that cannot make their captions lie.

Shift, scale, cut-out and mild brightness in front of D (Zhao et al. 2020: the same kind for real and
generated pictures, and G learns through them); never a hue, never a quarter turn. A mirror only where no
caption says left or right. And `recolour`, which turns the hue of a picture *and* the word in its caption.
`slip` changes a caption as people mistype it.
"""

from __future__ import annotations

import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator as Random
from torch import Tensor

from t2i_cli.training.distributed import uniform

__all__ = [
    "COLOURS",
    "UNNAMED",
    "augment",
    "colour_of",
    "mirror",
    "random_background",
    "recolour",
    "sided",
    "slip",
    "uncoloured",
    "with_colour",
]

# colour word -> hue in turns, how far hues may lie from it (deviation), what saturation is multiplied by, and between
# which bounds the coloured parts' mean value is brought: a dark orange is called brown, a dark pink purple
COLOURS: dict[str, tuple[float, float, float, float, float]] = {
    "red": (0.993, 0.015, 1.15, 0.7, 0.95),
    "orange": (0.075, 0.015, 1.1, 0.9, 1.0),
    "yellow": (0.146, 0.018, 1.1, 0.88, 1.0),
    "green": (0.35, 0.05, 1.0, 0.4, 0.9),
    "teal": (0.48, 0.018, 1.0, 0.4, 0.72),
    "blue": (0.59, 0.05, 1.05, 0.45, 1.0),
    "purple": (0.755, 0.03, 1.0, 0.45, 0.95),
    "pink": (0.92, 0.025, 0.7, 0.85, 1.0),
    "brown": (0.07, 0.02, 1.0, 0.35, 0.55),
}
UNNAMED = ""  # of a picture whose caption says no colour
_WORD = re.compile(r"\b(red|orange|yellow|green|teal|blue|purple|pink|brown)\b", re.IGNORECASE)
# greys beside a colour stay as they are; beside none they are the colour
_GREY = re.compile(r"\b(black|white|gr[ae]y|silver)\b", re.IGNORECASE)
_OTHER = re.compile(
    r"\b(beige|gold(?:en)?|cyan|turquoise|violet|colou?r(?:s|ed|ful)?|rainbow|(?:light|medium|dark) skin tone)\b",
    re.IGNORECASE,
)
_NEVER = re.compile(  # a flag is its colours, and people are not to be called by a colour
    r"\b(flags?|people|persons?|(?:wo)?m[ae]n|boys?|girls?|child(?:ren)?|bab(?:y|ies)|couple|family|kiss)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(an?|the) ", re.IGNORECASE)
_SIDED = re.compile(
    r"\b(left|right|clockwise|anticlockwise|counterclockwise|east|west|flag)\b", re.IGNORECASE
)
_RANGE = {  # hue in turns that each word covers, for a picture's own colour: wide, since the caption has named it
    "red": (-0.06, 0.045), "orange": (0.02, 0.13), "yellow": (0.09, 0.2), "green": (0.18, 0.47), "teal": (0.4, 0.55),
    "blue": (0.5, 0.7), "purple": (0.66, 0.88), "pink": (0.82, 1.02), "brown": (0.0, 0.125),
    UNNAMED: (0.0, 1.0),
}  # fmt: skip


def sided(caption: str) -> bool:
    """Whether a caption would lie of the mirrored picture."""
    return _SIDED.search(caption) is not None


def colour_of(caption: str) -> str | None:
    """The one colour word of a caption whose hue can be turned, or None where there is none or more than one."""
    words = _WORD.findall(caption)
    return words[0].lower() if len(words) == 1 and not _OTHER.search(caption) else None


def uncoloured(caption: str) -> bool:
    """Whether a caption says nothing of colour and of nothing that has its own, so that one can be put in."""
    return not any(words.search(caption) for words in (_WORD, _GREY, _OTHER, _NEVER))


def with_colour(caption: str, colour: str) -> str:
    """The caption with its colour word replaced, or with one put in where there is none.

    >>> with_colour("an orange cat face", "red")
    'a red cat face'
    >>> with_colour("a crying cat", "orange")
    'an orange crying cat'
    """
    if _WORD.search(caption):
        text = _WORD.sub(colour, caption, count=1)
    elif _ARTICLE.match(caption):
        text = _ARTICLE.sub(rf"\g<0>{colour} ", caption, count=1)
    else:
        text = f"{colour} {caption}"
    article = "an" if colour[0] in "aeiou" else "a"
    return re.sub(rf"\b[Aa]n? (?={colour}\b)", f"{article} ", text, count=1)


def slip(text: str, random: np.random.Generator) -> str:
    """The text with one slip of the pen: a letter left out, doubled or exchanged with the next, or an s at the end."""
    if len(text) < 4:
        return text
    at = int(random.integers(1, len(text) - 1))
    kinds = (
        text[:at] + text[at + 1 :],
        text[:at] + text[at] + text[at:],
        text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :],
        text + "s",
    )
    return kinds[int(random.integers(len(kinds)))]


def mirror(images: Tensor, rows: Tensor) -> Tensor:
    """Images (b, c, h, w) with some rows, bool (b,), mirrored left to right."""
    return torch.where(rows[:, None, None, None], images.flip(3), images)


def recolour(
    pixels: Tensor, colours: list[str], targets: list[str], shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn pictures of one main hue to another colour.

    Args:
        pixels: uint8 (b, h, w, 3 or 4), straight alpha.
        colours: b colour words, what each picture's caption says, or `UNNAMED`.
        targets: b colour words, what it is to be.
        shift: fp32 (b,), added to the new hue, in turns.

    Returns:
        The pixels turned, and bool (b,): whether the picture has one main hue and it is the one that its caption
        names, or covers more than half of a picture whose caption names none; rows where it is not come back as
        they were.
    """
    device = pixels.device
    colour = pixels[..., :3].float() / 255
    alpha = (
        pixels[..., 3].float() / 255 if pixels.shape[-1] == 4 else torch.ones_like(colour[..., 0])
    )
    value, _ = colour.max(dim=3)
    spread = value - colour.min(dim=3).values
    saturation = spread / value.clamp(min=1e-6)
    r, g, b = colour.unbind(3)
    safe = spread.clamp(min=1e-6)
    hue = (
        torch.where(
            value == r,
            (g - b) / safe,
            torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe),
        )
        / 6
    )  # turns, -1/6 .. 5/6
    weight = saturation * value * alpha * (saturation > 0.2)
    angle = hue * (2 * torch.pi)
    total = weight.sum((1, 2)).clamp(min=1e-6)
    x, y = (weight * angle.cos()).sum((1, 2)) / total, (weight * angle.sin()).sum((1, 2)) / total
    main = torch.atan2(y, x) / (2 * torch.pi) % 1.0
    low, high = (torch.tensor([_RANGE[c][i] for c in colours], device=device) for i in (0, 1))
    named = ((main >= low) & (main <= high)) | ((main - 1 >= low) & (main - 1 <= high))
    coloured = (alpha * (saturation > 0.2)).sum((1, 2)) / alpha.sum((1, 2)).clamp(min=1)
    least = torch.tensor([0.2 if c else 0.5 for c in colours], device=device)
    fits = named & ((x.square() + y.square()).sqrt() > 0.85) & (coloured > least)

    to_hue, to_width, to_saturation, low, high = (
        torch.tensor([COLOURS[c][i] for c in targets], device=device) for i in range(5)
    )
    table = torch.tensor(list(COLOURS.values()), device=device)  # of each word, as above
    of = torch.tensor([list(COLOURS).index(c) if c else -1 for c in colours], device=device)
    nearest = ((main[:, None] - table[:-1, 0] + 0.5) % 1.0 - 0.5).abs().argmin(1)  # all but brown
    mean_value = (weight * value).sum((1, 2)) / total
    brown = (main <= _RANGE["brown"][1]) & (mean_value < 0.65)
    of = torch.where(of < 0, torch.where(brown, len(table) - 1, nearest), of)
    from_saturation = table[of, 2]
    away = (hue - main[:, None, None] + 0.5) % 1.0 - 0.5  # of each pixel's hue from the main one
    width = ((weight * away.square()).sum((1, 2)) / total).sqrt()
    narrow = (to_width / width.clamp(min=1e-6)).clamp(max=1.0)[:, None, None]
    hue = ((to_hue + shift)[:, None, None] + away * narrow) % 1.0
    strong = ((saturation - 0.05) / 0.2).clamp(0, 1)  # greys, whites and blacks keep what they are
    saturation = (
        saturation * (1 + strong * (to_saturation / from_saturation - 1)[:, None, None])
    ).clamp(0, 1)
    brighter = mean_value.clamp(min=low, max=high) / mean_value.clamp(min=1e-6)
    value = (value * (1 + strong * (brighter - 1)[:, None, None])).clamp(0, 1)
    channel = torch.stack(
        [(hue * 6 + n) % 6 for n in (5.0, 3.0, 1.0)], dim=3
    )  # Smith 1978, in closed form
    step = torch.minimum(channel, 4 - channel).clamp(0, 1)
    turned = value[..., None] * (1 - saturation[..., None] * step)
    turned = (turned * 255).round().to(torch.uint8)
    result = pixels.clone()
    result[..., :3] = torch.where(fits[:, None, None, None], turned, pixels[..., :3])
    return result, fits


def random_background(images: Tensor, probability: float, random: Random) -> Tensor:
    """Images (b, 4, h, w) whose colour, with some probability, stands before a random plain background.

    Alpha stays, so D sees both what is there and where. Images without alpha come back as they are.
    """
    if images.shape[1] != 4 or probability <= 0:
        return images
    b = len(images)
    background = uniform(random, b, 3, 1, 1) * 2 - 1
    background *= uniform(random, b, 1, 1, 1) < probability
    colour = images[:, :3] + background * ((1 - images[:, 3:]) / 2)
    return torch.cat([colour, images[:, 3:]], dim=1)


def augment(images: Tensor, probability: float, random: Random) -> Tensor:
    """Shift, scale, cut-out and brightness, each with some probability; gradients flow through.

    Args:
        images: (b, c, h, w) in [-1, 1], premultiplied.
        probability: of each change, for each picture on its own.
        random: where the numbers come from.
    """
    if probability <= 0:
        return images
    b, c, h, w = images.shape
    draw = uniform(random, 8, b, dim=1)
    on = (draw[:4] < probability).float()
    amount = draw[4:] * 2 - 1  # -1 .. 1
    empty = torch.zeros(c, device=images.device)
    if c == 4:
        empty[3] = -1.0  # transparent
    # shift by up to an eighth, in whole pixels on the cells' own grid, and scale by up to a fifth
    zoom = 1 + 0.2 * on[1] * amount[1]
    theta = torch.zeros(b, 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, 0, 2] = on[0] * amount[0] * 0.25
    theta[:, 1, 2] = on[0] * amount[2] * 0.25
    offset = empty[None, :, None, None]
    grid = F.affine_grid(theta, [b, c, h, w], align_corners=False)
    moved = F.grid_sample(
        images - offset,
        grid,
        mode="bilinear",
        padding_mode="zeros" if c == 4 else "border",
        align_corners=False,
    )
    # cut-out: a square of half the side
    side = torch.arange(h, device=images.device).float() / h
    at_x, at_y = uniform(random, 2, b, 1, dim=1)
    inside = ((side - at_y).abs() < 0.2)[:, :, None] & ((side - at_x).abs() < 0.2)[:, None, :]
    cut = inside[:, None] & (on[2] > 0)[:, None, None, None]
    moved = torch.where(cut, torch.zeros((), device=images.device), moved) + offset
    # brightness: colour only, and only where there is something
    light = (0.2 * on[3] * amount[3])[:, None, None, None]
    if c == 4:
        colour = (moved[:, :3] + light * ((moved[:, 3:] + 1) / 2)).clamp(-1, 1)
        return torch.cat([colour, moved[:, 3:]], dim=1)
    return (moved + light).clamp(-1, 1)
