"""What the command itself costs: ``t2i --help`` and its like against ``python -c "import torch"``, interleaved.

Prints one line a command: the median wall and CPU time of a fresh process, and the ratio to importing torch. Exits 1
where ``--help`` takes a quarter of that or more.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
PYTHON = [sys.executable]
T2I = [sys.executable, "-m", "t2i_cli"]
COMMANDS = {
    "import torch": [*PYTHON, "-c", "import torch"],
    "python -c pass": [*PYTHON, "-c", "pass"],
    "t2i --version": [*T2I, "--version"],
    "t2i --help": [*T2I, "--help"],
    "t2i train -h": [*T2I, "train", "-h"],
    "t2i check (empty folder)": [*T2I, "check", "."],
}


def measure(command: list[str], cwd: str) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    root = str(Path(__file__).parent.parent)
    subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": root},
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS + 1):
            for name, command in COMMANDS.items():
                taken = measure(command, folder)
                if round_number:  # the first round only warms the disk's cache
                    times[name].append(taken)
    walls = {name: statistics.median(wall for wall, _ in rows) for name, rows in times.items()}
    cpus = {name: statistics.median(cpu for _, cpu in rows) for name, rows in times.items()}
    for name in COMMANDS:
        ratio = cpus[name] / cpus["import torch"]
        wall, cpu = walls[name] * 1000, cpus[name] * 1000
        print(f"{name:<26} {wall:7.0f} ms wall {cpu:7.0f} ms CPU {ratio:6.2f} of import torch")
    return int(cpus["t2i --help"] >= 0.25 * cpus["import torch"])


if __name__ == "__main__":
    sys.exit(main())
