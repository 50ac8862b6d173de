"""Names of files and folders -> the split that they name: train, val or test. They are never classes or captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

__all__ = ["GENERIC_FOLDERS", "split_name", "splits_of", "without_split"]

# folders that say what kind of file they hold, not what it shows
GENERIC_FOLDERS = frozenset(
    (
        *("images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "data"),
        *("captions", "labels", "texts", "annotations"),
    )
)
_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_WORDS = "|".join(sorted(_NAMES, key=len, reverse=True))
_WHOLE = re.compile(rf"({_WORDS})[_-]?(?:20\d\d)?", re.IGNORECASE)
_PREFIX = re.compile(rf"({_WORDS})(?:20\d\d)?[_\-.]+(?=.)", re.IGNORECASE)


def split_name(name: str) -> str:
    """The split that a name is, or an empty text.

    >>> split_name("Validation"), split_name("train2017"), split_name("trainers")
    ('val', 'train', '')
    """
    found = _WHOLE.fullmatch(name.strip())
    return _NAMES[found[1].lower()] if found else ""


def without_split(stem: str) -> str:
    """A file's name without the split in front of it; a split alone is nothing.

    >>> without_split("train_red_cat"), without_split("test-0042"), without_split("val")
    ('red_cat', '0042', '')
    """
    return "" if split_name(stem) else _PREFIX.sub("", stem, count=1)


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """The split of each file that a folder's name or a prefix of its own puts into one.

    A folder that is called so counts anywhere in a path. A prefix counts where a number follows
    it (``train_001.png``), or where every file of the folder has one (``train_cat.png``,
    ``test_dog.png``): one ``test_tube.png`` among others is a picture of a test tube.

    Args:
        names: relative paths with forward slashes.
    """
    found: dict[str, str] = {}
    prefixed: dict[str, str] = {}
    all_of, with_prefix = Counter[str](), Counter[str]()
    of_folder: dict[str, str] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        all_of[folder] += 1
        if folder not in of_folder:
            parts = PurePosixPath(folder).parts
            of_folder[folder] = next(
                (split for part in reversed(parts) if (split := split_name(part))), ""
            )
        if of_folder[folder]:
            found[name] = of_folder[folder]
        elif (match := _PREFIX.match(base)) is not None:
            with_prefix[folder] += 1
            split = _NAMES[match[1].lower()]
            if base[match.end()].isdigit():
                found[name] = split
            else:
                prefixed[name] = split
    for name, split in prefixed.items():
        folder = name.rpartition("/")[0]
        if with_prefix[folder] == all_of[folder] and all_of[folder] > 1:
            found[name] = split
    return found
