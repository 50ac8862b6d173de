"""SIGKILL at random moments of `t2i sample`, and what lies about after the next start."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def kill_sampling(weights: Path, place: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """Kill cold starts, warm ones and streams, that make new files and that overwrite; then start once more.

    Returns:
        How many were killed while they worked, and what was left afterwards, of all of them together.
    """
    draw = random.Random(seed)
    temporary, cache, out = place / "tmp", place / "cache", place / "out"
    for folder in (temporary, out):
        folder.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).parent.parent)
    env = {
        **os.environ, "TMPDIR": str(temporary), "T2I_CACHE": str(cache), "PYTHONPATH": root,
    }  # fmt: skip
    kept = Path(os.environ["T2I_CACHE"]) / "graphs"
    shutil.copytree(kept, cache / "graphs", dirs_exist_ok=True)
    line = [sys.executable, "-m", "t2i_cli", "sample", "-", "-m", str(weights)]
    line += ["-o", f"{out}/{{i}}.png"]
    prompts = "".join(f"ball {k}\n" for k in range(400)).encode()
    killed, left = 0, list[str]()
    while killed < kills:
        if draw.random() < 0.5:
            shutil.rmtree(cache / "ready", ignore_errors=True)
        flags = draw.choice([["-f"], ["--skip-existing"]])
        if flags != ["-f"]:
            shutil.rmtree(out)
            out.mkdir()
        process = subprocess.Popen(
            [*line, *flags], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=env,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(prompts)
        time.sleep(draw.uniform(0.1, 1.5))
        process.kill()
        process.stdin.close()
        killed += process.wait() == -signal.SIGKILL
        done = subprocess.run([*line, "-f"], input=b"ball\n", capture_output=True, env=env)
        assert done.returncode == 0, done.stderr
        left += [
            str(path)
            for path in (*temporary.rglob("*"), *cache.rglob(".*"), *out.glob(".*"))
            if path.is_file() or not any(path.iterdir())
        ]
    return killed, left
