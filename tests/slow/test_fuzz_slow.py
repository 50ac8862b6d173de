"""Every parser of strangers' bytes against many inputs, in children that may crash. One seed: T2I_SEED."""

import time
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.slow.summary import SEED, count, run_script, share

pytestmark = pytest.mark.slow
CASES = {"weights": 10_000, "metadata": 10_000, "tokenizer": 10_000, "picture": 20_000}


@pytest.mark.parametrize("target", TARGETS)
def test_12_to_16_parsers(target: str, memory: Path):
    begun, cases = time.monotonic(), share(CASES.get(target, 100_000))
    told = run_script("fuzz/many.py", target, memory, cases, SEED)
    print(
        f"\n{target}: the slowest took {told['slowest, s']} s, memory grew by {told['grown, MB']} MB"
    )
    count(
        f"fuzzed: {target}, sound inputs changed at random", told["cases"], told["failures"], begun
    )
