"""The only place that reads and writes weights, a run's state, and files that must survive.

Enters: tensors by name, a config, a tokenizer's bytes. Leaves: one safetensors file; a state
    folder; and back again,
checked whole. Reading what a file says about itself imports no torch.
"""

from __future__ import annotations

from t2i_cli.checkpoint.evaluation import evaluation_file, load_lite0
from t2i_cli.checkpoint.files import append_line, remove_orphans, truncate_log, write_atomic
from t2i_cli.checkpoint.lock import RunLock, holder_of
from t2i_cli.checkpoint.pairs import drop_pairs, keep_pairs, kept_pairs
from t2i_cli.checkpoint.state import RunState, load_state, save_state, saved_step
from t2i_cli.checkpoint.status import read_status, write_status
from t2i_cli.checkpoint.weights import (
    LoadedModel,
    WeightsInfo,
    check_reader,
    load_model,
    read_info,
    read_reader,
    resolve_model,
    save_model,
    shipped_models,
)

__all__ = [
    "LoadedModel",
    "RunLock",
    "RunState",
    "WeightsInfo",
    "append_line",
    "check_reader",
    "drop_pairs",
    "evaluation_file",
    "holder_of",
    "keep_pairs",
    "kept_pairs",
    "load_lite0",
    "load_model",
    "load_state",
    "read_info",
    "read_reader",
    "read_status",
    "remove_orphans",
    "resolve_model",
    "save_model",
    "save_state",
    "saved_step",
    "shipped_models",
    "truncate_log",
    "write_atomic",
    "write_status",
]
