"""Several processes that train toys together, for tests: one process loads torch and forks them. Runs as a script too.

    python tests/ranks.py FOLDER     every scenario below; FOLDER/told.json says what each process of each found

Each scenario is a function that every process calls; what it returns is written down with its exit code.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t2i_cli import checkpoint
from t2i_cli.errors import T2IError
from t2i_cli.signals import StopRequest
from t2i_cli.train import TrainSettings, train
from t2i_cli.training import distributed, events, latents
from t2i_cli.training.stages import STAGES, Stage
from t2i_cli.training.stages.flow import Flow
from tests import toy_runs
from tests.toys import awaken, toy_material, toy_stage

STEPS = 8  # one of contrastive, three of autoencoder, four of flow
# small steps: what rounding does to one is not to grow into a difference
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "contrastive_batch_size": 8, "autoencoder_batch_size": 8, "precision": "fp32",
    "autoencoder_lr": 1e-4, "flow_lr": 2e-3, "gan_lr": 2e-4, "discriminator_lr": 1.0,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "own": {"augment": 0.5, "recolour": 0.5, "mirror": 0.5, "caption_dropout": 0.2},
    "equivariant": {"equivariance": 1.0, "caption_dropout": 0.0},
    "founding": {
        "objective": "gan", "alignment": "squared", "loss": "log", "penalty": "exact", "discriminator_steps": 2,
    },
    "relativistic": {"objective": "gan", "alignment_weight": 0.2},
}  # fmt: skip
PROGRESS = 0.6  # of a stage, at which the patch discriminator is there


def small() -> None:
    """Networks, previews and looks that take no time, for as long as this process lives."""
    toy_runs.make_small(pytest.MonkeyPatch())


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
    folder: Path,
    name: str,
    work: Callable[[], Any],
    size: int = 2,
    *,
    silent: int | None = None,
    patience: float = 180,
) -> list[dict[str, Any]]:
    """Run a scenario in several processes; the exit code of each, what it told, and after how long it ended.

    Args:
        folder: for what they tell.
        name: of the scenario.
        work: what each does.
        size: how many there are.
        silent: rank of the one that never ends by itself.
        patience: s in which the others end.
    """
    port, begun = free_port(), time.monotonic()
    paths = [folder / f"{name}-{rank}.json" for rank in range(size)]
    children = [start(work, path, rank, size, port) for rank, path in enumerate(paths)]
    rows: dict[int, dict[str, Any]] = {}
    awaited = set(range(size)) - {silent}
    while awaited - rows.keys() and time.monotonic() - begun < patience:
        for rank, child in enumerate(children):
            if rank not in rows and (ended := os.waitpid(child, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                rows[rank] = {"code": code, "after": time.monotonic() - begun}
        time.sleep(0.01)
    for rank, child in enumerate(children):
        if rank not in rows:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            rows[rank] = {"code": "silent" if rank == silent else "hung", "after": math.inf}
    return [
        {**rows[rank], "told": json.loads(path.read_text()) if path.exists() else None}
        for rank, path in enumerate(paths)
    ]


# -- scenarios --------------------------------------------------------------------------------------


def stages_of(form: str) -> list[str]:
    """The stages that a form goes through."""
    return ["contrastive", "autoencoder", "gan" if "objective" in FORMS[form] else "flow"]


def steps_of_each_stage(folder: Path, form: str) -> dict[str, Any]:
    """Two steps of each stage on toys, as they come; what moved goes into a file, figures are told."""
    with distributed.joined(torch.device("cpu")) as me:
        material = toy_material(folder / f"cache-{form}-{me.size}", **{**SETTINGS, **FORMS[form]})
        awaken(material.networks.generator)
        figures: dict[str, list[dict[str, float]]] = {}
        moved: dict[str, Tensor] = {}
        images: dict[str, int] = {}
        for name in stages_of(form):
            with distributed.in_turn():
                stage = toy_stage(name, material)
            for step in range(2):
                before = _learned(stage)
                result = stage.step(step, PROGRESS)
                assert not result.skipped
                row = {key: float(value) for key, value in distributed.mean(result.figures).items()}
                figures.setdefault(name, []).append(row)
                moved[f"{name}.{step}"] = _learned(stage) - before
            if stage.averages:
                moved[f"{name}.average"] = _flat(stage.averages.values())
            images[name] = stage.images
            stage.finish()
        save_file(moved, folder / f"steps-{form}-{me.size}-{me.rank}.safetensors")
        return {"figures": figures, "images": images}


def _learned(stage: Stage) -> Tensor:
    """All that a stage's optimizers move, in one line."""
    groups = [group for optimizer in stage.optimizers.values() for group in optimizer.param_groups]
    return torch.cat([p.detach().flatten() for group in groups for p in group["params"]])


def _flat(networks: Iterable[torch.nn.Module]) -> Tensor:
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


def poison_on_one(folder: Path) -> dict[str, Any]:
    """A NaN in what the last process alone learns from: all leave the step out, and go on."""
    with distributed.joined(torch.device("cpu")) as me:
        material = toy_material(folder / "cache-poison", **SETTINGS)
        told: dict[str, Any] = {}
        for name in STAGES:
            with distributed.in_turn():
                stage = toy_stage(name, material)
            stage.step(0, PROGRESS)
            before = _learned(stage)
            with pytest.MonkeyPatch.context() as patch:
                if me.rank == me.size - 1:
                    _spoil(patch, stage)
                skipped = stage.step(1, PROGRESS).skipped
            same = bool(torch.equal(before, _learned(stage)))
            told[name] = [skipped, same, stage.step(2, PROGRESS).skipped]
        return told


def _spoil(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Let one of a stage's next latents, or of its pictures, be no numbers."""

    def poisoned(first: Tensor) -> None:
        first[0] = math.nan

    owner, name = (stage, "_batch") if isinstance(stage, Flow) else (stage.material.batches, "get")
    whole = getattr(owner, name)

    def spoilt(*arguments: Any) -> Any:
        batch = whole(*arguments)
        poisoned(batch[0] if isinstance(batch, tuple) else batch.images)
        return batch

    patch.setattr(owner, name, spoilt)


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
    """A run of three stages on toys.

    Args:
        data: the toys.
        out: the run folder, of the first process; the others are given one that must stay away.
        meddle: called with the number of every step of this process, from 1.
        more: settings of the config.
    """
    small()
    rank = distributed.launched().rank
    own = out if rank == 0 else out.with_name(f"{out.name}-of-{rank}")
    cache = out.with_name(f"{out.name}-cache")
    config = {"steps": STEPS, **SETTINGS, **more}
    settings = toy_runs.settings(data, own, config=config, resume=True, cache=cache)
    patch, encoded = pytest.MonkeyPatch(), 0
    if meddle is not None:
        toy_runs.before_each_step(patch, lambda _, count: meddle(count, settings))
    fill = latents._fill

    def counted(*arguments: Any) -> Any:
        nonlocal encoded
        encoded += 1
        return fill(*arguments)

    patch.setattr(latents, "_fill", counted)
    told = list(train(settings))
    finished = told[-1]
    assert isinstance(finished, events.Finished)
    return {
        "steps": finished.steps,
        "saves": [event.step for event in told if isinstance(event, events.Saved)],
        "messages": toy_runs.said(told),
        "encoded": encoded,
    }


def on(rank: int, call: int, what: Callable[[TrainSettings], None]) -> Callable[..., None]:
    """Meddle on one process, before one step."""

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
    toy_runs.toy_folder(data)
    told: dict[str, Any] = {}

    def run(name: str, work: Callable[[], Any], size: int = 2, **more: Any) -> None:
        told[name] = together(folder, name, work, size, **more)

    for form in FORMS:
        for size in (1, 2, 4) if form == "own" else (1, 2):
            run(f"steps-{form}-{size}", lambda form=form: steps_of_each_stage(folder, form), size)
    run("poison", lambda: poison_on_one(folder))
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
        # no thread of it runs any more, and its connections stay open
        silent = on(1, 3, lambda settings: ctypes.PyDLL(None).sleep(100_000))
        return trained(data, folder / "silent", silent)

    run("silent", falls_silent, silent=1)
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    importlib.import_module(
        "torch._dynamo"
    )  # optimizers load it at their first step; here once for all children
    os.environ["T2I_CACHE"] = str(Path(sys.argv[1]) / "cache")
    (Path(sys.argv[1]) / "told.json").write_text(json.dumps(everything(Path(sys.argv[1]))))
