"""Captioned pictures on disk -> what is in them, what is wrong, and batches of pixels. No torch."""

from __future__ import annotations

from t2i_cli.data.cache import cache_folder
from t2i_cli.data.dataset import CaptionedImages, batch_indices, load
from t2i_cli.data.drawn import load_drawn
from t2i_cli.data.layouts import CaptionsFrom
from t2i_cli.data.report import DataReport, Problem, Record
from t2i_cli.data.scan import scan

__all__ = [
    "CaptionedImages",
    "CaptionsFrom",
    "DataReport",
    "Problem",
    "Record",
    "batch_indices",
    "cache_folder",
    "load",
    "load_drawn",
    "scan",
]
