"""What a teacher is worth to the text encoder: `python -m benchmarks.text_encoder DATA --teacher FOLDER --seconds 300`.

The contrastive stage alone, for so many seconds of the process's own CPU time (other work on the machine
takes nothing away), then held-out pictures of known concepts (`val_style`, where the data names it) against
their captions and against other wordings of them: how often the right text is the best of 100 for a picture.
The 100 are all reworded alike. `lands`: how often a reworded caption's nearest among 100 captions as they
are is its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.synonyms import REWRITES
from t2i_cli import data
from t2i_cli.config import TrainConfig, model_config
from t2i_cli.evaluation import metrics
from t2i_cli.folders import cache_folder
from t2i_cli.models import Networks, build, encode
from t2i_cli.tokenizer import train_tokenizer
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import STAGES, Material
from t2i_cli.training.teacher import Lessons, load_teacher, make_lessons


def lessons_of(teacher: str, captions: list[str], dtype: torch.dtype) -> Lessons:
    steps = make_lessons(
        load_teacher(teacher, torch.device("cpu"), dtype), captions, cache_folder()
    )
    told = 0.0
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            return end.value
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"teacher: {done:,} of {total:,} texts", flush=True)


@torch.no_grad()
def features(networks: Networks, batches: Batches, texts: Sequence[str]) -> torch.Tensor:
    parts = [texts[start : start + 128] for start in range(0, len(texts), 128)]
    encoder = networks.text_encoder
    return torch.cat([encode(encoder, *batches.tokens(part)).text_features for part in parts])


@torch.no_grad()
def measure(
    networks: Networks, batches: Batches, rows: np.ndarray, captions: list[str]
) -> dict[str, list[float]]:
    parts = np.array_split(rows, len(rows) // 64 + 1)
    images = torch.cat([networks.image_encoder(batches.of(part).images) for part in parts])
    plain = features(networks, batches, captions)
    found = {"captions": [len(rows), metrics.retrieval_at_k(images, plain, captions), 0.0, 1.0]}
    for name, rewrite in REWRITES.items():
        texts = [rewrite(caption) for caption in captions]
        at = [place for place, text in enumerate(texts) if text is not None]
        some = [texts[place] or "" for place in at]
        own = [captions[place] for place in at]
        moved = features(networks, batches, some)
        found[name] = [
            len(at),
            metrics.retrieval_at_k(
                images[at], plain[at], own
            ),  # the same pictures, captions as they are
            metrics.retrieval_at_k(images[at], moved, some),
            metrics.retrieval_at_k(moved, plain[at], own),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", help="folder of a language model, or hf:ID; none without it")
    parser.add_argument("--seconds", type=float, default=300.0, help="of CPU time")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--weight", type=float, default=TrainConfig.teacher_weight)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    config = TrainConfig(
        size=options.size, teacher_weight=options.weight, seed=options.seed,
        batch_size=options.batch_size, contrastive_batch_size=options.batch_size,
    )  # fmt: skip

    pictures = data.load(options.data, config.resolution, image_channels=4)
    train, held_out = pictures.split(config.val, config.seed)
    styles = [row for row in held_out if pictures.splits[row] == "val_style"]
    rows = np.array(styles) if styles else held_out
    captions = [text for row in train for text in pictures.captions[row]]
    lessons = lessons_of(options.teacher, captions, dtype) if options.teacher else None
    tokenizer = train_tokenizer(captions, config.vocab_size)
    torch.manual_seed(config.seed)
    model = model_config(config.size, config.resolution, tokenizer.vocab_size)
    networks = build(model)
    networks.set_trunk_dtype(dtype)
    batches = Batches(
        pictures,
        train,
        tokenizer,
        context_length=model.text.context_length,
        seed=config.seed,
        device=torch.device("cpu"),
        recolour=config.recolour,
        mirror=config.mirror,
        slips=config.slips,
        lessons=lessons,
    )
    cpu = torch.device("cpu")
    stage = STAGES["contrastive"](Material(config, networks, batches, "", cpu, cache_folder()))
    start, step, told = time.process_time(), 0, time.monotonic()
    while (spent := time.process_time() - start) < options.seconds:
        figures = stage.step(step, spent / options.seconds).figures
        step += 1
        if time.monotonic() - told > 30:
            told = time.monotonic()
            shown = ", ".join(f"{name} {float(value):.3f}" for name, value in figures.items())
            print(f"{spent:.0f} s, step {step}: {shown}", flush=True)
    networks.eval()
    found = measure(networks, batches, rows, [pictures.captions[row][0] for row in rows])
    print(
        json.dumps({"steps": step, **{name: str(value) for name, value in vars(options).items()}})
    )
    print(f"{'':12} {'pictures':>8} {'captions':>9} {'reworded':>9} {'lands':>7}")
    for name, (count, plain, moved, lands) in found.items():
        reworded = "" if name == "captions" else f"{moved:9.3f} {lands:7.3f}"
        print(f"{name:12} {count:8} {plain:9.3f} {reworded}")


if __name__ == "__main__":
    main()
