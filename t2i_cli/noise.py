"""A seed -> the noise of one picture. One generator a picture, so a batch never changes what a seed draws.

numpy's ``RandomState`` distributions are frozen by its compatibility policy (NEP 19) and Philox is counter based, so
a seed draws the same noise on every device and with every later numpy.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MAX_SEED", "noise_for"]

MAX_SEED = 2**63 - 1  # a seed is an integer in 0..MAX_SEED


def noise_for(seed: int, channels: int, resolution: int) -> np.ndarray:
    """Standard normal noise, float32 (channels, resolution, resolution), that depends on the seed alone."""
    stream = np.random.RandomState(np.random.Philox(key=seed))
    return stream.standard_normal((channels, resolution, resolution)).astype(np.float32)
