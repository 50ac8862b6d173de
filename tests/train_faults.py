"""Faults for runs of `t2i train`: kills at every step, signals at any moment, numbers that are not finite.

A script, because it forks children that train and are killed (see faults.py):

    python tests/train_faults.py resume FOLDER N SEED      a run of N steps, killed in each of them and resumed
    python tests/train_faults.py chains FOLDER N K SEED    N runs, each killed K times on its way
    python tests/train_faults.py encoding FOLDER N SEED    N kills while pictures and captions are encoded
    python tests/train_faults.py signals FOLDER N SEED     N signals, also inside a save, also two at once
    python tests/train_faults.py numbers FOLDER N SEED     N runs with a NaN or an infinity planted somewhere

It prints one JSON object: cases, failures (a list of sentences) and what else it counted. The model is the smallest
that every network accepts; the stages, the optimizers and the files are those of any run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import math
import os
import random
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import _toy_data, fork_and
from torch import nn

from t2i_cli import checkpoint
from t2i_cli import train as training
from t2i_cli.errors import T2IError, TrainingError
from t2i_cli.signals import StopRequest
from t2i_cli.train import TrainSettings
from t2i_cli.training import latents, loop, losses
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import Stage, autoencoder, contrastive, flow, gan
from t2i_cli.training.step import StepResult, take
from tests import toy_runs
from tests.toy_runs import CLOCKS, all_of, around_each_step, differences, rows_of


def small() -> None:
    """The tiny preset made smaller still, for this process and its children."""
    toy_runs.make_small(pytest.MonkeyPatch())


def micro(data: Path, out: Path, steps: int, **more: Any) -> TrainSettings:
    config = {
        "steps": steps, "batch_size": 2, "contrastive_batch_size": 4, "autoencoder_batch_size": 2, "save_every": 1e9,
    } | more.pop("config", {})  # fmt: skip
    prompts = ["bar number 1", "bar"]
    return toy_runs.settings(data, out, config=config, resume=True, prompts=prompts, **more)


class Wish(StopRequest):
    """Asks for a save after every third step, whatever the clock says, and when told."""

    def __init__(self, step: Callable[[], int], at: int = -1) -> None:
        super().__init__()
        self._step, self._at = step, at

    @property
    def save_now(self) -> bool:  # pyright: ignore
        return self._step() % 3 == 0 or self._step() == self._at

    @save_now.setter
    def save_now(self, value: bool) -> None:
        pass


PHASES = ("before", "inside 1", "inside 2", "after", "log", "save", "saved")


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def around_saves(patch: pytest.MonkeyPatch, after: Callable[[Any], object]) -> None:
    """Call something with the run after each save."""
    save = loop.save

    def saved(run: Any) -> Iterator[Any]:
        yield from save(run)
        after(run)

    for module in (loop, training):  # which has it by name
        patch.setattr(module, "save", saved)


def kill_in_step(phase: str, step: int, nth: int, begun_at: int) -> Callable[[], int]:
    """Arm a SIGKILL somewhere in a step; gives a function that says how many steps are done."""
    done, turns, syncs = begun_at, 0, 0
    patch = pytest.MonkeyPatch()

    def stepped(stage: Stage, make: Callable[[], StepResult]) -> StepResult:
        nonlocal done
        here = done + 1 == step
        if here and phase == "before":
            die()
        result = make()
        done += 1
        if here and phase in ("after", "inside 1", "inside 2"):
            die()
        return result

    def taken(*arguments: Any, **more: Any) -> Any:
        nonlocal turns
        found = take(*arguments, **more)
        if done + 1 == step:
            turns += 1
            if (
                phase == f"inside {turns}"
            ):  # one network's weights have changed, another's have not, or both
                die()
        return found

    around_each_step(patch, stepped)
    for module in (contrastive, autoencoder, flow, gan):
        patch.setattr(module, "take", taken)
    append, sync = checkpoint.append_line, os.fsync

    def appended(*arguments: Any) -> None:
        append(*arguments)
        if done >= step and phase == "log":
            die()

    def synced(handle: int) -> None:
        nonlocal syncs
        sync(handle)
        if done >= step and phase == "save":
            syncs += 1
            if syncs == nth:
                die()

    patch.setattr(checkpoint, "append_line", appended)
    patch.setattr(os, "fsync", synced)
    around_saves(patch, lambda run: done >= step and die())
    return lambda: done


def resumed_to_the_end(data: Path, run: Path, steps: int) -> int:
    """Exit status of a child that goes on from where a run stands."""

    def work() -> None:
        for _ in training.train(micro(data, run, steps)):
            pass

    return os.waitpid(fork_and(work), 0)[1]


def killed_at(data: Path, run: Path, steps: int, step: int, phase: str, nth: int) -> list[str]:
    """Go on with a run until it is killed in a step, and say what is not as promised then."""
    begun_at = checkpoint.saved_step(run) or 0

    def work() -> None:
        done = kill_in_step(phase, step, nth, begun_at)
        at = step if phase in ("save", "saved") else -1
        for _ in training.train(micro(data, run, steps, stop=Wish(done, at))):
            pass

    _, status = os.waitpid(fork_and(work), 0)
    if not os.WIFSIGNALED(status):
        return [f"step {step} ({phase}): not killed but {status}"]
    with checkpoint.RunLock(run):
        left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
    state = checkpoint.load_state(run)
    at = state.step if state is not None else 0
    if left or not (step - 4 < at <= step or at == begun_at):
        return [f"step {step} ({phase}): state of step {at}, orphans {left}"]
    return []


def digest_of(run: Path) -> str:
    """SHA-256 of a run's last saved state and of its log up to there, without what the clock has a part in."""
    state = checkpoint.load_state(run)
    assert state is not None, f"{run} holds no state"
    whole = hashlib.sha256()
    for group, tensors in sorted(state.files.items()):
        for name, tensor in sorted(tensors.items()):
            whole.update(f"{group}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            whole.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    position = state.meta["position"]
    told = {key: value for key, value in position.items() if key not in CLOCKS}
    rows = rows_of(run) if (run / "log.jsonl").exists() else []
    whole.update(json.dumps([told, [row for row in rows if row["step"] <= state.step]]).encode())
    return whole.hexdigest()


def kill_at_each_step(folder: Path, steps: int, seed: int) -> dict[str, object]:
    """One run is killed in step 1, goes on, is killed in step 2, ...; a copy goes on to the end from every tenth kill.

    After each kill the saved state is compared with the undisturbed run's at that step: networks, average, optimizers,
    position and log, all that a resumed run reads. So a state that a resumed run wrote stands behind each comparison.
    """
    chance, failures = random.Random(seed), []
    data = _toy_data(folder / "data")
    quiet, front, tail = folder / "quiet", folder / "front", folder / "tail"

    def undisturbed() -> None:
        digests: dict[str, list[str]] = {}
        around_saves(
            pytest.MonkeyPatch(),
            lambda run: digests.setdefault(run.at.step, []).append(digest_of(run.out)),
        )
        for _ in training.train(micro(data, quiet, steps, stop=Wish(lambda: 0))):  # at every step
            pass
        (folder / "digests.json").write_text(json.dumps(digests))

    if status := os.waitpid(fork_and(undisturbed), 0)[1]:
        return {"cases": 0, "failures": [f"the undisturbed run ended with {status}"]}
    digests = json.loads((folder / "digests.json").read_text())
    expected = all_of(quiet)
    phases: dict[str, int] = {}
    compared = to_the_end = 0
    for step in range(1, steps + 1):
        phase = PHASES[(step + seed) % len(PHASES)]
        phases[phase] = phases.get(phase, 0) + 1
        failures += killed_at(data, front, steps, step, phase, chance.randint(1, 9))
        if (at := checkpoint.saved_step(front)) is not None:
            compared += 1
            if digest_of(front) not in digests[str(at)]:  # two where a stage begins
                failures.append(f"killed in step {step} ({phase}): another state at step {at}")
        if step % 10 == seed % 10:
            to_the_end += 1
            shutil.rmtree(tail, ignore_errors=True)
            shutil.copytree(front, tail)
            if status := resumed_to_the_end(data, tail, steps):
                failures.append(f"killed in step {step} ({phase}): ended with {status}")
            elif wrong := differences(all_of(tail), expected):
                failures.append(f"killed in step {step} ({phase}): other {wrong[:5]}")
    resumed_to_the_end(data, front, steps)
    if wrong := differences(all_of(front), expected):
        failures.append(f"the chain of all kills: other {wrong[:5]}")
    return {
        "cases": steps,
        "failures": failures,
        "phases": phases,
        "states compared": compared,
        "runs to the end": to_the_end + 1,
    }


def kill_chains(folder: Path, chains: int, kills: int, seed: int) -> dict[str, object]:
    """Runs of 60 steps, each killed at so many random places on its way, against an undisturbed one."""
    chance, failures, steps = random.Random(seed), [], 60
    data = _toy_data(folder / "data")
    resumed_to_the_end(data, folder / "quiet", steps)
    expected = all_of(folder / "quiet")
    for chain in range(chains):
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        for step in sorted(chance.randint(1, steps) for _ in range(kills)):
            phase = chance.choice(PHASES)
            if (checkpoint.saved_step(run) or 0) >= step:
                phase, step = "saved", min(step + 1, steps)
            if (
                checkpoint.saved_step(run) or 0
            ) >= step:  # at its end: killed while it is finishing
                continue
            failures += killed_at(data, run, steps, step, phase, chance.randint(1, 9))
        if status := resumed_to_the_end(data, run, steps):
            failures.append(f"chain {chain}: ended with {status}")
        elif wrong := differences(all_of(run), expected):
            failures.append(f"chain {chain}: other {wrong[:5]}")
    return {"cases": chains * kills, "failures": failures}


# -- encoding ------------------------------------------------------------------------------------


def kill_while_encoding(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """A run is killed before, while or after its pictures or captions are encoded, or while that is put in place."""
    chance, failures, steps = random.Random(seed), [], 12
    data, run, cache = _toy_data(folder / "data"), folder / "run", folder / "cache"
    resumed_to_the_end(data, folder / "quiet", steps)
    expected = all_of(folder / "quiet")
    counts: dict[str, int] = {}
    for case in range(kills):
        name, when = (
            chance.choice(["_fill", "_read_texts"]),
            chance.choice(["inside", "after", "sync"]),
        )
        nth = chance.randint(1, 4)

        def work(name: str = name, when: str = when, nth: int = nth) -> None:
            patch, left = pytest.MonkeyPatch(), nth
            patch.setattr(latents, "BATCH", 4)
            whole, sync = getattr(latents, name), os.fsync

            def count(*_: Any) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    die()

            def synced(handle: int) -> None:
                sync(handle)
                count()

            def encoded(*given: Any) -> Any:
                found = whole(*given[:-1], count if when == "inside" else given[-1])
                if when == "after":
                    die()
                patch.setattr(os, "fsync", synced)
                return found

            patch.setattr(latents, name, encoded)
            for _ in training.train(micro(data, run, steps)):
                pass

        what = f"case {case}: {name}, {when} {nth}"
        counts[f"{name} {when}"] = counts.get(f"{name} {when}", 0) + 1
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        _, status = os.waitpid(fork_and(work), 0)
        if not os.WIFSIGNALED(status):
            failures.append(f"{what}: not killed but {status}")
        elif status := resumed_to_the_end(data, run, steps):
            failures.append(f"{what}: ended with {status}")
        elif wrong := differences(all_of(run), expected):
            failures.append(f"{what}: other {wrong[:5]}")
    return {"cases": kills, "failures": failures, "counts": counts}


# -- signals --------------------------------------------------------------------------------------


def signals(folder: Path, count: int, seed: int) -> dict[str, object]:
    """Signals to `t2i train` at random moments; runs go on until they end, then a new one begins."""
    from t2i_cli.cli import run as command

    chance, failures, steps = random.Random(seed), [], 40
    data = _toy_data(folder / "data")
    os.environ["T2I_CACHE"] = str(folder / "cache")
    (folder / "prompts").write_text("bar number 1\nbar\n")
    arguments = [
        "train", data, "--resume", "-v", "--steps", steps, "--resolution", 32, "--batch-size", 2, "--device", "cpu",
        "--set", "contrastive_batch_size=4", "--set", "autoencoder_batch_size=2", "--set", "vocab_size=300",
        "--precision", "fp32", "--prompts", folder / "prompts",
    ]  # fmt: skip
    said = folder / "said"

    def start(run: Path, save_every: float) -> tuple[int, int]:
        """A child that trains, and a pipe that says "t" when it begins and "s" at every sync of a file."""
        ear, mouth = os.pipe()

        def work() -> None:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sync, train = os.fsync, training.train

            def synced(handle: int) -> None:
                os.write(mouth, b"s")
                sync(handle)

            def trained(settings: TrainSettings) -> Any:
                os.write(mouth, b"t")
                return train(settings)

            os.fsync, training.train = synced, trained
            os._exit(command([str(a) for a in (*arguments, "-o", run, "--save-every", save_every)]))

        child = fork_and(work)
        os.close(mouth)
        return child, ear

    def ended(child: int, ear: int, seconds: float) -> int | None:
        """The exit code, a shell's way; None where it takes longer. The pipe is emptied meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while select.select([ear], [], [], 0)[0] and os.read(ear, 65_536):
                pass
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None

    quiet, run = folder / "quiet", folder / "run"
    begun = time.monotonic()
    child, ear = start(quiet, 1e9)
    if code := ended(child, ear, 600):
        return {"cases": 0, "failures": [f"the undisturbed run: {code}: {said.read_text()}"]}
    os.close(ear)
    lasts = time.monotonic() - begun
    expected, all_rows = all_of(quiet), rows_of(quiet)
    counts = {"in a save": 0, "second": 0, "runs": 0, "SIGUSR1": 0, "SIGTERM": 0, "SIGINT": 0}
    for case in range(count):
        number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        second = number != signal.SIGUSR1 and chance.random() < 0.3
        in_save = chance.random() < 0.4
        before = checkpoint.saved_step(run) or 0
        child, ear = start(run, 0.02 if in_save else 1e9)
        os.read(ear, 1)  # it has begun: its handlers are there
        if in_save:
            for _ in range(chance.randint(1, 40)):
                if not select.select([ear], [], [], 30)[0] or not os.read(ear, 1):
                    break
        else:
            time.sleep(chance.random() * 0.7 * lasts)
        counts["in a save"] += any(p.name.endswith(".t2i-tmp") for p in run.rglob(".*"))
        counts[number.name] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        told = time.monotonic()
        if second:
            time.sleep(chance.random() ** 2 * 0.05)
            number = chance.choice([signal.SIGTERM, signal.SIGINT])
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            counts["second"] += 1
            told = time.monotonic()
        code = ended(child, ear, 60)
        os.close(ear)
        took = time.monotonic() - told
        text = said.read_text()
        what = f"case {case}, {number.name}{' twice' if second else ''}, from step {before}"
        try:
            with checkpoint.RunLock(run):
                left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
                state = checkpoint.load_state(run)
                if (run / "model.safetensors").exists():
                    checkpoint.load_model(run / "model.safetensors")
            step = state.step if state is not None else 0
        except T2IError as error:
            failures.append(f"{what}: {error!r}")
            continue
        good = {0} if number == signal.SIGUSR1 else {0, 128 + number}
        if second:
            good = {0, 143, 130}
        if code not in good:
            failures.append(f"{what}: exit {code} after {took:.1f} s: {text[-200:]}")
        if "Traceback" in text or left or step < before:
            failures.append(f"{what}: step {step}, orphans {left}: {text[-200:]}")
        if second and code and took > 2:
            failures.append(f"{what}: left after {took:.1f} s")
        stopped = re.search(r"stopped at step ([\d,]+); saved", text)
        if not second and code and not stopped and "no step was made" not in text:
            failures.append(f"{what}: exit {code} and not said to be saved: {text[-200:]}")
        if stopped and int(stopped[1].replace(",", "")) != step:
            failures.append(f"{what}: said step {stopped[1]}, saved is {step}")
        # one that comes after the last step is answered by the save that ends the run
        saves = 1 if "done: " in text else 2
        if not in_save and number == signal.SIGUSR1 and text.count("saved ") < saves:
            failures.append(f"{what}: no save that was asked for: {text[-300:]}")
        if (run / "log.jsonl").exists():
            text = (run / "log.jsonl").read_text()
            rows = [json.loads(line) for line in text.split("\n")[:-1]]
            rows = [{k: v for k, v in row.items() if k not in toy_runs.CLOCK} for row in rows]
            if rows != all_rows[: len(rows)]:
                failures.append(f"{what}: other rows in the log")
        if code == 0:
            counts["runs"] += 1
            if wrong := differences(all_of(run), expected):
                failures.append(f"{what}: a run that ended with other {wrong[:5]}")
            shutil.rmtree(run)
    return {"cases": count, "failures": failures, "counts": counts}


# -- numbers --------------------------------------------------------------------------------------

POINTS = ("forward", "gradient", "loss", "pictures", "look")
IN_STAGE = {
    "contrastive": ("text_encoder", "image_encoder"),
    "autoencoder": ("encoder", "decoder", "patch_discriminator"),
    "flow": ("generator",),
    "gan": ("text_encoder", "image_encoder", "decoder", "generator", "discriminator"),
}
LOSSES = {
    "contrastive": ("contrastive_loss",),
    "autoencoder": ("perceptual_loss", "hinge_d_loss"),
    "flow": ("velocity_loss",),
    "gan": (
        "contrastive_loss", "relativistic_d_loss", "relativistic_g_loss", "mismatch_loss", "finite_penalty",
    ),
}  # fmt: skip


def poisoned(value: Any, bad: float, chance: random.Random) -> Any:
    """A network's output with one number changed: a tensor, or one of an object's."""
    if isinstance(value, torch.Tensor):
        value = value.clone()
        if value.is_floating_point() and value.numel():
            value[tuple(chance.randrange(side) for side in value.shape)] = bad
        return value
    if isinstance(value, tuple) and not dataclasses.is_dataclass(value):
        place = chance.randrange(len(value))
        changed = [poisoned(v, bad, chance) if i == place else v for i, v in enumerate(value)]
        return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)
    names = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) is not None]
    floats = [n for n in names if torch.is_tensor(t := getattr(value, n)) and t.is_floating_point()]
    name = chance.choice(floats)
    return dataclasses.replace(value, **{name: poisoned(getattr(value, name), bad, chance)})


class Planted:
    """A number that is not finite, planted somewhere in a run's steps or previews; use as a context.

    Args:
        chance: decides where.
        steps: of the run.
    """

    def __init__(self, chance: random.Random, steps: int) -> None:
        self.first = chance.randint(1, steps)
        self.lasts = chance.choice([1, 1, 1, 2, 3, 4, 6, 999])
        self.point = chance.choice(POINTS)
        self.bad = chance.choice([math.nan, math.inf, -math.inf])
        self.turn = random.Random(chance.random())
        self.network, self.loss = "", ""
        self.on = self.done = False
        self.calls = 0
        self.stage: Stage | None = None
        self._patch = pytest.MonkeyPatch()

    def __str__(self) -> str:
        where = {"loss": self.loss, "pictures": ""}.get(self.point, self.network)
        stage = self.stage.name if self.stage is not None else "no stage"
        return f"{self.bad} in {self.point} {where} from step {self.first}, {self.lasts} steps, ended in {stage}"

    def __enter__(self) -> Planted:
        look, get, batch = loop.look, Batches.get, flow.Flow._batch

        def looked(run: Any) -> Iterator[Any]:
            self.network = self.turn.choice([*dict(run.material.networks.named_children())])
            with self._hooked(run.stage, self.point == "look"):
                yield from look(run)

        def got(batches: Batches, *where: Any) -> Any:
            found = get(batches, *where)
            if not self.on or self.point != "pictures":
                return found
            self.done = True
            return dataclasses.replace(found, images=poisoned(found.images, self.bad, self.turn))

        def latents_of(stage: flow.Flow, *where: Any) -> Any:
            first, *rest = batch(stage, *where)
            if self.on and self.point == "pictures":
                self.done, first = True, poisoned(first, self.bad, self.turn)
            return first, *rest

        around_each_step(self._patch, self.stepped)
        for module in (loop, training):
            self._patch.setattr(module, "look", looked)
        self._patch.setattr(Batches, "get", got)
        self._patch.setattr(flow.Flow, "_batch", latents_of)
        return self

    def __exit__(self, *exception: object) -> None:
        self._patch.undo()

    def stepped(self, stage: Stage, make: Callable[[], StepResult]) -> StepResult:
        self.calls += 1
        if self.calls == self.first or self.stage is None or self.stage.name != stage.name:
            self.network = self.turn.choice(IN_STAGE[stage.name])
            self.loss = self.turn.choice(LOSSES[stage.name])
        self.stage = stage
        now = self.first <= self.calls < self.first + self.lasts
        with (
            self._hooked(stage, now and self.point != "look"),
            pytest.MonkeyPatch.context() as patch,
        ):
            if self.on and self.point == "loss":
                spoilt = functools.partial(self.spoilt, getattr(losses, self.loss))
                patch.setattr(losses, self.loss, spoilt)
            return make()

    @contextlib.contextmanager
    def _hooked(self, stage: Stage, on: bool) -> Iterator[None]:
        """Be on duty in the networks of a stage: averages too, which are what is drawn with."""
        networks = [
            *stage.networks.named_children(),
            *stage.helpers.items(),
            *stage.averages.items(),
        ]
        hooks: list[Any] = []
        for name, network in networks if on else []:
            hooks.append(network.register_forward_hook(functools.partial(self.forward, name)))
            for parameter in network.parameters():
                if parameter.requires_grad:
                    hooks.append(parameter.register_hook(functools.partial(self.gradient, name)))
        self.on = on
        try:
            yield
        finally:
            self.on = False
            for hook in hooks:
                hook.remove()

    def forward(self, name: str, module: nn.Module, given: Any, result: Any) -> Any:
        if not self.on or self.point not in ("forward", "look") or name != self.network:
            return None
        self.done = True
        return poisoned(result, self.bad, self.turn)

    def gradient(self, name: str, value: torch.Tensor) -> torch.Tensor | None:
        skip = not self.on or self.point != "gradient" or name != self.network
        if skip or self.turn.random() < 0.7:
            return None
        self.done = True
        return poisoned(value, self.bad, self.turn)

    def spoilt(self, loss: Callable[..., Any], *given: Any, **more: Any) -> Any:
        self.done = True
        return loss(*given, **more) + self.bad


def plant_numbers(folder: Path, count: int, seed: int) -> dict[str, object]:
    """A NaN or an infinity at a random step, network and phase of a run, once or for so many steps.

    A fourth of the runs are of the founding form.
    """
    chance, failures, steps = random.Random(seed), [], 12
    data, run = _toy_data(folder / "data"), folder / "run"
    counts: dict[str, float] = dict.fromkeys(
        ("finished", "gave up", "went back", "skipped steps", "planted", "slowest, s"), 0
    )
    for case in range(count):
        shutil.rmtree(run, ignore_errors=True)
        begun, found = time.monotonic(), []
        with Planted(chance, steps) as planted:
            try:
                config = {"objective": "gan" if case % 4 == 3 else "flow"}
                for event in training.train(micro(data, run, steps, config=config)):
                    counts["went back"] += "back to step" in getattr(event, "text", "")
                counts["finished"] += 1
            except TrainingError as error:
                counts["gave up"] += 1
                if error.exit_code != 1 or "not finite" not in str(error) or planted.lasts < 3:
                    found.append(str(error))
            except BaseException as error:
                found.append(repr(error))
        if planted.stage is not None:
            found += poison_left(planted.stage, run)
        rows = rows_of(run) if (run / "log.jsonl").exists() else []
        counts["skipped steps"] += rows[-1]["skipped"] if rows else 0
        counts["planted"] += planted.done
        counts["slowest, s"] = max(counts["slowest, s"], round(time.monotonic() - begun, 1))
        failures += [f"case {case}: {planted}: {text}" for text in found]
        if case % 50 == 0:
            gc.collect()
            print(case, counts, failures[-3:], flush=True)
    return {"cases": count, "failures": failures, "counts": counts}


def poison_left(stage: Stage, run: Path) -> list[str]:
    """What is not finite in the networks, averages, helpers, optimizers, files and the log."""
    wrong: list[str] = []

    def look(where: str, tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                wrong.append(f"{where}: {name} is not finite")

    for group, tensors in stage.state_dict().items():
        look(group, tensors)
    state = checkpoint.load_state(run)
    if state is None:
        return [*wrong, "no state is left"]
    for group, tensors in state.files.items():
        look(f"state {group}", tensors)
    for name in ("model.safetensors", "best.safetensors"):
        if (run / name).exists():
            look(name, dict(checkpoint.load_model(run / name).networks.state_dict()))
        elif name == "model.safetensors":
            wrong.append("no weights are left")

    def refuse(word: str) -> float:
        raise ValueError(word)

    if (run / "log.jsonl").exists():
        for line in (run / "log.jsonl").read_text().splitlines():
            try:
                json.loads(line, parse_constant=refuse)
            except ValueError as error:
                wrong.append(f"the log holds {error}")
    return wrong


if __name__ == "__main__":
    torch.set_num_threads(1)
    small()
    kind, place, *numbers = sys.argv[1:]
    Path(place).mkdir(parents=True, exist_ok=True)
    verbs = {
        "resume": kill_at_each_step,
        "chains": kill_chains,
        "encoding": kill_while_encoding,
        "signals": signals,
        "numbers": plant_numbers,
    }
    with contextlib.redirect_stdout(sys.stderr):
        told = verbs[kind](Path(place), *map(int, numbers))
    print(json.dumps(told))
