"""Prompts and seeds -> images: what every runtime does alike, in numpy, on top of networks that it computes.

A runtime holds a model on a device. It reads a prompt, searches the references, follows the flow from a seed's noise to
latents, and decodes them. It keeps one promise: the image of a row depends on that row alone, to the last bit, whatever
the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i_cli.config import ModelConfig
from t2i_cli.noise import noise_for
from t2i_cli.references import COUNT, ReferenceStore
from t2i_cli.solver import DEFAULT_GUIDANCE, DEFAULT_STEPS, GUIDED_ABOVE, solve
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.words import Words

__all__ = ["MAX_BATCH", "Drawn", "Read", "Row", "Runtime", "Text", "slerp"]

MAX_BATCH = 16  # pictures drawn at once
_TEXTS = 1024  # encoded texts that are remembered


@dataclass(frozen=True)
class Text:
    """What the networks make of one prompt, and of the attributes asked for with it."""

    text_features: np.ndarray  # float32 (d,), unit norm
    query: np.ndarray  # float32 (d,), unit norm, whitened: what references are searched by
    condition: np.ndarray  # float32 (e,)
    attributes: tuple[
        int, ...
    ]  # the place of each attribute's value, the number of values for none
    unknown_tokens: int  # bytes and symbols that the vocabulary does not hold
    cut: bool  # whether the prompt was longer than the model reads
    prompt: str  # what was read


@dataclass(frozen=True)
class Read:
    """What the generator reads off references (`models.ReadReferences`), float32."""

    fine: np.ndarray  # (b, 1 + k n^2, d)
    coarse: np.ndarray  # (b, 1 + k n^2 / 4, 2 d)
    mean: np.ndarray  # (b, d, n, n)

    def nothing(self) -> Read:
        """What is read without references: the first cell says so."""
        return Read(self.fine[:, :1].copy(), self.coarse[:, :1].copy(), np.zeros_like(self.mean))


@dataclass(frozen=True)
class Row:
    """One picture to draw."""

    text: Text
    seed: int
    steps: int = DEFAULT_STEPS
    guidance: float = DEFAULT_GUIDANCE
    truncation: float = 1.0  # scale of the noise
    negative: Text | None = None  # what guidance leads away from, in place of nothing
    references: int = COUNT  # pictures that are read, at most
    store: ReferenceStore | None = None  # in place of the model's own
    start: np.ndarray | None = None  # latents (c, n, n) to start from, in place of noise alone
    strength: float = 1.0  # noise level that drawing starts at


@dataclass(frozen=True)
class Drawn:
    """A picture, and what it was drawn from."""

    image: np.ndarray  # float32 (4, r, r), nominally in [-1, 1]
    references: tuple[int, ...]  # numbers of the training pictures that were read


class Runtime(ABC):
    """A model on a device."""

    name = ""  # goes into metadata: onnxruntime-cpu, torch-cuda, ...
    batch = 1  # rows that are best drawn at once
    stage = ""  # of training that the weights come from, where their file says so

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        words: Words,
        store: ReferenceStore,
        title: str,
        weights_hash: str,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.words = words  # that `sample.Model` reads prompts with, before they are encoded here
        self.store = store
        self.title = title
        self.hash = weights_hash
        self._texts: OrderedDict[tuple[str, tuple[int, ...]], Text] = OrderedDict()

    @property
    def default_attributes(self) -> tuple[int, ...]:
        """What is drawn where no attribute is asked for."""
        return tuple(one.index(one.default) for one in self.config.attributes)

    def encode(self, prompt: str, attributes: tuple[int, ...] | None = None) -> Text:
        """What the text encoder makes of a prompt; attributes None are the model's defaults."""
        asked = self.default_attributes if attributes is None else attributes
        return self.encode_many([(prompt, asked)])[prompt, asked]

    def encode_many(
        self, asked: Sequence[tuple[str, tuple[int, ...]]]
    ) -> dict[tuple[str, tuple[int, ...]], Text]:
        """What the text encoder makes of each prompt, whatever the others are; the latest are remembered."""
        found = {one: self._texts[one] for one in asked if one in self._texts}
        missing = [one for one in dict.fromkeys(asked) if one not in found]
        limit = self.config.text.context_length
        for start in range(0, len(missing), self.batch):
            some = missing[start : start + self.batch]
            tokens, mask = self.tokenizer.batch([prompt for prompt, _ in some], limit)
            kinds = np.array([places for _, places in some], np.int64).reshape(len(some), -1)
            features, query, condition = self._encode(tokens, mask, kinds)
            for row, (prompt, places) in enumerate(some):
                real = int(mask[row].sum())
                cut = real == limit and len(self.tokenizer.encode(prompt)) + 2 > limit
                unknown = self.tokenizer.unknown(prompt)
                found[prompt, places] = Text(
                    features[row], query[row], condition[row], places, unknown, cut, prompt
                )
        for one in missing:
            self._texts[one] = found[one]
            if len(self._texts) > _TEXTS:
                self._texts.popitem(last=False)
        return found

    def draw(self, rows: Sequence[Row]) -> list[Drawn]:
        """The pictures of some rows, each as it would be alone."""
        drawn: list[Drawn | None] = [None] * len(rows)
        groups: dict[tuple[object, ...], list[int]] = {}
        picked = [self._references(row) for row in rows]
        for at, (row, places) in enumerate(zip(rows, picked, strict=True)):
            alike = (row.steps, row.guidance != 1.0, row.strength, len(places))
            groups.setdefault(alike, []).append(at)
        for group in groups.values():
            for start in range(0, len(group), self.batch):
                some = group[start : start + self.batch]
                images = self._follow([rows[at] for at in some], [picked[at] for at in some])
                for at, image in zip(some, images, strict=True):
                    store = rows[at].store or self.store
                    drawn[at] = Drawn(image, tuple(store.sources[picked[at]].tolist()))
        return [one for one in drawn if one is not None]

    def _references(self, row: Row) -> np.ndarray:
        """Rows of the store that a picture reads."""
        store = self.store if row.store is None else row.store
        if row.references < 1 or not len(store):
            return np.zeros(0, np.int64)
        places = np.array(row.text.attributes, np.int64)
        return store.choose(row.text.query, places, row.seed, row.references)

    def between(self, first: Row, last: Row, shares: Sequence[float]) -> list[np.ndarray]:
        """Images on the way from one row's picture to another's, at shares of the way; 0 and 1 are the two themselves.

        Both have the first row's noise. What is asked for and what is read off references go along the great circle.
        """
        last = replace(last, seed=first.seed)
        picked = [self._references(row) for row in (first, last)]
        count = min(map(len, picked))
        reads = [
            self._read_rows([row], [places[:count]])
            for row, places in zip((first, last), picked, strict=True)
        ]
        found: list[np.ndarray] = []
        for share in shares:
            condition = slerp(first.text.condition, last.text.condition, share)
            parts = [
                slerp(getattr(reads[0], name), getattr(reads[1], name), share)
                for name in ("fine", "coarse", "mean")
            ]
            row = replace(first, text=replace(first.text, condition=condition))
            found.append(self._solved([row], Read(*parts), has_references=count > 0)[0])
        return found

    def _follow(self, rows: Sequence[Row], picked: Sequence[np.ndarray]) -> np.ndarray:
        """Images of rows of the same steps, guided or not, with as many references each."""
        return self._solved(rows, self._read_rows(rows, picked), has_references=len(picked[0]) > 0)

    def _solved(self, rows: Sequence[Row], read: Read, *, has_references: bool) -> np.ndarray:
        config = self.config
        shape = (config.latent_channels, config.cells, config.cells)
        noise = np.stack(
            [noise_for(row.seed, shape[0], shape[1]) * np.float32(row.truncation) for row in rows]
        )
        strength = rows[0].strength
        if strength <= 0.0:
            return self.decode(np.stack([_start(row) for row in rows]))
        if strength < 1.0:
            starts = np.stack([_start(row) for row in rows])
            noise = np.float32(1 - strength) * starts + np.float32(strength) * noise
        guided = rows[0].guidance != 1.0
        condition = np.stack([row.text.condition for row in rows])
        nothing = read.nothing()
        if not has_references:
            read = nothing
        scale = np.array([row.guidance for row in rows], np.float32)[:, None, None, None]
        null = self._null(rows) if guided else condition

        def velocity(latents: np.ndarray, level: float) -> np.ndarray:
            at = np.full(len(rows), level, np.float32)
            if not guided or level <= GUIDED_ABOVE:
                return self._velocity(latents, at, condition, read)
            found, away = self._both_velocities(latents, at, (condition, null), (read, nothing))
            return away + scale * (found - away)

        solved = solve(velocity, noise, rows[0].steps, strength)
        return self.decode(solved.astype(np.float32))

    def _read_rows(self, rows: Sequence[Row], picked: Sequence[np.ndarray]) -> Read:
        config = self.config
        if len(picked[0]) == 0:
            shape = (len(rows), 1, config.latent_channels, config.cells, config.cells)
            empty = np.zeros((len(rows), 1, len(config.attributes)), np.int64)
            return self._read(np.zeros(shape, np.float32), empty)
        stores = [row.store or self.store for row in rows]
        pairs = list(zip(stores, picked, strict=True))
        latents = np.stack([store.read(places) for store, places in pairs])
        kinds = np.stack([store.attributes[places].astype(np.int64) for store, places in pairs])
        return self._read(latents, kinds)

    def _null(self, rows: Sequence[Row]) -> np.ndarray:
        """What guidance leads away from: the negative prompts' conditions, or the attributes' without a text."""
        plain = self._null_condition(np.array([row.text.attributes for row in rows], np.int64))
        told = [row.negative.condition if row.negative else None for row in rows]
        return np.stack([plain[at] if one is None else one for at, one in enumerate(told)])

    @abstractmethod
    def _encode(
        self, tokens: np.ndarray, mask: np.ndarray, attributes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens int64, mask bool (b, t), attributes int64 (b, a) -> text_features, query (b, d), condition (b, e)."""

    @abstractmethod
    def _null_condition(self, attributes: np.ndarray) -> np.ndarray:
        """Attributes int64 (b, a) -> the condition without a text (b, e)."""

    @abstractmethod
    def _read(self, latents: np.ndarray, attributes: np.ndarray) -> Read:
        """Latents of references (b, k, c, n, n), their attributes int64 (b, k, a) -> `Read`."""

    @abstractmethod
    def _velocity(
        self, latents: np.ndarray, level: np.ndarray, condition: np.ndarray, read: Read
    ) -> np.ndarray:
        """Latents (b, c, n, n) at noise levels (b,), condition (b, e) -> velocity (b, c, n, n)."""

    def _both_velocities(
        self,
        latents: np.ndarray,
        level: np.ndarray,
        conditions: tuple[np.ndarray, np.ndarray],
        reads: tuple[Read, Read],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The velocities of what is asked for and of what guidance leads away from, as `_velocity`."""
        found, away = (
            self._velocity(latents, level, condition, read)
            for condition, read in zip(conditions, reads, strict=True)
        )
        return found, away

    @abstractmethod
    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents, float32 (b, c, n, n) -> images (b, 4, r, r)."""

    @abstractmethod
    def latents(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, 4, r, r) -> latents, float32 (b, c, n, n)."""

    @abstractmethod
    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, 4, r, r) -> float32 (b, d), unit norm."""


def slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Spherical interpolation of arrays of one shape (Shoemake 1985), their lengths interpolated in a line."""
    if share in (0.0, 1.0):
        return a if share == 0.0 else b
    flat_a, flat_b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    length_a, length_b = float(np.linalg.norm(flat_a)), float(np.linalg.norm(flat_b))
    cosine = float(np.clip(flat_a @ flat_b / max(length_a * length_b, 1e-12), -1, 1))
    angle = math.acos(cosine)
    if angle < 1e-4 or not length_a or not length_b:
        return ((1 - share) * a + share * b).astype(np.float32)
    direction = (
        math.sin((1 - share) * angle) * flat_a / length_a
        + math.sin(share * angle) * flat_b / length_b
    ) / math.sin(angle)
    length = (1 - share) * length_a + share * length_b
    return (direction * length).reshape(a.shape).astype(np.float32)


def _start(row: Row) -> np.ndarray:
    assert row.start is not None
    return row.start
