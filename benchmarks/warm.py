"""Milliseconds of CPU a picture, warm: t2i against the floor and named rivals, in one interleaved run, one thread.

    OMP_NUM_THREADS=1 python benchmarks/warm.py [--rounds 7] [--size tiny] [--model FILE] [--rivals PYTHON]

The floor is the generator's operations (counted by torch) over the rate of a dense 3x3 convolution measured
in the same run: no program that computes them with that convolution can be faster. Rivals need packages that
t2i does not: give the interpreter of a virtual environment made with

    python -m venv /tmp/rivals && /tmp/rivals/bin/pip install torch diffusers gigagan-pytorch

Every rival gets random weights: what is measured is what a picture costs, not what it looks like. On CUDA:
--device cuda.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RIVALS = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
made = {}
try:
    import diffusers
    unet = diffusers.UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=256,
        attention_head_dim=8).eval()
    noise, said = torch.randn(1, 4, 64, 64), torch.randn(1, 16, 256)
    parameters = sum(p.numel() for p in unet.parameters()) / 1e6
    def steps(count):
        def run():
            x = noise
            for step in range(count):
                x = x - unet(x, 999 - step, said).sample / count
        return run
    for count in (1, 4, 50):
        name = f"diffusers {diffusers.__version__} UNet {parameters:.0f} M, {count} step" + "s" * (count > 1)
        made[name] = steps(count)
except Exception as error:
    print(json.dumps({"name": "diffusers", "error": repr(error)[:200]}), flush=True)
try:
    import importlib.machinery
    from unittest.mock import MagicMock
    for missing in ("torchvision", "torchvision.utils", "torchvision.transforms", "torchvision.transforms.functional",
                    "open_clip"):  # imported for training and for CLIP's text encoder; the generator needs neither
        stub = MagicMock()
        stub.__spec__, stub.__path__ = importlib.machinery.ModuleSpec(missing, None), []
        sys.modules[missing] = stub
    import gigagan_pytorch
    from importlib.metadata import version
    generator = gigagan_pytorch.Generator(dim_capacity=8, style_network=dict(dim=64, depth=4), image_size=64,
                                          dim_max=512, num_skip_layers_excite=4, unconditional=True).eval()
    parameters = sum(p.numel() for p in generator.parameters()) / 1e6
    seed = torch.randn(1, 64)
    made[f"gigagan-pytorch {version('gigagan-pytorch')} generator {parameters:.0f} M"] = lambda: generator(noise=seed)
except Exception as error:
    print(json.dumps({"name": "gigagan-pytorch", "error": repr(error)[:200]}), flush=True)
for name in made:
    print(json.dumps({"name": name}), flush=True)
print("ready", flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        start = time.process_time()
        made[line.strip()]()
        print(time.process_time() - start, flush=True)
"""


def convolution_rate(torch):
    """Floating-point operations a CPU second of a dense 3x3 convolution, fp32, channels-last."""
    images = torch.randn(16, 128, 16, 16).to(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3).to(memory_format=torch.channels_last)
    start = time.process_time()
    for _ in range(4):
        torch.conv2d(images, weight, padding=1)
    return 4 * 2 * 16 * 16 * 16 * 128 * 128 * 9 / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rivals", help="a Python with diffusers and gigagan-pytorch")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    import numpy as np
    import torch
    from one_shot import random_model
    from torch.utils.flop_counter import FlopCounterMode

    from t2i_cli.runtime import TorchRuntime, open_runtime
    from t2i_cli.sample import Model, Wish

    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory()
    path = given.model or random_model(Path(folder.name), given.size)
    reference = TorchRuntime(path, "cpu")
    config = reference.config
    side = config.resolution
    noise = torch.randn(1, config.image_channels, side, side)
    text = reference.encode("a red cat on a green hill")
    embeds, style = torch.from_numpy(text.text_embeds)[None], torch.from_numpy(text.style)[None]
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        reference.loaded.networks.generator(noise, torch.ones(1), embeds, mask, style)
    operations = counter.get_total_flops()
    if given.device != "cpu":
        on_device(path, given.device, Model, open_runtime, Wish)
        return

    runtime = open_runtime(path, "cpu")
    model = Model(runtime, path)
    styles = np.stack([text.style] * 16)
    noises = (
        np.random.RandomState(0)
        .standard_normal((16, config.image_channels, side, side))
        .astype(np.float32)
    )
    many, one = [text] * 16, [text]
    number = iter(range(10**9))
    jobs = {
        "t2i, networks alone, batch 16": (lambda: [runtime.draw(noises, many, styles)], 16),
        "t2i, networks alone, batch 1": (lambda: [runtime.draw(noises[:1], one, styles[:1])], 1),
        "t2i, seed to pixels, batch 16": (
            lambda: model.pictures([Wish("a red cat", next(number)) for _ in range(16)]), 16),
        "t2i, 16 new prompts and seeds to pixels": (
            lambda: model.pictures([Wish(f"a red cat number {next(number)}", 0) for _ in range(16)]), 16),
        "torch, the same networks, batch 1": (lambda: reference.draw(noises[:1], one, styles[:1]), 1),
    }  # fmt: skip
    rivals, process = {}, None
    if given.rivals:
        process = subprocess.Popen(
            [given.rivals, "-c", RIVALS],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while (line := process.stdout.readline().strip()) not in ("ready", ""):
            row = json.loads(line)
            print(
                f"not measured: {row['name']}: {row['error']}"
            ) if "error" in row else rivals.update({row["name"]: 1})
    seen = {name: [] for name in (*jobs, *rivals)}
    rates = []
    for job, _ in jobs.values():
        job()
    for turn in range(given.rounds):
        rates.append(convolution_rate(torch))
        for name, (job, count) in jobs.items():
            start = time.process_time()
            job()
            seen[name].append((time.process_time() - start) / count)
        for name in rivals:
            if "50 steps" in name and turn > 1:
                continue  # it takes as long as everything else together
            process.stdin.write(name + "\n")
            process.stdin.flush()
            seen[name].append(float(process.stdout.readline()))
    if process is not None:
        process.stdin.close()
        process.wait()
    rate = statistics.median(rates)
    floor = operations / rate
    print(f"{config.size}, {side} px: {operations / 1e9:.3f} GFLOP a picture, convolution {rate / 1e9:.0f} GFLOP/s, "
          f"floor {1000 * floor:.2f} ms")  # fmt: skip
    for name, values in seen.items():
        if values:
            middle = statistics.median(values)
            print(f"{name:52} {1000 * middle:10.2f} ms   {middle / floor:8.2f} x floor")
    print(
        json.dumps(
            {
                "floor_s": floor,
                "cpu_s": {name: statistics.median(v) for name, v in seen.items() if v},
            }
        )
    )
    folder.cleanup()


def on_device(path, device, model_of, open_runtime, wish_of):
    """Pictures a second on a GPU, seed to pixels, at batch 1 and 256."""
    model = model_of(open_runtime(path, device), path)
    for batch in (1, 256):
        model.runtime.batch = batch
        model.pictures([wish_of("a red cat", seed) for seed in range(batch)])
        start = time.perf_counter()
        for turn in range(5):
            model.pictures([wish_of("a red cat", seed + turn * batch) for seed in range(batch)])
        spent = (time.perf_counter() - start) / 5
        print(f"{device}, batch {batch}: {1000 * spent:.1f} ms, {batch / spent:.0f} pictures/s")


if __name__ == "__main__":
    main()
