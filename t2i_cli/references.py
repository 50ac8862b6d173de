"""The training pictures that a model draws from: a store of latents, searched by text. numpy alone.

Enters: a query in the space of the text features, whitened (`Generator.whitened`) and of unit norm. Leaves: the latents
of a few pictures near to it. The store travels in the weights file, int8: about 1.5 kB a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["CANDIDATES", "COUNT", "ReferenceStore", "quantised_keys", "quantised_latents"]

COUNT = 3  # references a picture
CANDIDATES = 6  # nearest pictures that a seed chooses among
STYLE_BONUS = 0.06  # cosine that a picture of the attributes asked for is nearer by
_BLOCK = 65_536  # rows that are compared at once


@dataclass(frozen=True)
class ReferenceStore:
    """Latents of pictures, and what they are found by.

    Arrays of n rows, one a picture; `sources` is equal where two pictures are the same drawing.
    """

    latents: np.ndarray  # int8 (n, c, h, w): latents times 127 / sqrt(c)
    keys: np.ndarray  # int8 (n, d): the direction of the caption's whitened text features
    attributes: np.ndarray  # int16 (n, a): the place of each attribute's value
    sources: np.ndarray  # int32 (n,): number of the picture in the data

    @classmethod
    def empty(cls, latent_shape: tuple[int, int, int], dim: int, attributes: int) -> ReferenceStore:
        """A store without pictures, of a model that draws without references."""
        return cls(
            np.zeros((0, *latent_shape), np.int8),
            np.zeros((0, dim), np.int8),
            np.zeros((0, attributes), np.int16),
            np.zeros(0, np.int32),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ReferenceStore:
        """The inverse of `arrays`."""
        return cls(**{item.name: arrays[item.name] for item in fields(cls)})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, as a weights file holds them."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.latents)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Latents of some rows, float32 (k, c, h, w)."""
        picked = self.latents[np.asarray(rows, np.int64)]
        return picked.astype(np.float32) * np.float32(self.latents.shape[1] ** 0.5 / 127)

    def similarity(self, query: np.ndarray, attributes: np.ndarray | None = None) -> np.ndarray:
        """How near every picture is to a query.

        Args:
            query: float32 (d,), whitened and of unit norm.
            attributes: int (a,), those asked for; the number of values for none. None: all alike.

        Returns:
            float32 (n,): cosines, with a bonus for each attribute that is the one asked for.
        """
        found = np.empty(len(self), np.float32)
        for start in range(0, len(self), _BLOCK):
            rows = slice(start, start + _BLOCK)
            keys = self.keys[rows].astype(np.float32)
            lengths = np.sqrt(np.einsum("nd,nd->n", keys, keys))
            found[rows] = keys @ query / np.maximum(lengths, 1)
        if attributes is not None and self.attributes.shape[1]:
            same = (self.attributes == np.asarray(attributes, np.int16)).sum(1)
            found += np.float32(STYLE_BONUS) * same.astype(np.float32)
        return found

    def nearest(
        self, query: np.ndarray, attributes: np.ndarray | None, count: int = CANDIDATES
    ) -> np.ndarray:
        """Rows of the nearest pictures, int64, nearest first; of one drawing only the nearest."""
        found = self.similarity(query, attributes)
        most = min(len(found), 8 * count)
        while True:
            order = np.argpartition(-found, most - 1)[:most] if most else np.zeros(0, np.int64)
            order = order[np.lexsort((order, -found[order]))]
            _, first = np.unique(self.sources[order], return_index=True)
            if len(first) >= count or most == len(found):
                return order[np.sort(first)][:count].astype(np.int64)
            most = min(len(found), 4 * most)  # many copies of a few drawings

    def choose(
        self,
        query: np.ndarray,
        attributes: np.ndarray | None,
        seed: int,
        count: int = COUNT,
    ) -> np.ndarray:
        """Rows that a seed takes among the nearest: int64, at most `count`, other seeds others.

        Args:
            query: float32 (d,), whitened and of unit norm.
            attributes: as in `similarity`.
            seed: of the picture, 0 to 2^63 - 1.
            count: references, at least 1.
        """
        near = self.nearest(query, attributes, max(CANDIDATES, 2 * count))
        random = np.random.RandomState(np.random.Philox(key=(seed, 1)))
        return near[np.argsort(random.random_sample(len(near)))[:count]]


def quantised_latents(latents: np.ndarray) -> np.ndarray:
    """Latents of unit variance in every cell, float (n, c, h, w) -> int8; none is larger than sqrt(c)."""
    scaled = latents.astype(np.float32) * np.float32(127 / latents.shape[1] ** 0.5)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8)


def quantised_keys(keys: np.ndarray) -> np.ndarray:
    """Directions, float32 (n, d) -> int8 (n, d), each as long as fits."""
    scales = np.abs(keys).max(1, initial=1e-6)
    return np.rint(keys / scales[:, None] * 127).astype(np.int8)
