"""The full counts of the promises about numbers. One seed: T2I_SEED."""

import random
import time
from pathlib import Path

import pytest

from t2i_cli.checkpoint import resolve_model
from t2i_cli.runtime.onnx_runtime import OnnxRuntime
from t2i_cli.runtime.torch_runtime import TorchRuntime
from t2i_cli.sample import Model, Wish, encoded
from tests.slow.summary import SEED, count, run_script, share
from tests.toy_weights import save_toy

pytestmark = pytest.mark.slow
PROMPTS = [
    "a red cat",
    "dog",
    "",
    "x " * 60,
    "a blue ball on a green bar",
    "é猫\U0001f600",
    "a-b_c.d",
    "RED CAT!",
]


def test_9_numbers_that_are_not_finite(memory: Path):
    begun = time.monotonic()
    told = run_script("train_faults.py", "numbers", memory, share(1000), SEED)
    print(f"\n{told['counts']}")
    count("9: NaN and infinity planted in runs", told["cases"], told["failures"], begun)


@pytest.mark.parametrize(
    "kind", ["toy, onnxruntime", "toy, torch", "toy opaque, onnxruntime", "shipped, onnxruntime"]
)
def test_10_the_same_bytes_whatever_the_batch(kind: str, tmp_path: Path):
    """Each picture alone, then in batches of random sizes and order, three times."""
    begun, failures, chance = time.monotonic(), [], random.Random(SEED)
    if kind.startswith("shipped"):
        path, many = resolve_model(None), 60
    else:
        path, many = save_toy(tmp_path / "toy.safetensors", opaque="opaque" in kind), 150
    runtime = (
        TorchRuntime.open(path, "cpu")
        if kind.endswith("torch")
        else OnnxRuntime.open(path, lambda _: None)
    )
    model = Model(runtime, path)
    values = tuple((one.name, one.values[-1]) for one in runtime.config.attributes)
    wishes = [
        Wish(
            chance.choice(PROMPTS) + f" {number}", chance.randrange(2**40),
            guidance=chance.choice([1.0, 1.0, 1.5, 3.0]),
            negative=chance.choice([None, None, "a dog"]), truncation=chance.choice([1.0, 0.7]),
            best_of=chance.choice([1, 1, 1, 3]), scale=chance.choice([1, 1, 2]),
            steps=chance.choice([1, 2, 6, 6]), references=chance.choice([0, 1, 3, 3]),
            attributes=chance.choice([(), values]),
        )
        for number in range(many)
    ]  # fmt: skip
    alone = {wish: encoded(model.pictures([wish])[0]) for wish in wishes}
    cases = 0
    for _ in range(3):
        left = chance.sample(wishes, len(wishes))
        while left:
            size = chance.choice([2, 3, 7, 15, 16, 17, 40])
            some, left = left[:size], left[size:]
            for wish, picture in zip(some, model.pictures(some), strict=True):
                cases += 1
                if encoded(picture) != alone[wish]:
                    failures.append(f"{wish} in a batch of {len(some)}")
    count(f"10: alone and in a batch ({kind})", cases, failures, begun)
