"""The full counts of what several processes promise, under the real torchrun."""

import time
from pathlib import Path

import pytest

from tests.slow.summary import SEED, count, run_script

pytestmark = pytest.mark.slow


def test_any_process_or_the_launcher_killed(tmp_path: Path) -> None:
    """All end within 60 s and not with 0; resumed, each run ends in the undisturbed run's weights and optimizers."""
    begun = time.monotonic()
    told = run_script("torchrun_faults.py", "kills", tmp_path, 20, SEED)
    print(told)
    count("6: a process killed under torchrun", told["cases"], told["failures"], begun)
    assert told["cases"] >= 20
    assert told["slowest"] < 60


def test_signals_to_any_process_or_all(tmp_path: Path) -> None:
    """Both processes end with 143 or 130 after one save; resumed, each run ends in the undisturbed run's weights."""
    begun = time.monotonic()
    told = run_script("torchrun_faults.py", "signals", tmp_path, 12, SEED)
    print(told)
    count("7: a signal under torchrun", told["cases"], told["failures"], begun)
    assert told["cases"] >= 12
