"""Where this tool keeps what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_folder"]


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
