"""How a run ends, as its folder tells: running, finished, stopped or failed, and why it failed.

A run that is said to be running, and whose lock nobody holds, was killed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2i_cli.checkpoint.files import write_atomic

__all__ = ["STATUSES", "read_status", "write_status"]

STATUSES = ("running", "finished", "stopped", "failed")
_NAME = "status.json"
_MOST = 65_536  # bytes


def write_status(run: Path, status: str, why: str = "") -> None:
    """Say how a run stands.

    Args:
        run: its folder.
        status: one of `STATUSES`.
        why: of one that failed, one line.

    Raises:
        OutputError: it could not be written.
    """
    assert status in STATUSES, status
    text = json.dumps({"status": status, "why": why[:1000]})
    write_atomic(run / _NAME, text.encode() + b"\n")


def read_status(run: Path) -> dict[str, str]:
    """``status`` and ``why`` of a run; empty texts where its folder does not say, or not in this form."""
    told: Any = None
    try:
        with (run / _NAME).open("rb") as file:
            told = json.loads(file.read(_MOST))
    except (OSError, ValueError, RecursionError):
        pass
    if not isinstance(told, dict) or told.get("status") not in STATUSES:
        return {"status": "", "why": ""}
    why = told.get("why")
    return {"status": told["status"], "why": why if isinstance(why, str) else ""}
