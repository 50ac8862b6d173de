"""What each part of the recipe buys, at one budget of CPU time: `python -m benchmarks.comparison DATA OUT [NAME...]`.

Every variant begins with the same text and image encoders (those of --encoders) and a fresh generator, and gets
the same CPU time of one thread: the run's clock is the process's own, so that a busy machine changes nothing.
`flow` and `gan` spend all of it in one stage; the others go on from `half`, a flow of HALF of the time, which is
paid for in their budget. `t2i eval` draws and measures (features that no loss saw). Results are kept in
OUT/results.jsonl, and what stands there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from t2i_cli import checkpoint
from t2i_cli.config import TrainConfig
from t2i_cli.models import build
from t2i_cli.train import TrainSettings, train
from t2i_cli.training.events import Report
from t2i_cli.training.stages import STAGES

HALF, DISTILL = 0.4, 0.15  # shares of the budget; the game has what is left
SAMPLERS = tuple(
    (steps, guidance) for steps in (1, 4, 20) for guidance in (1.0, 2.5)
)  # of the flow
PAIRS = 1024  # to distill from: the whole recipe in minutes


@dataclass(frozen=True)
class Variant:
    """What is trained: shares of the budget by stage, and settings that differ from the defaults."""

    shares: dict[str, float]
    sets: dict[str, Any] = field(default_factory=dict[str, Any])
    init: str = "half"  # of which variant; none: the encoders are learned within the budget too
    samplers: tuple[tuple[int, float], ...] = ((1, 1.0),)


WHOLE = {"distill": DISTILL, "adversarial": 1 - HALF - DISTILL}
FRESH = {"discriminator_lr": 1.0}  # beside a generator that knows nothing (MODEL: R3GAN's rates)
FAST = {
    "adversarial_lr": 3e-4,
    "discriminator_lr": 2.0,
}  # of G alone: D's is the product, the same in all three
SLOW = {"adversarial_lr": 1e-4, "discriminator_lr": 6.0}
VARIANTS = {
    "half": Variant({"flow": HALF}, init="start", samplers=()),
    "whole": Variant(WHOLE),
    "gan": Variant({"adversarial": 1.0}, FRESH, init="start"),
    "flow": Variant({"flow": 1.0}, init="start", samplers=SAMPLERS),
    "whole-seed-1": Variant(WHOLE, {"seed": 1}),
    "fast-game": Variant(WHOLE, FAST),
    "fast-game-seed-1": Variant(WHOLE, {**FAST, "seed": 1}),
    "slow-game": Variant(WHOLE, SLOW),
    "even-game": Variant(WHOLE, {"adversarial_lr": 3e-4, "discriminator_lr": 1.0}),
    "longer-fast-game": Variant({"distill": DISTILL / 2, "adversarial": 1 - HALF - DISTILL / 2}, FAST),
    "heavy-penalty-fast-game": Variant(WHOLE, {**FAST, "gamma": 8.0}),
    "small-batch": Variant(WHOLE, {"batch_size": 32}),
    "fast-game-small-batch": Variant(WHOLE, {**FAST, "batch_size": 32}),
    "slow-game-small-batch": Variant(WHOLE, {**SLOW, "batch_size": 32}),
    "less-guidance": Variant(WHOLE, {"distill_guidance": 1.75}),
    "no-spread": Variant(WHOLE, {"spread_weight": 0.0}),
    "no-pattern": Variant(WHOLE, {"pattern_weight": 0.0}),
    "no-edge": Variant(WHOLE, {"edge_weight": 0.0}),
    "no-mismatch": Variant(WHOLE, {"mismatch_weight": 0.0}),
    "no-contrastive": Variant(WHOLE, {"alignment_weight": 0.0, "discriminator_alignment_weight": 0.0}),
    "no-augment": Variant(WHOLE, {"augment": 0.0}),
    "no-r2": Variant(WHOLE, {"r2": False}),
    "no-average": Variant({}, init="whole"),  # the last weights of that run in place of their average
    "penalty-every-8": Variant(WHOLE, {"penalty_every": 8}),
    "no-distill": Variant({"adversarial": 1 - HALF}),
    "no-game": Variant({"distill": 1 - HALF}),
    "no-game-no-perceptual": Variant({"distill": 1 - HALF}, {"distill_perceptual": 0.0}),
    "no-game-no-mirror": Variant({"distill": 1 - HALF}, {"mirror": 0.0}),
    "from-nothing": Variant(
        {"contrastive": 0.3, "flow": 0.4, "distill": 0.1, "adversarial": 0.2}, init="", samplers=((1, 1.0), (20, 2.5)),
    ),
    "half-no-recolour": Variant({"flow": HALF}, {"recolour": 0.0}, init="start", samplers=()),
    "no-recolour": Variant(WHOLE, {"recolour": 0.0}, init="half-no-recolour"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--minutes", type=float, default=12.0, help="of CPU time, for each variant")
    parser.add_argument("--encoders", type=Path, default=Path("weights/icons.safetensors"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--count", type=int, default=500, help="pictures that are measured")
    asked = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    started(asked.encoders, asked.out)
    results = asked.out / "results.jsonl"
    known = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    done = {row["name"] for row in known}
    for name in asked.names or VARIANTS:
        if name in done:
            continue
        variant = VARIANTS[name]
        row: dict[str, Any] = {"name": name}
        if variant.shares:
            row |= trained(
                name, variant, asked.data, asked.out, asked.minutes * 60, asked.batch_size
            )
        else:
            last_weights(asked.out / variant.init, asked.out / name)
        row["measured"] = [
            measured(asked.out / name, asked.data, asked.count, steps, guidance)
            for steps, guidance in variant.samplers
        ]
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def started(encoders: Path, out: Path) -> None:
    """`OUT/start/model.safetensors`: the encoders of a model, and a generator that knows nothing."""
    path = out / "start" / "model.safetensors"
    if path.exists():
        return
    model = checkpoint.load_model(encoders)
    torch.manual_seed(0)
    states = {name: network.state_dict() for name, network in model.networks.named_children()}
    states["generator"] = build(model.config).generator.state_dict()
    path.parent.mkdir()
    checkpoint.save_model(
        path,
        states,
        model.config,
        model.tokenizer,
        title="start",
        extra={"t2i.stage": "contrastive"},
    )


def trained(
    name: str, variant: Variant, source: Path, out: Path, seconds: float, batch_size: int
) -> dict[str, Any]:
    """Train a variant for its share of the seconds; what it took."""
    init = out / variant.init / "model.safetensors" if variant.init else None
    config = TrainConfig(
        **{"batch_size": batch_size, "distill_pairs": PAIRS, **variant.sets},
        **(dict.fromkeys(STAGES, 0.0) | variant.shares),
        time=seconds * sum(variant.shares.values()),
    )
    began = time.process_time()
    with mock.patch.object(time, "monotonic", time.process_time):
        run = train(TrainSettings(source, out / name, config, device="cpu", init=init, force=True))
        rows = [event.row for event in run if isinstance(event, Report)]
    gaps = [row["gap"] for row in rows if "gap" in row]
    return {
        "cpu_minutes": round((time.process_time() - began) / 60, 2),
        "images": rows[-1]["images"],
        "gap": round(statistics.median(gaps[-20:]), 3) if gaps else None,
    }


def last_weights(run: Path, out: Path) -> None:
    """The weights that a run ended with, not averaged, as a model."""
    state, model = checkpoint.load_state(run), checkpoint.load_model(run / "model.safetensors")
    assert state is not None
    networks: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.files["networks"].items():
        network, key = name.split(".", 1)
        if network != "discriminator":
            networks.setdefault(network, {})[key] = tensor
    out.mkdir()
    checkpoint.save_model(
        out / "model.safetensors",
        networks,
        model.config,
        model.tokenizer,
        title=out.name,
        extra={"t2i.stage": "adversarial"},
    )


def measured(run: Path, source: Path, count: int, steps: int, guidance: float) -> dict[str, Any]:
    """What `t2i eval` says, of many steps with the run's flow: of each figure its value and 95% interval."""
    command = [sys.executable, "-m", "t2i_cli", "eval", str(run), str(source), "-n", str(count)]
    command += ["--json", "--metrics", "kid,text,colour,diversity", "--guidance", str(guidance)]
    command += ["--steps", str(steps)] if steps > 1 else []
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    *_, subject = (
        row for row in told["subjects"] if row["kind"] == "model"
    )  # many steps come last
    scores = subject["scores"]
    figures = ("kid", "retrieval", "colour", "diversity")
    return {
        "steps": steps,
        "guidance": guidance,
        "name": subject["name"],
        **{
            name: [round(scores[name][key], 4) for key in ("value", "low", "high")]
            for name in figures
        },
    }


if __name__ == "__main__":
    main()
