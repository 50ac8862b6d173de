"""Libraries that report home unless they are told not to: the only file that imports them.

ONNX Runtime 1.32 writes a device id and an event database below the home folder and sends events. transformers and
its hub count what is loaded. torch's compiler makes a folder in the temporary folder when it is imported, and asks the
name service who the user is. Each is imported with that turned off, before its first line runs.
"""

from __future__ import annotations

import os
from typing import Any

from t2i_cli.errors import UsageError

__all__ = ["SILENCE", "Compiler", "onnxruntime", "silence", "transformers"]

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"

SILENCE = {  # name of an environment variable -> the value that turns reports off
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "YES",
    "DO_NOT_TRACK": "1",
}


def silence() -> None:
    """Turn the reports of every library off in this process and in those that it starts."""
    os.environ.update(SILENCE)


def onnxruntime() -> Any:
    """The module ``onnxruntime``, silent."""
    silence()
    import onnxruntime

    return onnxruntime


class Compiler:
    """Imports torch's compiler, which optimizers, exporters and transformers do behind one's back, and leaves nothing.

    What imports more of it (the ONNX exporter does) runs inside a ``with`` of this. Enter it before the first of them.
    """

    def __init__(self) -> None:
        self._added: dict[str, str] = {}

    def __enter__(self) -> None:
        import tempfile  # here, for a cold start has no time for it

        wanted = {_FOLDER: tempfile.gettempdir()}  # is there already
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            wanted["LOGNAME"] = "t2i"
        self._added = {name: text for name, text in wanted.items() if name not in os.environ}
        os.environ.update(self._added)
        import torch._dynamo  # pyright: ignore[reportUnusedImport]  # noqa: F401

    def __exit__(self, *_: object) -> None:
        for name in self._added:
            os.environ.pop(name, None)


def transformers(asked: str) -> Any:
    """The module ``transformers``, silent.

    Args:
        asked: the option that needs it, as the user wrote it.

    Raises:
        UsageError: it is not installed.
    """
    silence()
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"{asked}: needs transformers", "pip install 't2i-cli[hf]'") from error

    with Compiler():
        return transformers
