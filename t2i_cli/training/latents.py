"""Training pictures -> latents, once: originals, mirrors and recolours, in one memory-mapped file of the cache.

Enters: the run's pictures and the trained encoders. Leaves: a `LatentSet`, from which the generator's stages take their
batches without decoding a picture, and the store of references that travels with the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from t2i_cli.data.cache import open_entry, write_entry
from t2i_cli.models import Encoder, Generator, TextEncoder, encode
from t2i_cli.pixels import to_images
from t2i_cli.references import (
    CANDIDATES,
    STYLE_BONUS,
    ReferenceStore,
    quantised_keys,
    quantised_latents,
)
from t2i_cli.training.augmentation import (
    COLOURS,
    UNNAMED,
    colour_of,
    recolour,
    sided,
    uncoloured,
    with_colour,
)
from t2i_cli.training.batches import Pictures, seed_for

__all__ = [
    "LatentSet",
    "digest_of",
    "encode_pictures",
    "make_store",
    "neighbours",
    "text_features",
]

VERSION = 1  # raise it when other variants are made: what is cached is then made anew
RECOLOURS = 2  # of each picture that can be recoloured
NEAR_COPY = 0.1  # mean squared difference of latents below which two pictures are the same drawing
BATCH = 128  # pictures or texts that are encoded at once
NOT_TURNED = -1  # colour of a row that is as the picture is
_ORIGINAL, _MIRRORED, _RECOLOURED = range(3)


@dataclass(frozen=True)
class LatentSet:
    """Latents of every variant of the training pictures, originals first, in the pictures' order."""

    latents: np.ndarray  # memory-mapped float16 (rows, c, n, n)
    pictures: np.ndarray  # int32 (rows,): place of the picture among the training pictures
    colours: (
        np.ndarray
    )  # int16 (rows,): place in `COLOURS` of what it was turned to, -1 where it was not
    originals: int  # rows that are pictures as they are

    def captions(self, row: int, alternatives: Sequence[str]) -> list[str]:
        """What a row's captions say, out of its picture's own."""
        colour = int(self.colours[row])
        if colour == NOT_TURNED:
            return list(alternatives)
        word = list(COLOURS)[colour]
        turned = [text for text in alternatives if colour_of(text)] or list(alternatives)
        return [with_colour(text, word) for text in turned]


def digest_of(*networks: nn.Module) -> str:
    """SHA-256 of networks' weights, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode_pictures(
    pictures: Pictures,
    indices: np.ndarray,
    encoder: Encoder,
    *,
    digest: str,
    cache: Path,
    device: torch.device,
    seed: int = 0,
    turn: bool = True,
    mirror: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatentSet:
    """Encode the training pictures and their variants, or find them in the cache.

    Args:
        pictures: all of them.
        indices: int64 (m,), those that are trained on.
        encoder: in the state in which it will stay.
        digest: of the pictures and of which are trained on.
        cache: folder.
        device: of the encoder.
        seed: which recolours are made.
        turn: whether to make recolours.
        mirror: whether to make mirrors.
        progress: called with (done, total) pictures.

    Raises:
        OutputError: the cache cannot be written.
    """
    asked = f"latents {VERSION} {digest} {digest_of(encoder)} {encoder.trunk_dtype} {seed} {turn} {mirror}"
    key = hashlib.sha256(asked.encode()).hexdigest()
    entry = open_entry(cache, key)
    if entry is None:

        def fill(file: BinaryIO) -> tuple[tuple[int, ...], dict[str, Any]]:
            plan = _variants(pictures, indices, seed, turn=turn, mirror=mirror)
            return _fill(file, pictures, indices, plan, encoder, device, progress)

        entry = write_entry(cache, key, fill)
    index = entry.index
    return LatentSet(
        entry.pixels.view(np.float16),
        np.array(index["pictures"], np.int32),
        np.array(index["colours"], np.int16),
        int(index["originals"]),
    )


def _variants(
    pictures: Pictures, indices: np.ndarray, seed: int, *, turn: bool, mirror: bool
) -> list[tuple[int, int, str, int]]:
    """(place, kind, colour that it has, colour to turn it to), originals first."""
    plan = [(place, _ORIGINAL, "", NOT_TURNED) for place in range(len(indices))]
    random = np.random.Generator(np.random.Philox(key=seed_for(seed, "latents")))
    for place, row in enumerate(indices):
        captions = pictures.captions[int(row)]
        if mirror and not any(map(sided, captions)):
            plan.append((place, _MIRRORED, "", NOT_TURNED))
        colour = next(filter(None, map(colour_of, captions)), None)
        if not turn or (colour is None and not all(map(uncoloured, captions))):
            continue
        for to in random.permutation(len(COLOURS))[:RECOLOURS]:
            if list(COLOURS)[to] != colour:
                plan.append((place, _RECOLOURED, colour or UNNAMED, int(to)))
    return plan


def _fill(
    file: BinaryIO,
    pictures: Pictures,
    indices: np.ndarray,
    plan: list[tuple[int, int, str, int]],
    encoder: Encoder,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Write the latents of a plan; recolours that do not fit the picture are left out."""
    kept: list[tuple[int, int]] = []
    words = list(COLOURS)
    shape = (0, 0, 0)
    for start in range(0, len(plan), BATCH):
        part = plan[start : start + BATCH]
        rows = indices[[place for place, *_ in part]]
        pixels = torch.from_numpy(np.ascontiguousarray(pictures.pixels[rows])).to(device)
        fits = torch.ones(len(part), dtype=torch.bool)
        turned = [at for at, (_, kind, _, _) in enumerate(part) if kind == _RECOLOURED]
        if turned:
            at = torch.tensor(turned, device=device)
            changed, good = recolour(
                pixels[at],
                [part[i][2] for i in turned],
                [words[part[i][3]] for i in turned],
                torch.zeros(len(turned), device=device),
            )
            pixels[at], fits[turned] = changed, good.cpu()
        images = to_images(pixels)
        mirrored = torch.tensor([kind == _MIRRORED for _, kind, _, _ in part], device=device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        latents = encoder(images)[fits.to(device)].to(torch.float16).cpu().numpy()
        file.write(np.ascontiguousarray(latents).data)
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        kept += [
            (place, to) for (place, _, _, to), fit in zip(part, fits.tolist(), strict=True) if fit
        ]
        progress(min(start + BATCH, len(plan)), len(plan))
    c, h, w = shape
    return (len(kept), c, h, 2 * w), {
        "pictures": [place for place, _ in kept],
        "colours": [to for _, to in kept],
        "originals": len(indices),
    }


@torch.no_grad()
def text_features(
    texts: Sequence[str],
    tokens: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    encoder: TextEncoder,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """The text features of many texts, float16 (n, d) on the CPU: computed, or found in the cache.

    Args:
        texts: n of them.
        tokens: gives tokens and mask, both (b, t), of some.
        encoder: in the state in which it will stay.
        cache: folder.
        progress: called with (done, total) texts.

    Raises:
        OutputError: the cache cannot be written.
    """
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape"))
    for part in tokens(list(texts[:256])):  # the tokenizer, and the length at which it cuts
        digest.update(part.cpu().numpy().tobytes())
    asked = f"texts {VERSION} {digest.hexdigest()} {digest_of(encoder)} {encoder.trunk_dtype}"
    key = hashlib.sha256(asked.encode()).hexdigest()
    entry = open_entry(cache, key)
    if entry is None:

        def fill(file: BinaryIO) -> tuple[tuple[int, ...], dict[str, Any]]:
            found = _read_texts(texts, tokens, encoder, progress).numpy()
            file.write(np.ascontiguousarray(found).data)
            return (len(texts), 1, 1, 2 * found.shape[1]), {}

        entry = write_entry(cache, key, fill)
    return torch.from_numpy(np.array(entry.pixels.view(np.float16)[:, 0, 0]))


def _read_texts(
    texts: Sequence[str],
    tokens: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    encoder: TextEncoder,
    progress: Callable[[int, int], None],
) -> Tensor:
    order = sorted(range(len(texts)), key=lambda at: (len(texts[at]), at))
    found = torch.empty(len(texts), encoder.config.dim, dtype=torch.float16)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        features = encode(encoder, *tokens([texts[at] for at in part])).text_features
        found[part] = features.to(torch.float16).cpu()
        progress(min(start + BATCH, len(order)), len(order))
    return found


@torch.no_grad()
def make_store(
    latents: LatentSet,
    features: Tensor,
    attributes: np.ndarray,
    generator: Generator,
    numbers: np.ndarray,
) -> ReferenceStore:
    """The store of the original pictures.

    Args:
        latents: of the training pictures.
        features: fp32 (m, d), text features of each picture's first caption.
        attributes: int (m, a), of each picture.
        generator: which whitens the features.
        numbers: int (m,), of each picture in the data.
    """
    count = latents.originals
    keys = nn.functional.normalize(
        generator.whitened(features.to(generator.text_mean.device)), dim=1
    )
    content = np.ascontiguousarray(latents.latents[:count])
    _, first, same = np.unique(
        content.reshape(count, -1), axis=0, return_index=True, return_inverse=True
    )
    return ReferenceStore(
        quantised_latents(content),
        quantised_keys(keys.cpu().numpy()),
        attributes.astype(np.int16),
        numbers[first[same.reshape(-1)]].astype(np.int32),
    )


@torch.no_grad()
def neighbours(
    store: ReferenceStore,
    latents: LatentSet,
    features: Tensor,
    generator: Generator,
    seed: int,
) -> np.ndarray:
    """For each row of a latent set the originals that its caption finds, never its own picture or a copy of it.

    Args:
        store: of the originals.
        latents: of all variants.
        features: fp32 (rows, d), text features of each row's first caption.
        generator: which whitens the features.
        seed: of the little noise that keeps ties from always ending alike.

    Returns:
        int32 (rows, `CANDIDATES`), nearest first; -1 where there are no more.
    """
    device = generator.text_mean.device
    keys = nn.functional.normalize(torch.from_numpy(store.keys).to(device).float(), dim=1)
    kinds = torch.from_numpy(store.attributes.astype(np.int64)).to(device)
    sources = torch.from_numpy(store.sources.astype(np.int64)).to(device)
    cells = torch.from_numpy(store.latents.reshape(len(store), -1)).to(device)
    to_unit = latents.latents.shape[1] ** 0.5 / 127
    random = torch.Generator(device).manual_seed(seed_for(seed, "neighbours"))
    most = min(len(store), 4 * CANDIDATES)
    found = np.full((len(latents.pictures), CANDIDATES), -1, np.int32)
    for start in range(0, len(found), 1024):
        mine = torch.from_numpy(latents.pictures[start : start + 1024].astype(np.int64)).to(device)
        query = nn.functional.normalize(
            generator.whitened(features[start : start + 1024].to(device)), dim=1
        )
        near = query @ keys.T + 0.02 * torch.rand(
            len(query), len(keys), device=device, generator=random
        )
        near += STYLE_BONUS * (kinds[mine][:, None] == kinds[None]).sum(2)
        near = near.masked_fill(sources[mine][:, None] == sources[None], -torch.inf)
        values, rows = near.topk(most, dim=1)
        own = cells[mine].float() * to_unit
        for at in range(most):  # a copy would teach the generator to copy
            apart = (cells[rows[:, at]].float() * to_unit - own).square().mean(1)
            values[:, at] = values[:, at].masked_fill(apart < NEAR_COPY, -torch.inf)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :CANDIDATES]
        picked = rows.gather(1, order).masked_fill(values.gather(1, order) == -torch.inf, -1)
        found[start : start + len(mine), : picked.shape[1]] = picked.cpu().numpy()
    return found
