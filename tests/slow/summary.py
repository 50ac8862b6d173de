"""What the slow tests share: one seed, a row of the summary for each promise, and scripts that fork and are killed."""

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

SEED = int(os.environ.get("T2I_SEED") or secrets.randbelow(10**9))
SHARE = float(
    os.environ.get("T2I_SHARE") or 1
)  # of the full counts, for a machine that has less time
ROWS: list[tuple[str, int, int, float]] = []  # promise, cases, failures, seconds
TESTS = Path(__file__).parent.parent


def share(cases: int) -> int:
    """As many cases as T2I_SHARE leaves of a full count."""
    return max(1, round(cases * SHARE))


def count(promise: str, cases: int, failures: list[str], begun: float) -> None:
    """Note a row of the summary, then fail where something failed."""
    ROWS.append((promise, cases, len(failures), time.monotonic() - begun))
    assert failures == [], failures[:20]


def run_script(name: str, *arguments: object) -> dict:
    """The JSON that a script of tests/ prints: it forks and kills, which a process with threads should not do."""
    done = subprocess.run(
        [sys.executable, str(TESTS / name), *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        },
    )
    assert done.returncode == 0, f"{name} {arguments} ended with {done.returncode}"
    return json.loads(done.stdout)
