"""Captioned pictures on disk -> what is in them, what is wrong with them, and batches of pixels. No torch."""

from __future__ import annotations

from t2i_cli.data.dataset import CaptionedImages, batch_indices, load
from t2i_cli.data.report import DataReport, Problem, Record
from t2i_cli.data.scan import scan

__all__ = ["CaptionedImages", "DataReport", "Problem", "Record", "batch_indices", "load", "scan"]
