"""Captioned pictures on disk -> what is in them, what is wrong, and batches of pixels. No torch."""

from __future__ import annotations

from t2i_cli.data.cache import cache_folder
from t2i_cli.data.dataset import CaptionedImages, batch_indices, load, share_bad
from t2i_cli.data.drawn import load_drawn
from t2i_cli.data.options import CaptionLines, CaptionsFrom, ReadOptions, share_of
from t2i_cli.data.report import DataReport, Problem, Record
from t2i_cli.data.scan import preview, scan

__all__ = [
    "CaptionLines",
    "CaptionedImages",
    "CaptionsFrom",
    "DataReport",
    "Problem",
    "ReadOptions",
    "Record",
    "batch_indices",
    "cache_folder",
    "load",
    "load_drawn",
    "preview",
    "scan",
    "share_bad",
    "share_of",
]
