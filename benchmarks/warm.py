"""Milliseconds of CPU a picture, warm: t2i against the floor and named rivals, in one interleaved run, one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.warm [--rounds 7] [--size small] [--model FILE] [--rivals PYTHON]

Everything from seed to pixels: references, steps, decoder. The floor is the networks' operations (counted by torch)
over the rate of a dense 3x3 convolution measured in the same run: no program that computes them with that convolution
can be faster. Rivals need packages that t2i does not: give the interpreter of a virtual environment made with

    python -m venv /tmp/rivals && /tmp/rivals/bin/pip install torch diffusers gigagan-pytorch

Every rival gets random weights: what is measured is what a picture costs, not what it looks like. On CUDA:
--device cuda.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

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
    parser.add_argument("--size", default="small")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rivals", help="a Python with diffusers and gigagan-pytorch")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    import torch

    from benchmarks.sizes import evaluations, operations
    from benchmarks.startup import random_model
    from t2i_cli.references import COUNT
    from t2i_cli.runtime import open_runtime
    from t2i_cli.runtime.torch_runtime import TorchRuntime
    from t2i_cli.sample import Model, Wish
    from t2i_cli.solver import DEFAULT_STEPS

    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory()
    path = given.model or random_model(Path(folder.name), given.size)
    if given.device != "cpu":
        on_device(path, given.device, Model, open_runtime, Wish)
        return

    reference = TorchRuntime.open(path, "cpu")
    config, networks = reference.config, reference.networks.requires_grad_(False)
    n, c = config.cells, config.latent_channels
    kinds = torch.zeros(1, COUNT, len(config.attributes), dtype=torch.long)
    latents, near = torch.zeros(1, c, n, n), torch.zeros(1, COUNT, c, n, n)
    condition, read = (
        networks.generator.null_condition(kinds[:, 0]),
        networks.generator.read(near, kinds),
    )
    once = operations(lambda: networks.generator.read(near, kinds))
    once += operations(lambda: networks.decoder(latents))
    step = operations(lambda: networks.generator(latents, torch.ones(1), condition, read))
    plain, whole = Model(reference, path), Model(open_runtime(path, "cpu"), path)
    number = iter(range(10**9))

    def wishes(count, prompt="a red cat", **settings):
        return [Wish(prompt.format(next(number)), next(number), **settings) for _ in range(count)]

    guided, single = evaluations(), {"guidance": 1.0}
    jobs = {  # what is drawn, pictures, evaluations of the generator for each
        "t2i, batch 16": (lambda: whole.pictures(wishes(16)), 16, guided),
        "t2i, one by one": (lambda: whole.pictures(wishes(1)), 1, guided),
        "t2i, batch 16, new prompts": (lambda: whole.pictures(wishes(16, "a red cat {}")), 16, guided),
        "t2i, batch 16, guidance 1": (lambda: whole.pictures(wishes(16, **single)), 16, DEFAULT_STEPS),
        "t2i, batch 16, 1 step, guidance 1": (lambda: whole.pictures(wishes(16, steps=1, **single)), 16, 1),
        "torch, the same networks, one by one": (lambda: plain.pictures(wishes(1)), 1, guided),
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
    for job, _, _ in jobs.values():
        job()
    for turn in range(given.rounds):
        rates.append(convolution_rate(torch))
        for name, (job, count, _) in jobs.items():
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
    floors = {name: (once + count * step) * 1e9 / rate for name, (_, _, count) in jobs.items()}
    whole_picture = f"{once + guided * step:.2f} GFLOP a picture in {DEFAULT_STEPS} steps"
    print(
        f"{config.size}, {config.resolution} px: {whole_picture}, convolution {rate / 1e9:.0f} GFLOP/s"
    )
    for name, values in seen.items():
        if values:
            middle = statistics.median(values)
            told = f"   {middle / floors[name]:8.2f} x floor" if name in floors else ""
            print(f"{name:52} {1000 * middle:10.2f} ms{told}")
    cpu = {name: statistics.median(values) for name, values in seen.items() if values}
    print(json.dumps({"floor_s": floors, "cpu_s": cpu}))
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
