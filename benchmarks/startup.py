"""What a command costs in a cold process, against importing torch: `python -m benchmarks.startup [--model FILE]`.

`t2i --help` and its like, and one prompt to one PNG at the default steps. Prints a line a command: the median wall and
CPU time of a fresh process, and the ratio of its CPU time to that of importing torch. The runs are interleaved, so that
whatever else the machine does hits all of them. Without --model, models of sizes tiny and small with random weights and
1,000 random references are made: what they draw is noise, what it costs is not. Exits 1 where `--help` takes a quarter
of importing torch or more.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
T2I = [sys.executable, "-m", "t2i_cli"]
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "python -c pass": [sys.executable, "-c", "pass"],
    "t2i --version": [*T2I, "--version"],
    "t2i --help": [*T2I, "--help"],
    "t2i train -h": [*T2I, "train", "-h"],
    "t2i check (empty folder)": [*T2I, "check", "."],
}
# what the installed script `t2i` holds
SAMPLE = [sys.executable, "-c", "from t2i_cli.__main__ import main; main()", "sample", "a red cat"]
REFERENCES = 1000  # of a random model


def random_model(folder: Path, size: str, resolution: int = 64) -> Path:
    """A model of a preset with random weights and references."""
    import numpy as np
    import torch

    from t2i_cli import models
    from t2i_cli.checkpoint import save_model
    from t2i_cli.config import model_config
    from t2i_cli.references import ReferenceStore
    from t2i_cli.tokenizer import train_tokenizer

    texts = (" ".join(f"{a}{b}" for b in "abcdefghij") for a in "klmnopqrstuvwxyz")
    tokenizer = train_tokenizer(texts, 4096)
    config = model_config(size, resolution, tokenizer.vocab_size)
    torch.manual_seed(0)
    networks = models.build(config)
    for parameter in networks.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.02)
    random = np.random.default_rng(0)
    n, c = config.cells, config.latent_channels
    store = ReferenceStore(
        random.integers(-60, 61, (REFERENCES, c, n, n)).astype(np.int8),
        random.integers(-127, 128, (REFERENCES, config.text.dim)).astype(np.int8),
        np.zeros((REFERENCES, 0), np.int16),
        np.arange(REFERENCES, dtype=np.int32),
    )
    path = folder / f"{size}-{resolution}.safetensors"
    states = {name: network.state_dict() for name, network in networks.named_children()}
    save_model(path, states, config, tokenizer.to_bytes(), references=store, title=f"random {size}")
    return path


def cost(
    command: Sequence[str], environment: Mapping[str, str], folder: str | None = None
) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", action="append", type=Path, default=[])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = asked.model or [random_model(folder, "tiny"), random_model(folder, "small")]
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(folder / "pyc"),
        }  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = dict(COMMANDS)
        (folder / "empty").mkdir()
        for model in found:
            out = str(folder / "out.png")
            commands[f"t2i sample, {model.stem}"] = [
                *SAMPLE, "-m", str(model.resolve()), "-o", out, "-f",
            ]  # fmt: skip
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(asked.rounds + 1):
            for name, command in commands.items():
                taken = cost(command, environment, str(folder / "empty"))
                if number:  # the first round warms the disk's cache, and makes the graphs
                    times[name].append(taken)
        assert (folder / "out.png").exists(), "t2i sample drew nothing"
    cpus = {name: statistics.median(cpu for cpu, _ in rows) for name, rows in times.items()}
    walls = {name: statistics.median(wall for _, wall in rows) for name, rows in times.items()}
    for name in commands:
        ratio = cpus[name] / cpus["import torch"]
        wall, cpu = walls[name] * 1000, cpus[name] * 1000
        print(f"{name:<26} {wall:7.0f} ms wall {cpu:7.0f} ms CPU {ratio:6.2f} of import torch")
    return int(cpus["t2i --help"] >= 0.25 * cpus["import torch"])


if __name__ == "__main__":
    sys.exit(main())
