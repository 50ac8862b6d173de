"""What `t2i check` costs on a large folder: the first time, and again when its files have not changed.

    python benchmarks/check_many.py [--pictures 50000] [--folder FOLDER]

The folder holds as many small PNGs, each with a text beside it: twice as many files. Each run is a process of its own:
seconds of one core (user and system), the peak of its memory, and when it first told how far it was. Goal, for 100,000
files: under 20 s of one core when cached, progress from the first second, under 500 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from t2i_cli import images

WORK = """
import json, resource, sys, time
from pathlib import Path
started = time.monotonic()
from t2i_cli.check import check
first = []
def progress(done, total):
    if not first:
        first.append(time.monotonic() - started)
report = check(sys.argv[1], cache=Path(sys.argv[2]), progress=progress)
lines = report.lines
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"pairs": report.data.pairs, "wall_s": round(time.monotonic() - started, 2),
    "core_s": round(used.ru_utime + used.ru_stime, 2), "peak_mb": used.ru_maxrss // 1024,
    "first_progress_s": round(first[0], 3)}))
"""


def fill(folder: Path, count: int) -> None:
    """Pictures of 64 px of which no two are the same, 1,000 a folder, with a text each."""
    ground = (
        np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    for number in range(count):
        if number % 1000 == 0:
            inside = folder / f"{number // 1000:03}"
            inside.mkdir(parents=True)
        pixels = ground.copy()
        pixels[0, :4, 0] = list(number.to_bytes(4, "little"))
        (inside / f"{number:06}.png").write_bytes(images.encode(pixels))
        (inside / f"{number:06}.txt").write_text(f"picture number {number} of many")


def measured(folder: Path, cache: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(folder), str(cache)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument(
        "--folder", type=Path, help="one that is there already, instead of a made one"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = asked.folder or Path(place) / "data"
        if asked.folder is None:
            fill(folder, asked.pictures)
            time.sleep(3)  # what has only just changed is not kept
        for name in ("first", "again"):
            print(json.dumps({"run": name, **measured(folder, Path(place) / "cache")}), flush=True)


if __name__ == "__main__":
    main()
