"""Several processes that train toys together, for tests: one process loads torch and forks them. Runs as a script too.

    python tests/ranks.py FOLDER     every scenario below; FOLDER/told.json says what each process of each found

Each scenario is a function that every process calls; what it returns is written down with its exit code.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from t2i_cli import checkpoint, config, images
from t2i_cli.config import TrainConfig
from t2i_cli.errors import T2IError
from t2i_cli.signals import StopRequest
from t2i_cli.train import TrainSettings, train
from t2i_cli.training import distributed, events
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import STAGES, Learner
from tests.toys import MICRO, Toys, toy_learner

STEPS = 8
# small steps: what rounding does to one is not to grow into a difference
SETTINGS: dict[str, Any] = {
    "batch_size": 4, "augment": 0.5, "mirror": 0.5, "adversarial_lr": 2e-4, "discriminator_lr": 1.0,
    "alignment_weight": 0.2, "anchor_weight": 0.2, "pairs_weight": 0.2, "spread_weight": 1.0,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "own": {"ema_images": 200.0},
    "founding": {
        "alignment": "squared", "loss": "log", "penalty": "exact", "discriminator_steps": 2,
        "penalty_every": 2, "flow": 0.0, "distill": 0.0,
    },
}  # fmt: skip


def micro() -> None:
    """The tiny preset, made smaller still, and looks that take no time, in this process."""
    verb = sys.modules[train.__module__]
    verb.LOOK_STEPS, verb.GRID, verb.HELD_OUT = 1, 4, 8  # pyright: ignore[reportAttributeAccessIssue]
    config.PRESETS["tiny"] = MICRO


def toy_folder(place: Path) -> None:
    """Sixteen toys with a caption file each."""
    place.mkdir(parents=True, exist_ok=True)
    toys = Toys()
    for number, (pixels, captions) in enumerate(zip(toys.pixels, toys.captions, strict=True)):
        (place / f"{number:02}.png").write_bytes(images.encode(pixels))
        (place / f"{number:02}.txt").write_text("\n".join(captions))


# -- processes --------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(work: Callable[[], Any], result: Path, rank: int, size: int, port: int) -> int:
    """Fork a process that believes to be one of ``size`` under torchrun; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code, told = 0, None
    if size > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    try:
        told = work()
    except T2IError as error:
        code, told = error.exit_code, f"{type(error).__name__}: {error}"
    except BaseException as error:  # the parent reads it
        import traceback

        code, told = 99, "".join(traceback.format_exception(error))
    result.write_text(json.dumps(told))
    os._exit(code)


def together(
    folder: Path, name: str, work: Callable[[], Any], size: int = 2, patience: float = 180
) -> list[dict[str, Any]]:
    """Run a scenario in several processes; the exit code of each, what it told, and after how long it ended."""
    port, begun = free_port(), time.monotonic()
    paths = [folder / f"{name}-{rank}.json" for rank in range(size)]
    children = [start(work, path, rank, size, port) for rank, path in enumerate(paths)]
    rows: list[dict[str, Any]] = [{} for _ in children]
    stopped: set[int] = set()
    while len([row for row in rows if row]) + len(stopped) < size:
        for rank, child in enumerate(children):
            if rows[rank]:
                continue
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                stopped.add(rank)
            elif pid:
                rows[rank] = {
                    "code": os.waitstatus_to_exitcode(status),
                    "after": time.monotonic() - begun,
                }
        if time.monotonic() - begun > patience:
            break
        time.sleep(0.01)
    for rank, child in enumerate(children):
        if not rows[rank]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            rows[rank] = {"code": "stopped" if rank in stopped else "hung", "after": math.inf}
    return [
        {**row, "told": json.loads(path.read_text()) if path.exists() else None}
        for row, path in zip(rows, paths, strict=True)
    ]


# -- scenarios --------------------------------------------------------------------------------------


def steps_of_each_stage(folder: Path, form: str) -> dict[str, Any]:
    """Two steps of each stage on toys, as they come; weights and optimizers go into a file, figures are told."""
    with distributed.joined(torch.device("cpu")) as me:
        settings = TrainConfig(**{**SETTINGS, **FORMS[form]})
        learner, batches = toy_learner(settings)
        figures: dict[str, list[dict[str, float]]] = {}
        moved: dict[str, torch.Tensor] = {}
        for stage in [stage for stage in STAGES if getattr(settings, stage) > 0]:
            learner.begin(stage)
            for step in range(2):
                before = _flat(learner, stage)
                result = learner.step(stage, batches.get(stage, step, 16), step, 0.3 + step / 10)
                assert not result.skipped
                row = {key: float(value) for key, value in distributed.mean(result.figures).items()}
                figures.setdefault(stage, []).append(row)
                moved[f"{stage}.{step}"] = _flat(learner, stage) - before
        moved["average"] = torch.cat([p.detach().flatten() for p in learner.average.parameters()])
        save_file(moved, folder / f"steps-{form}-{me.size}-{me.rank}.safetensors")
        return {"figures": figures, "images": learner.images}


def _flat(learner: Learner, stage: str) -> torch.Tensor:
    networks = learner.networks
    changed = (
        [networks.text_encoder, networks.image_encoder]
        if stage == "contrastive"
        else [networks.generator, networks.discriminator]
    )
    return torch.cat([p.detach().flatten() for network in changed for p in network.parameters()])


def poison_on_one() -> dict[str, Any]:
    """A NaN in the last process's pictures alone: all leave the step out, and go on."""
    with distributed.joined(torch.device("cpu")) as me:
        learner, batches = toy_learner(TrainConfig(batch_size=4))
        told: dict[str, Any] = {}
        for stage in STAGES:
            learner.begin(stage)
            learner.step(stage, batches.get(stage, 0, 4), 0, 0.5)
            if stage == "distill":  # learns from the flow's pictures, not from the batch's
                continue
            before = _flat(learner, stage)
            bad = batches.get(stage, 1, 4)
            if me.rank == me.size - 1:
                bad.images[0, 0, 0, 0] = float("nan")
            skipped = learner.step(stage, bad, 1, 0.5).skipped
            same = bool(torch.equal(before, _flat(learner, stage)))
            after = learner.step(stage, batches.get(stage, 2, 4), 2, 0.5).skipped
            told[stage] = [skipped, same, after]
        return told


def talk() -> dict[str, Any]:
    """What is told from one to the other."""
    with distributed.joined(torch.device("cpu")) as me:
        odd = torch.arange(8.0).view(1, 2, 2, 2).to(memory_format=torch.channels_last)
        state = checkpoint.RunState(
            7, {"a": {"x": odd, "n": torch.tensor(3)}}, {"best": -1.5}, Path("there")
        )
        heard = distributed.state_from_first(state if me.first else None)
        assert heard is not None
        wish = StopRequest()
        if me.rank == 1:
            wish.receive(signal.SIGTERM)
            wish.receive(signal.SIGUSR1)
        stop, seconds = distributed.agree(wish, (10.0 + me.rank, 2.5))
        rows = torch.arange(2.0) + 10 * me.rank
        rows.requires_grad_()
        whole = distributed.gather(rows)
        (whole.square().sum()).backward()
        assert rows.grad is not None
        random = torch.Generator().manual_seed(5)
        try:
            distributed.same(f"mine {me.rank}", "data")
            other = ""
        except T2IError as error:
            other = str(error)
        return {
            "bytes": distributed.from_first(f"from {me.rank}".encode()).decode(),
            "json": distributed.from_first({"rank": me.rank}),
            "nothing": distributed.from_first(None if me.first else 1),
            "state": [heard.step, heard.meta, heard.files["a"]["x"].tolist(), int(heard.files["a"]["n"])],
            "strides": heard.files["a"]["x"].stride() == odd.stride(),
            "agreed": [stop.signum, stop.save_now, wish.signum, wish.save_now, *seconds],
            "gathered": whole.tolist(),
            "gradient": rows.grad.tolist(),
            "uniform": distributed.uniform(random, 3, 2, dim=1).tolist(),
            "normal": distributed.normal(random, 2, 3).tolist(),
            "other": other,
        }  # fmt: skip


def trained(
    data: Path, out: Path, meddle: Callable[[int, TrainSettings], None] | None = None, **more: Any
) -> dict[str, Any]:
    """A run of four stages on toys.

    Args:
        data: the toys.
        out: the run folder, of the first process; the others are given one that must stay away.
        meddle: called with the number of every batch, from 1.
        more: settings of the config.
    """
    micro()
    rank = distributed.launched().rank
    options = {
        "resolution": 32, "vocab_size": 300, "time": 0.0, "steps": STEPS, "batch_size": 8, "contrastive_batch_size": 8,
        "precision": "fp32",
    } | {k: v for k, v in SETTINGS.items() if k not in ("batch_size", "augment", "mirror")} | more  # fmt: skip
    settings = TrainSettings(
        data,
        out if rank == 0 else out.with_name(f"{out.name}-of-{rank}"),
        TrainConfig(**options),
        device=options.pop("device", "cpu"),
        resume=True,
    )
    get, calls = Batches.get, 0

    def counted(batches: Batches, stage: str, step: int, size: int) -> Any:
        nonlocal calls
        calls += 1
        if meddle is not None:
            meddle(calls, settings)
        return get(batches, stage, step, size)

    Batches.get = counted  # pyright: ignore[reportAttributeAccessIssue]
    told = list(train(settings))
    finished = told[-1]
    assert isinstance(finished, events.Finished)
    return {
        "steps": finished.steps,
        "saves": [event.step for event in told if isinstance(event, events.Saved)],
        "messages": [event.text for event in told if isinstance(event, events.Message)],
    }


def on(rank: int, call: int, what: Callable[[TrainSettings], None]) -> Callable[..., None]:
    """Meddle on one process, before one batch."""

    def meddle(calls: int, settings: TrainSettings) -> None:
        if calls == call and distributed.world().rank == rank:
            what(settings)

    return meddle


def quick_watch() -> None:
    """Signs of life many times a second."""
    distributed.BEAT, distributed.SILENCE = 0.05, 4.0


def everything(folder: Path) -> dict[str, Any]:
    """All scenarios, one after another."""
    data = folder / "data"
    toy_folder(data)
    told: dict[str, Any] = {}

    def run(name: str, work: Callable[[], Any], size: int = 2) -> None:
        told[name] = together(folder, name, work, size)

    for form in FORMS:
        for size in (1, 2, 4) if form == "own" else (1, 2):
            run(f"steps-{form}-{size}", lambda form=form: steps_of_each_stage(folder, form), size)
    run("poison", poison_on_one)
    run("talk", talk)
    run("alone", lambda: trained(data, folder / "alone"), 1)
    run("quiet", lambda: trained(data, folder / "quiet"))
    sigterm = on(1, 5, lambda settings: settings.stop.receive(signal.SIGTERM))
    run("stopped", lambda: trained(data, folder / "stopped", sigterm))
    shutil.copytree(folder / "stopped", folder / "fewer")
    run("resumed", lambda: trained(data, folder / "stopped"))
    run("fewer", lambda: trained(data, folder / "fewer"), 1)
    killed = on(1, 6, lambda settings: os.kill(os.getpid(), signal.SIGKILL))
    run("killed", lambda: trained(data, folder / "killed", killed))
    run("killed resumed", lambda: trained(data, folder / "killed"))
    run("time", lambda: trained(data, folder / "time", steps=0, time=0.3))
    run("shares", lambda: trained(data, folder / "shares", batch_size=5))

    def falls_silent() -> Any:
        quick_watch()
        silent = on(1, 3, lambda settings: os.kill(os.getpid(), signal.SIGSTOP))
        return trained(data, folder / "silent", silent)

    run("silent", falls_silent)
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    importlib.import_module(
        "torch._dynamo"
    )  # optimizers load it at their first step; here once for all children
    os.environ["T2I_CACHE"] = str(Path(sys.argv[1]) / "cache")
    (Path(sys.argv[1]) / "told.json").write_text(json.dumps(everything(Path(sys.argv[1]))))
