"""A small model's networks -> a larger model's that begin as the same function: Chen et al. 2016 (Net2Net).

A feature map gets wider by repeating its channels. What reads a repeated channel takes a share of it in each
place, and the shares, which are drawn at random for every weight, add up to one: so nothing changes at first, and
no two copies are taught the same (even shares would keep them alike for ever). New blocks begin as the identity. The
norms over channels see some channels twice, so the function is the very same where every channel is repeated
alike (twice as wide) and nearly so elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.errors import UsageError
from t2i_cli.models.generator import Generator
from t2i_cli.models.image_encoder import ImageEncoder
from t2i_cli.models.layers import Attention, Conv, Linear

if TYPE_CHECKING:
    from t2i_cli.models import Networks

__all__ = ["grow", "why_not"]

# of each new channel, the old one that it repeats; None: an axis as it was
Copies = list[int] | None


def why_not(old: ModelConfig, new: ModelConfig) -> str:
    """Why a model of one config cannot grow into another's, or an empty string where it can."""
    if (old.resolution, old.image_channels, old.fold) != (
        new.resolution,
        new.image_channels,
        new.fold,
    ):
        return "the pictures differ"
    text, more_text = old.text, new.text
    if (text.kind, text.vocab_size, text.dim, text.heads) != (
        more_text.kind,
        more_text.vocab_size,
        more_text.dim,
        more_text.heads,
    ) or more_text.depth < text.depth:
        return "the text encoder is another one, or wider"
    if text.kind == "lstm" and more_text.depth > text.depth:
        return "a layer more of an LSTM cannot begin as the identity"
    if new.blocks < old.blocks or new.self_attention != old.self_attention:
        return "its generator has other blocks"
    for before, after in (
        (old.channels, new.channels),
        (old.image_encoder_channels, new.image_encoder_channels),
    ):
        if len(before) != len(after) or any(a < b for b, a in zip(before, after, strict=True)):
            return "it is not wider everywhere"
    return ""


@torch.no_grad()
def grow(old: Networks, new: Networks, seed: int = 0) -> None:
    """Let larger networks begin as smaller ones.

    Args:
        old: `Networks` that have learned something; a discriminator is left out.
        new: fresh `Networks` of a larger config with the same tokenizer.
        seed: of the shares.

    Raises:
        UsageError: the one cannot grow into the other.
    """
    before, after = old.config, new.config
    if reason := why_not(before, after):
        raise UsageError(
            f"size {before.size} cannot grow into {after.size}: {reason}",
            "give the --size of the weights, or train without --init",
        )
    random = torch.Generator().manual_seed(seed)
    deeper = new.text_encoder.state_dict() | old.text_encoder.state_dict()
    new.text_encoder.load_state_dict(deeper)
    _grow_image_encoder(old.image_encoder, new.image_encoder, random)
    _grow_generator(old.generator, new.generator, random)


def _grow_image_encoder(old: ImageEncoder, new: ImageEncoder, random: torch.Generator) -> None:
    maps = _maps(old.config.image_encoder_channels, new.config.image_encoder_channels)
    _copy(old.conv_in, new.conv_in, None, maps[0], random)
    for copies, level, wider in zip(maps, old.levels, new.levels, strict=True):
        for mine, theirs in zip(level, wider, strict=True):  # pyright: ignore
            theirs.scale.copy_(mine.scale[copies])
            theirs.shift.copy_(mine.shift[copies])
            _copy_block(mine.block, theirs.block, copies, random)
    for index, (mine, theirs) in enumerate(zip(old.widen, new.widen, strict=True)):
        _copy(mine, theirs, maps[index], maps[index + 1], random)
    new.norm.weight.copy_(old.norm.weight[maps[-1]])
    new.norm.bias.copy_(old.norm.bias[maps[-1]])
    _copy(old.head, new.head, maps[-1], None, random)
    new.logit_scale.copy_(old.logit_scale)


def _grow_generator(old: Generator, new: Generator, random: torch.Generator) -> None:
    before, after = old.config, new.config
    maps = _maps(before.channels, after.channels)
    for name in ("style_text", "style_level"):
        getattr(new, name).load_state_dict(getattr(old, name).state_dict())
    _copy(old.conv_in, new.conv_in, None, maps[0], random)
    _copy(old.conv_out, new.conv_out, maps[0], None, random)
    for old_way, new_way in ((old.down, new.down), (old.up, new.up)):
        for copies, level, wider in zip(maps, old_way, new_way, strict=True):
            assert isinstance(level, nn.ModuleDict)
            assert isinstance(wider, nn.ModuleDict)
            for mine, theirs in zip(level["blocks"], wider["blocks"], strict=False):  # pyright: ignore
                _copy_block(mine, theirs, copies, random)
            if "attention" in level and "attention" in wider:
                _copy_attention(level["attention"], wider["attention"], copies, random)  # pyright: ignore
    for index in range(len(maps) - 1):
        fine, coarse = maps[index], maps[index + 1]
        _copy(old.widen[index], new.widen[index], fine, coarse, random)
        _copy(old.narrow[index], new.narrow[index], coarse, fine, random)
        both = [*fine, *(before.channels[index] + channel for channel in fine)]  # x, then the skip
        _copy(old.merge[index], new.merge[index], both, fine, random)
    # of each block in order: a scale and a shift; blocks that are new keep those of a fresh network
    begins: dict[tuple[int, int], int] = {}
    at = 0
    for place, width in _places(before):
        begins[place] = at
        at += 2 * width
    wider_maps = (*maps, *reversed(maps), maps[0])
    rows = range(0)
    for place, width in _places(after):
        rows = range(rows.stop, rows.stop + 2 * width)
        if place in begins:
            copies = wider_maps[place[0]]
            narrow = max(copies) + 1
            source = [begins[place] + part * narrow + c for part in range(2) for c in copies]
            new.modulation.weight[rows] = old.modulation.weight[source]
            new.modulation.bias[rows] = old.modulation.bias[source]


def _places(config: ModelConfig) -> list[tuple[tuple[int, int], int]]:
    """(level on the way down and up, block), and its width, in the order of the generator's modulation."""
    widths = (*config.channels, *reversed(config.channels))
    places = [
        ((level, block), width)
        for level, width in enumerate(widths)
        for block in range(config.blocks)
    ]
    return [*places, ((len(widths), 0), config.channels[0])]


def _maps(old: tuple[int, ...], new: tuple[int, ...]) -> list[list[int]]:
    """Of each level, the old channel that each new one repeats."""
    return [
        [channel % before for channel in range(after)]
        for before, after in zip(old, new, strict=True)
    ]


def _copy_block(old: nn.Module, new: nn.Module, copies: list[int], random: torch.Generator) -> None:
    for name in ("conv_in", "conv_out"):
        _copy(getattr(old, name), getattr(new, name), copies, copies, random)


def _copy_attention(
    old: Attention, new: Attention, copies: list[int], random: torch.Generator
) -> None:
    """Heads get wider; where they would be others, the attention begins anew, adding nothing."""
    width, heads = _width(old), old.heads
    if new.heads != heads:
        return
    head_dim, wider = width // heads, _width(new) // heads
    inner = [
        head * head_dim + channel % head_dim for head in range(heads) for channel in range(wider)
    ]
    # a sum over w' / w times as many products, divided by sqrt(w') in place of sqrt(w)
    sharpness = (head_dim / wider) ** 0.25

    def parts(count: int) -> list[int]:
        return [part * width + channel for part in range(count) for channel in inner]

    pieces: list[tuple[str, int, int, Copies]] = []  # name, parts, of these that are multiplied
    if old.cells:
        pieces += [("qkv", 3, 2, copies)]
        _copy(old.out, new.out, inner, copies, random)
    if hasattr(old, "text_q"):
        pieces += [("text_q", 1, 1, copies), ("text_kv", 2, 1, None)]
        _copy(old.text_out, new.text_out, inner, copies, random)
    for name, count, sharp, reads in pieces:
        target: Linear = getattr(new, name)
        _copy(getattr(old, name), target, reads, parts(count), random)
        target.weight[: sharp * len(inner)] *= sharpness
        target.bias[: sharp * len(inner)] *= sharpness


def _width(attention: Attention) -> int:
    return (attention.qkv if attention.cells else attention.text_q).in_features


def _copy(
    old: nn.Module, new: nn.Module, reads: Copies, writes: Copies, random: torch.Generator
) -> None:
    """A layer's weight (out, in, ...) and bias (out,), its axes repeated as told."""
    assert isinstance(old, Conv | Linear)
    assert isinstance(new, Conv | Linear)
    weight, bias = old.weight.cpu(), old.bias
    assert bias is not None
    assert new.bias is not None
    if writes is not None:
        weight, bias = weight[writes], bias[writes]
    if reads is not None:
        weight = weight[:, reads] * _shares(reads, weight.shape[0], random).view(
            weight.shape[0], len(reads), *[1] * (weight.dim() - 2)
        )
    new.weight.copy_(weight)
    new.bias.copy_(bias)


def _shares(copies: list[int], rows: int, random: torch.Generator) -> Tensor:
    """What each row takes of each copy, fp32 (rows, copies): the shares of one channel's copies add up to one."""
    index = torch.tensor(copies)
    drawn = torch.rand(rows, len(copies), generator=random) + 1e-3
    total = torch.zeros(rows, int(index.max()) + 1).index_add_(1, index, drawn)
    return drawn / total[:, index]
