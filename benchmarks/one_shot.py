"""One prompt to one PNG, each in a cold process: CPU seconds of t2i, of the plain way, and of importing torch.

    OMP_NUM_THREADS=1 python benchmarks/one_shot.py [--rounds 9] [--model tiny.safetensors --model small.safetensors]

The runs are interleaved, so that whatever else the machine does hits all of them; medians of user + system
time. Without
--model it makes random models of sizes tiny and small: what they draw is noise, what it costs is not.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
T2I = [
    sys.executable,
    "-c",
    "from t2i_cli.__main__ import main; main()",
    "sample",
]  # what the script `t2i` holds
PLAIN = """
import io, sys
import typer
import torch
import sentencepiece
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file


def main(prompt: str, model: str, out: str, seed: int = 0) -> None:
    import json
    from t2i_cli import models
    from t2i_cli.config import ModelConfig
    from t2i_cli.pixels import to_pixels
    with safe_open(model, "pt") as file:
        config = ModelConfig.from_dict(json.loads(file.metadata()["t2i.config"]))
    state = load_file(model)
    words = sentencepiece.SentencePieceProcessor(model_proto=bytes(state.pop("tokenizer").numpy()))
    networks = models.build(config)
    networks.load_state_dict(state)
    networks.eval()
    torch.manual_seed(seed)
    tokens = torch.tensor([[2, *words.encode(prompt), 3]])
    with torch.inference_mode():
        text = networks.text_encoder(tokens, torch.ones_like(tokens, dtype=torch.bool))
        noise = torch.randn(1, config.image_channels, config.resolution, config.resolution)
        images = models.one_step(networks.generator, noise, text)
    Image.fromarray(to_pixels(images.numpy())[0]).save(out)


typer.run(main)
"""


def random_model(folder: Path, size: str, resolution: int = 64) -> Path:
    """A model with random weights of a preset."""
    code = (
        "import sys, torch; from t2i_cli import models; from t2i_cli.checkpoint import save_model\n"
        "from t2i_cli.config import model_config; from t2i_cli.tokenizer import train_tokenizer\n"
        "tokenizer = train_tokenizer([' '.join(f'{a}{b}' for b in 'abcdefghij') for a in 'klmnopqrstuvwxyz'], 4096)\n"
        f"config = model_config({size!r}, {resolution}, vocab_size=tokenizer.vocab_size); torch.manual_seed(0)\n"
        "networks = models.build(config)\n"
        "[torch.nn.init.normal_(p, std=0.02) for p in networks.parameters() if p.abs().max() == 0]\n"
        "states = {n: m.state_dict() for n, m in networks.named_children()}\n"
        "save_model(sys.argv[1], states, config, tokenizer.to_bytes(), title=sys.argv[2])\n"
    )
    path = folder / f"{size}-{resolution}.safetensors"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code, path, f"random {size}"], check=True, env=environment
    )
    return path


def cost(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, check=True, env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", action="append", type=Path, default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = given.model or [random_model(folder, "tiny"), random_model(folder, "small")]
        (folder / "plain.py").write_text(PLAIN)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(folder / "pyc"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "python": [sys.executable, "-c", "pass"],
        }
        commands["import numpy, onnxruntime, sentencepiece"] = [
            sys.executable,
            "-c",
            "import numpy, onnxruntime, sentencepiece",
        ]
        for model in models:
            out = str(folder / "out.png")
            commands[f"t2i {model.stem}"] = [
                *T2I,
                "a red cat",
                "-m",
                str(model),
                "-o",
                out,
                "-f",
            ]
            commands[f"plain {model.stem}"] = [
                sys.executable,
                str(folder / "plain.py"),
                "a red cat",
                str(model),
                out,
            ]
        for command in commands.values():
            cost(command, environment)  # caches, byte code, the graph
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(given.rounds):
            for name, command in commands.items():
                seen[name].append(cost(command, environment))
    cpu = {name: statistics.median(row[0] for row in rows) for name, rows in seen.items()}
    wall = {name: statistics.median(row[1] for row in rows) for name, rows in seen.items()}
    print(f"{'':44}  CPU ms  wall ms  of import torch  of the plain way")
    for name in commands:
        plain = cpu.get(name.replace("t2i ", "plain ")) if name.startswith("t2i ") else None
        print(f"{name:44} {1000 * cpu[name]:7.0f} {1000 * wall[name]:8.0f} {cpu[name] / cpu['import torch']:16.3f}"
              + (f" {cpu[name] / plain:17.3f}" if plain else ""))  # fmt: skip
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "rounds": given.rounds}))


if __name__ == "__main__":
    main()
