"""`make bench` runs to its end on the shipped model and examples/icons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house import bench_lines

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("line", bench_lines(), ids=lambda line: line[0])
def test_a_benchmark_of_make_bench(line: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{line[0]}", *line[1:]], cwd=ROOT, timeout=1800,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
