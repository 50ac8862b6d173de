"""Many changed inputs for one target, in children that may crash; prints JSON: cases, failures and what it took.

python tests/fuzz/many.py TARGET FOLDER N SEED
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent.parent), str(Path(__file__).parent.parent)]

from tests.fuzz.mutate import mutated  # noqa: E402
from tests.fuzz.targets import TARGETS, seeds  # noqa: E402

BATCH = 500  # inputs a child
SLOW = 10.0  # s that one input may take, on a busy machine


def batch(target: str, folder: Path, numbers: range, seed: int) -> None:
    """What a child does: its inputs, each kept on disk while it is tried; a line for each that fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    slowest, base = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures: list[str] = []
    for number in numbers:
        data = input_of(target, number, seed)
        (folder / "now").write_text(str(number))
        begun = time.monotonic()
        try:
            TARGETS[target](data)
        except BaseException as error:
            failures.append(f"input {number}: {error!r}"[:400])
        slowest = max(slowest, time.monotonic() - begun)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024
    (folder / "told").write_text(json.dumps([failures, slowest, grown]))


def input_of(target: str, number: int, seed: int) -> bytes:
    chance = random.Random(seed * 1_000_003 + number)
    return mutated(chance.choice(seeds(target)), chance)


def main(target: str, folder: Path, count: int, seed: int) -> dict[str, object]:
    failures: list[str] = []
    slowest, grown = 0.0, 0
    TARGETS[target](seeds(target)[0])  # everything is imported before the children need it
    for start in range(0, count, BATCH):
        (folder / "told").unlink(missing_ok=True)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                batch(target, folder, range(start, min(start + BATCH, count)), seed)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status or not (folder / "told").exists():
            failures.append(f"input {(folder / 'now').read_text()}: the process died: {status}")
            continue
        found, longest, more = json.loads((folder / "told").read_text())
        failures += found
        slowest, grown = max(slowest, longest), max(grown, more)
    if slowest > SLOW:
        failures.append(f"an input took {slowest:.1f} s")
    return {
        "cases": count,
        "failures": failures,
        "slowest, s": round(slowest, 2),
        "grown, MB": grown,
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        told = main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(told))
