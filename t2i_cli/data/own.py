"""What t2i wrote is never read as data: run folders, caches, exported models, and pictures that it drew.

`is_own_folder` looks at the names in a folder, `is_own_picture` at what every picture of `t2i sample` says in its own
bytes (`t2i_cli.metadata`). `t2i_cli.data.layouts` leaves both out, whatever the layout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from t2i_cli.data.report import FAULTS, DataReport, Problem
from t2i_cli.folders import cache_folder
from t2i_cli.metadata import MARKS

__all__ = [
    "RUN_FOLDERS",
    "RUN_TEXTS",
    "is_own_folder",
    "is_own_picture",
    "is_run",
    "own_pictures",
    "with_own",
]

_IN_GIF = re.compile(rb'!\xfe.\{"prompt": "', re.DOTALL)  # a recipe as its comment
_THREADS = 8  # that look into files
_MOST = 1 << 18  # bytes at each end of a file that are looked through
_RUN_FILES = frozenset(
    ("log.jsonl", "state", "model.safetensors", "data.json", "tokenizer.model", "words.txt")
)
RUN_FOLDERS = frozenset(
    ("samples", "state", "tensorboard")
)  # of a run, where the data is in the same folder
RUN_TEXTS = frozenset(
    ("log.jsonl", "data.json", "words.txt")
)  # likewise: files that may be taken for data
_SETS = (  # files that are found together in what t2i makes, and nowhere else
    frozenset(("pixels.bin", "index.json")),  # decoded pictures
    frozenset(("about.json", "tokenizer.model", "words.txt")),  # graphs that are ready
    frozenset(("config.json", "tokenizer.model", "words.txt")),  # an exported model
)


def is_run(names: Collection[str]) -> bool:
    """Whether a folder that holds these names is a run of `t2i train`."""
    return "config.toml" in names and not _RUN_FILES.isdisjoint(names)


def is_own_folder(path: Path | str, names: Collection[str]) -> bool:
    """Whether t2i made a folder and all that is in it.

    Args:
        path: of the folder.
        names: that lie in it.
    """
    if is_run(names) or any(some <= set(names) for some in _SETS):
        return True
    return os.path.realpath(path) == os.path.realpath(cache_folder())


def is_own_picture(path: Path | str) -> bool:
    """Whether a file is a picture that t2i drew; one that cannot be read is not."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a Path each is slow)
            head = file.read(_MOST)
            tail = b""
            if len(head) == _MOST:
                file.seek(max(_MOST, file.seek(0, os.SEEK_END) - _MOST))
                tail = file.read(_MOST)
    except OSError:
        return False
    if any(mark in head or mark in tail for mark in MARKS):
        return True
    return head.startswith(b"GIF8") and _IN_GIF.search(head) is not None


def own_pictures(root: Path, names: Iterable[str]) -> list[str]:
    """Which of some pictures under a folder t2i drew, in their order."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS, "t2i-own") as pool:
        found = pool.map(is_own_picture, (f"{root}/{name}" for name in names), chunksize=64)
        return [name for name, own in zip(names, found, strict=True) if own]


def with_own(report: DataReport, own: tuple[str, ...]) -> DataReport:
    """A report, maybe an earlier one of the same pictures, that says what t2i wrote there now."""
    others = tuple(problem for problem in report.problems if problem.kind != "own")
    added = (Problem("own", own, "", FAULTS["own"].mend),) if own else ()
    return replace(report, problems=others + added)
