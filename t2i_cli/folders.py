"""Where this tool keeps what it can make again, and where the model lies that most commands use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["DEFAULT_MODEL", "cache_folder", "plain_model"]

DEFAULT_MODEL = "icons"  # of the shipped ones; the first by name where it is not there


def cache_folder(given: Path | str | None = None) -> Path:
    """Where caches live: what is given, ``T2I_CACHE``, or the platform's own folder for them."""
    if given:
        return Path(given)
    if named := os.environ.get("T2I_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "t2i"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(local) / "t2i" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i"


def plain_model(name: Path | str | None) -> Path | None:
    """What `checkpoint.resolve_model` answers where that is plain: a file's path, or the shipped default; else None.

    It saves a cold `t2i sample` from importing `checkpoint`.
    """
    name = name if name is not None else os.environ.get("T2I_MODEL") or None
    if name is not None:
        return Path(name) if not str(name).startswith("hf:") and os.path.isfile(name) else None  # noqa: PTH113
    package = os.path.dirname(__file__)  # noqa: PTH120
    for folder in (package, os.path.dirname(package)):  # noqa: PTH120
        path = os.path.join(folder, "weights", f"{DEFAULT_MODEL}.safetensors")  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113
            return Path(path)
    return None
