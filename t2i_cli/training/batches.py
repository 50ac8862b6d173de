"""Cached pixels and captions -> the batch of a step, on the device, fully told by (seed, stage, step).

Everything random in a batch (order, caption, mirror, recolour) comes from that triple, so a resumed run sees what an
unbroken one would have seen.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from t2i_cli.config import Attribute
from t2i_cli.data import batch_indices
from t2i_cli.pixels import to_images
from t2i_cli.tokenizer import PAD, Tokenizer
from t2i_cli.training import distributed
from t2i_cli.training.augmentation import (
    COLOURS,
    UNNAMED,
    colour_of,
    mirror,
    recolour,
    sided,
    slip,
    uncoloured,
    with_colour,
)
from t2i_cli.training.teacher import Lessons

__all__ = ["Batch", "Batches", "Lesson", "Pictures", "seed_for"]

FIRST_CAPTION = 0.4  # share of batches' rows that take a picture's first caption; the rest take any
UNNAMED_SHARE = 0.5  # of `recolour`, for pictures whose captions name no colour


class Pictures(Protocol):
    """What is asked of a data set: `t2i_cli.data.CaptionedImages`, or a stand-in in a test."""

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (n, h, w, c)."""
        ...

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        """The alternatives of each picture, best first."""
        ...

    @property
    def attributes(self) -> Sequence[Mapping[str, str]]:
        """What else the data says of each picture: style, category, ..."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of some of a batch's captions and of extra texts beside them."""

    known: Tensor  # int64 (k,), rows of the whole batch whose captions the teacher has read
    tokens: Tensor  # int64 (m, t), the extra texts
    mask: Tensor  # bool (m, t)
    features: Tensor  # fp32 (k + m, e), unit norm, the teacher's: of those captions, then of the extra texts


@dataclass(frozen=True)
class Batch:
    """What a step learns from: of several processes each has its rows, and all have the whole batch's captions."""

    images: Tensor  # fp32 (b, c, h, w) in [-1, 1], channels-last
    tokens: Tensor  # int64 (b, t), cut to the longest of the batch
    mask: Tensor  # bool (b, t)
    text: Tensor  # int64 (rows of the whole batch,), equal where two rows have the same caption
    captions: list[str]  # of the whole batch, as meant; tokens may be read with a slip of the pen
    lesson: Lesson | None = None  # in the contrastive stage of a run with a teacher


def seed_for(*parts: int | str) -> int:
    """One seed, 0..2^63 - 1, from the parts of a position: the same on every machine."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in parts]
    high, low = np.random.SeedSequence([word & (2**64 - 1) for word in words]).generate_state(
        2, np.uint32
    )
    return (int(high) << 31) ^ int(low)


class Batches:
    """The batches of a run.

    Args:
        pictures: the data set.
        indices: int64 (m,), the rows of it that are used.
        tokenizer: for the captions.
        context_length: tokens, at most.
        seed: of the run.
        device: where batches go.
        recolour: share of pictures with one named hue that are turned to another; half of it, where no hue is named.
        mirror: share of pictures that are mirrored where the caption allows it.
        slips: share of captions that are read with a slip of the pen.
        lessons: of a teacher, for the contrastive stage.
    """

    def __init__(
        self,
        pictures: Pictures,
        indices: np.ndarray,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        seed: int,
        device: torch.device,
        recolour: float = 0.0,
        mirror: float = 0.0,
        slips: float = 0.0,
        lessons: Lessons | None = None,
    ) -> None:
        self.pictures, self.indices = pictures, indices
        self.seed = seed
        self.lessons = lessons
        self._tokenizer, self._length, self._device = tokenizer, context_length, device
        self._recolour, self._mirror, self._slips = recolour, mirror, slips
        self._tokens: dict[str, list[int]] = {}
        self._resident: Tensor | None = None
        if (
            device.type == "cuda"
            and pictures.pixels.nbytes < 0.4 * torch.cuda.mem_get_info(device)[0]
        ):
            self._resident = torch.tensor(pictures.pixels, device=device)

    def __len__(self) -> int:
        return len(self.indices)

    def get(self, stage: str, step: int, size: int) -> Batch:
        """The step-th batch of a stage, `size` pictures; of several processes each gets its rows of it."""
        rows = self.indices[
            batch_indices(len(self.indices), size, seed_for(self.seed, stage), step)
        ]
        random = np.random.Generator(
            np.random.Philox(key=seed_for(self.seed, stage, "batch", step))
        )
        batch = self.of(rows, random, distributed.share(len(rows)))
        if stage == "contrastive" and self.lessons is not None:
            return dataclasses.replace(
                batch, lesson=self._lesson(self.lessons, batch.captions, random)
            )
        return batch

    def _lesson(self, lessons: Lessons, captions: list[str], random: np.random.Generator) -> Lesson:
        known, extra, features = lessons.lesson(captions, random)
        tokens, mask = self.tokens(extra)
        return Lesson(known.to(self._device), tokens, mask, features.to(self._device))

    def of(
        self,
        rows: np.ndarray,
        random: np.random.Generator | None = None,
        mine: slice = slice(None),
    ) -> Batch:
        """The batch of given pictures, int64 (b,); with no randomness, first captions and pictures as they are.

        The captions hang on all pixels (only what was really recoloured is called so), so every process reads the
        whole batch's, which costs little beside a step, and goes on with the pictures of its rows, `mine`.
        """
        pixels = self._pixels(rows)
        if random is None:
            captions = [self.pictures.captions[int(row)][0] for row in rows]
            return self._batch(to_images(pixels[mine]), captions, mine)
        chosen: list[str] = []
        turns: list[tuple[int, str, str]] = []  # row in the batch, colour, new colour
        draws = random.random((len(rows), 4))
        for position, row in enumerate(rows):
            alternatives = self.pictures.captions[int(row)]
            first, any_of, turn, to = draws[position]
            pick = 0 if first < FIRST_CAPTION else int(any_of * len(alternatives))
            caption = alternatives[pick]
            if turn < self._recolour:
                coloured = [text for text in alternatives if colour_of(text)]
                if coloured:
                    colour = colour_of(coloured[0])
                    assert colour is not None
                    others = [word for word in COLOURS if word != colour]
                    turns.append((position, colour, others[int(to * len(others))]))
                    if not colour_of(caption):
                        caption = coloured[int(any_of * len(coloured))]
                elif turn < UNNAMED_SHARE * self._recolour and all(map(uncoloured, alternatives)):
                    turns.append((position, UNNAMED, list(COLOURS)[int(to * len(COLOURS))]))
            chosen.append(caption)
        if turns:
            at = torch.tensor([position for position, _, _ in turns], device=self._device)
            shift = torch.tensor(
                random.normal(0, 0.006, len(turns)), dtype=torch.float32, device=self._device
            )
            turned, fits = recolour(
                pixels[at], [c for _, c, _ in turns], [to for _, _, to in turns], shift
            )
            pixels[at] = turned
            for (position, _, to), done in zip(turns, fits.tolist(), strict=True):
                if done:
                    chosen[position] = with_colour(chosen[position], to)
        flips = random.random(len(rows)) < self._mirror
        flips &= [not any(sided(text) for text in self.pictures.captions[int(row)]) for row in rows]
        slips = random.random(len(rows)) < self._slips
        read = [slip(text, random) if on else text for text, on in zip(chosen, slips, strict=True)]
        return self._batch(
            mirror(to_images(pixels[mine]), torch.tensor(flips[mine], device=self._device)),
            chosen,
            mine,
            read,
        )

    def captions(self, place: int) -> list[str]:
        """The captions of a training picture, by its place among them, best first."""
        return list(self.pictures.captions[int(self.indices[place])])

    def attributes(self, wanted: Sequence[Attribute]) -> np.ndarray:
        """The attributes of every training picture: int64 (m, a), the number of values where it has none."""
        found = np.empty((len(self.indices), len(wanted)), np.int64)
        for column, attribute in enumerate(wanted):
            places = {value: at for at, value in enumerate(attribute.values)}
            for at, row in enumerate(self.indices):
                value = str(self.pictures.attributes[int(row)].get(attribute.name, ""))
                found[at, column] = places.get(value, len(places))
        return found

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions -> tokens (b, t) and mask (b, t) on the device, t the longest of them."""
        tokens, mask = self._tokenizer.batch(captions, self._length)
        longest = int(mask.sum(1).max())
        return (
            torch.from_numpy(tokens[:, :longest].copy()).to(self._device),
            torch.from_numpy(mask[:, :longest].copy()).to(self._device),
        )

    def _pixels(self, rows: np.ndarray) -> Tensor:
        if self._resident is not None:
            return self._resident[torch.from_numpy(rows).to(self._device)]
        return torch.from_numpy(np.ascontiguousarray(self.pictures.pixels[rows])).to(self._device)

    def _batch(
        self, images: Tensor, captions: list[str], mine: slice, read: list[str] | None = None
    ) -> Batch:
        """The batch of some captions, and of how they are read where that is not as they are meant."""
        tokens, mask = self.tokens((read or captions)[mine])
        assert not bool((tokens[:, 0] == PAD).any())
        _, text = np.unique(np.array(captions, dtype=object), return_inverse=True)
        return Batch(
            images, tokens, mask, torch.from_numpy(text.astype(np.int64)).to(self._device), captions
        )
