"""Noise and the picture that a many-step sampler makes of it: what one step is taught to do at once.

Of a chunk of pairs only the pictures (uint8) and the captions are kept: its noise comes again from the seed of the step
that made it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_cli.training import distributed
from t2i_cli.training.augment import sided
from t2i_cli.training.batches import Batch

__all__ = ["Chunk", "Pairs"]


@dataclass(frozen=True)
class Chunk:
    """The pairs that one step made."""

    position: int  # number of the step: the seed of the noise, and of which captions were left out
    tokens: Tensor  # int64 (b, t)
    mask: Tensor  # bool (b, t)
    pictures: Tensor  # uint8 (b, c, h, w)
    turnable: Tensor  # bool (b,), whether the caption says no left or right

    def images(self) -> Tensor:
        """The pictures, fp32 (b, c, h, w) in [-1, 1]."""
        return self.pictures.float().mul_(2 / 255).sub_(1)


class Pairs:
    """The chunks made so far, no more than hold `capacity` pairs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._chunks: list[Chunk] = []

    def __len__(self) -> int:
        """How many chunks there are."""
        return len(self._chunks)

    @property
    def positions(self) -> list[int]:
        """Of the steps that made them, in order: with a run's seed and data, all that is needed to make them again."""
        return [chunk.position for chunk in self._chunks]

    @property
    def newest(self) -> Chunk:
        """The chunk that was made last; there has to be one."""
        return self._chunks[-1]

    def room_for(self, size: int) -> bool:
        """Whether another chunk may be made, where each has `size` pairs."""
        return (len(self) + 1) * size <= self.capacity

    def add(self, position: int, batch: Batch, images: Tensor) -> None:
        """Keep what was made of a batch's captions: fp32 (b, c, h, w), clipped to [-1, 1]."""
        self.put(
            position, batch, images.clamp(-1, 1).add_(1).mul_(255 / 2).round_().to(torch.uint8)
        )

    def put(self, position: int, batch: Batch, pictures: Tensor) -> None:
        """Keep pictures, uint8 (b, c, h, w), that were made of a batch's captions before."""
        captions = batch.captions[distributed.share(len(batch.captions))]
        turnable = torch.tensor([not sided(text) for text in captions], device=pictures.device)
        pictures = pictures.contiguous()  # drawn or read from a disk, they are alike
        self._chunks.append(Chunk(position, batch.tokens, batch.mask, pictures, turnable))

    def pick(self, random: torch.Generator) -> Chunk:
        """One of the chunks, each as likely."""
        at = torch.randint(len(self), (1,), device=random.device, generator=random)
        return self._chunks[int(at)]

    def keep(self, positions: list[int]) -> None:
        """Forget all chunks from the first on whose position is not the one given in its place."""
        same = [a == b for a, b in zip(self.positions, positions, strict=False)]
        del self._chunks[(*same, False).index(False) :]
