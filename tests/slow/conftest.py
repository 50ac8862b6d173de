"""Each slow test file prints its seed first and the summary of its promises last."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slow.summary import ROWS, SEED


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print the seed first and the summary last."""
    print(f"\nseed: T2I_SEED={SEED}")
    before = len(ROWS)
    yield
    print("\n| promise | cases | failures | time |\n|---|---|---|---|")
    for promise, cases, failed, seconds in ROWS[before:]:
        print(f"| {promise} | {cases:,} | {failed} | {seconds:.0f} s |")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix="t2i-slow-") as folder:
        yield Path(folder)
