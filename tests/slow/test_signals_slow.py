"""The full count of the promise about signals to a run. One seed: T2I_SEED. SIGNALS=N sends so many instead of 500."""

import os
import time
from pathlib import Path

import pytest

from tests.slow.summary import SEED, count, run_script

pytestmark = pytest.mark.slow


def test_7_signals(memory: Path):
    begun = time.monotonic()
    told = run_script(
        "train_faults.py", "signals", memory, int(os.environ.get("SIGNALS", "500")), SEED
    )
    print(f"\n{told.get('counts')}")
    count("7: SIGTERM, SIGINT, SIGUSR1 to `t2i train`", told["cases"], told["failures"], begun)
