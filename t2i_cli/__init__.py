"""Text to image on your own machine: the public door.

>>> from t2i_cli import load
>>> picture = load().sample("a red cat", seed=0)  # doctest: +SKIP

Names are imported when they are first used, so ``import t2i_cli`` costs nothing. The verbs are modules of their own:
``t2i_cli.train.train``, ``t2i_cli.data.scan``, ``t2i_cli.evaluate`` and so on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2i_cli.config import ModelConfig, TrainConfig
    from t2i_cli.errors import T2IError
    from t2i_cli.sample import Model, load
    from t2i_cli.tokenizer import Tokenizer
    from t2i_cli.train import TrainSettings

__version__ = "0.2.0"

__all__ = [
    "Model",
    "ModelConfig",
    "T2IError",
    "Tokenizer",
    "TrainConfig",
    "TrainSettings",
    "__version__",
    "load",
]

_HOMES = {
    "Model": "t2i_cli.sample",
    "ModelConfig": "t2i_cli.config",
    "T2IError": "t2i_cli.errors",
    "Tokenizer": "t2i_cli.tokenizer",
    "TrainConfig": "t2i_cli.config",
    "TrainSettings": "t2i_cli.train",
    "load": "t2i_cli.sample",
}


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 't2i_cli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
