"""Where a picture's bytes lie: a file of its own, or a stretch of an archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal

from t2i_cli.data import zips

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a file."""

    file: str  # path
    offset: int = 0  # byte in an archive (decompressed); in a Parquet file the row
    size: int = -1  # bytes, -1: the whole file, or not known before it is read
    packed: int = -1  # bytes as they are packed in a zip; -1: not packed
    kind: Literal["file", "tar", "tgz", "zip", "parquet"] = "file"

    @property
    def in_order(self) -> bool:
        """Whether neighbours are read one after the other, because the file cannot be read backwards."""
        return self.kind in ("tgz", "parquet")

    def read(self, file: BinaryIO) -> bytes:
        """The bytes, from the opened archive.

        Raises:
            ValueError: cut off or broken.
        """
        if self.kind == "zip":
            return zips.read(file, self.offset, self.size, self.packed)
        file.seek(self.offset)
        data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError("truncated")
        return data
