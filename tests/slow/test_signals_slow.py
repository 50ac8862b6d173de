"""The full count of the promise about signals to a run. One seed: T2I_SEED."""

import time
from pathlib import Path

import pytest

from tests.slow.summary import SEED, count, run_script, share

pytestmark = pytest.mark.slow


def test_7_signals(memory: Path):
    begun = time.monotonic()
    told = run_script("train_faults.py", "signals", memory, share(500), SEED)
    print(f"\n{told.get('counts')}")
    count("7: SIGTERM, SIGINT, SIGUSR1 to `t2i train`", told["cases"], told["failures"], begun)
