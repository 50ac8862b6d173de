"""Drawing after pictures that a model has never seen: ``t2i sample --like FILE|FOLDER``.

Each picture is encoded to latents, and to features in the space of the texts, by which a prompt finds those that fit it
best; captions are not needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import numpy as np

from t2i_cli.errors import UsageError
from t2i_cli.pixels import as_images
from t2i_cli.references import CANDIDATES, COUNT, ReferenceStore, quantised_latents
from t2i_cli.runtime import Runtime, Text
from t2i_cli.sample import Model, picture_bytes

__all__ = ["store_of", "use"]

MOST = 1000  # pictures
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


def use(model: Model, path: str, references: int | None = None) -> None:
    """Let a model draw after the pictures of a file or folder, in place of those that it learned from.

    Args:
        model: draws.
        path: a picture, or a folder of them.
        references: how many a picture are wanted, as `--references` says; 0 is refused.

    Raises:
        UsageError: `--references 0` beside it, or a folder without pictures, or of more than 1000.
        InputError: a picture cannot be read.
    """
    if references == 0:
        raise UsageError("--like and --references 0 exclude each other", "leave one of them out")
    files = {name: picture_bytes(name) for name in _names(path)}
    store, features = store_of(model.runtime, files)
    model.like_hashes = tuple(hashlib.sha256(content).hexdigest() for content in files.values())

    def nearest(text: Text, count: int) -> ReferenceStore:
        """The pictures that fit a text best: as many as a seed chooses among."""
        order = np.argsort(-(features @ text.text_features), kind="stable")
        some = order[: max(CANDIDATES, 2 * (count or COUNT))]
        return ReferenceStore(**{name: values[some] for name, values in store.arrays().items()})

    model.like = nearest


def _names(path: str) -> list[str]:
    if not os.path.isdir(path):  # noqa: PTH112
        return [path]
    names = sorted(
        os.path.join(path, name)  # noqa: PTH118
        for name in os.listdir(path)  # noqa: PTH208
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )
    if not names:
        raise UsageError(
            f"--like {path}: no picture in this folder", "give a picture, or a folder of them"
        )
    if len(names) > MOST:
        raise UsageError(f"--like {path}: {len(names):,} pictures", f"give {MOST:,} at most")
    return names


def store_of(runtime: Runtime, files: Mapping[str, bytes]) -> tuple[ReferenceStore, np.ndarray]:
    """A store of pictures, and their features, float32 (n, d), unit norm.

    Args:
        runtime: encodes them.
        files: name, as an error calls it -> content.

    Raises:
        InputError: one of them is no picture.
    """
    from t2i_cli import images

    config = runtime.config
    latents: list[np.ndarray] = []
    features: list[np.ndarray] = []
    for name, content in files.items():
        pixels = images.decode(content, name=name)
        image = as_images(images.fit(pixels, config.resolution)[None])
        latents.append(runtime.latents(image))
        features.append(runtime.image_features(image))
    count = len(files)
    kinds = np.array([[len(one.values) for one in config.attributes]] * count, np.int16)
    store = ReferenceStore(
        quantised_latents(np.concatenate(latents)),
        np.ones((count, config.text.dim), np.int8),
        kinds.reshape(count, -1),
        np.arange(count, dtype=np.int32),
    )
    return store, np.concatenate(features)
