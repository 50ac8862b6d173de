"""Faults for runs of `t2i train`: kills at every step, signals at any moment, numbers that are not finite.

A script, because it forks children that train and are killed (see faults.py):

    python tests/train_faults.py resume FOLDER N SEED      a run of N steps, killed in each of them and resumed
    python tests/train_faults.py chains FOLDER N K SEED    N runs, each killed K times on its way
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

import torch
from faults import _toy_data, fork_and

from t2i_cli import checkpoint, config
from t2i_cli import train as training
from t2i_cli.errors import T2IError, TrainingError
from t2i_cli.signals import StopRequest
from t2i_cli.train import TrainSettings
from t2i_cli.training import losses
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import Learner

CLOCK = {"images_per_second", "memory_mb", "seconds", "eta_s"}  # of a log row
CLOCKS = {"seconds", "stage_seconds"}  # of a state's position


def make_micro() -> None:
    """The tiny preset made smaller still, for this process and its children."""
    config.PRESETS["tiny"] = dataclasses.replace(
        config.PRESETS["tiny"],
        channels={8: 32},
        image_encoder_channels={8: 8},
        blocks=1,
        text_dim=16,
        text_depth=1,
    )
    training.HELD_OUT, training.GRID = 4, 2  # pictures that are looked at


def micro(data: Path, out: Path, steps: int, **more: Any) -> TrainSettings:
    asked = config.TrainConfig(
        resolution=32,
        vocab_size=300,
        time=0.0,
        steps=steps,
        batch_size=2,
        contrastive_batch_size=4,
        save_every=1e9,
        precision="fp32",
    )
    prompts = ["bar number 1", "bar"]
    return TrainSettings(
        data=data, out=out, config=asked, device="cpu", resume=True, cache=data.parent / "cache",
        prompts=prompts, **more,
    )  # fmt: skip


def all_of(run: Path) -> dict[str, Any]:
    """Every byte that a run leaves and that the clock has no part in."""
    state = checkpoint.load_state(run)
    assert state is not None, f"{run} holds no state"
    position = state.meta["position"]
    found: dict[str, Any] = {
        f"{group}.{name}": tensor.numpy().tobytes()
        for group, tensors in state.files.items()
        for name, tensor in tensors.items()
    }
    found["position"] = {key: value for key, value in position.items() if key not in CLOCKS}
    found["log"] = rows_of(run)
    for name in ("model.safetensors", "best.safetensors"):
        found[name] = checkpoint.read_info(run / name, verify=True).hash
    for path in sorted((run / "samples").iterdir()):
        found[path.name] = path.read_bytes()
    return found


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not the same, by name; for the log the first row that differs."""
    wrong = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
    if "log" in wrong:
        pairs = zip(found["log"], expected["log"], strict=False)
        wrong.append(
            str(next((pair for pair in pairs if pair[0] != pair[1]), "other length"))[:300]
        )
    return wrong


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


def kill_in_step(phase: str, step: int, nth: int, begun_at: int) -> Callable[[], int]:
    """Arm a SIGKILL somewhere in a step; gives a function that says how many steps are done."""
    done = begun_at

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    original, descend = Learner.step, Learner._descend
    turns = 0

    def stepped(self: Learner, *arguments: Any) -> Any:
        nonlocal done
        here = done + 1 == step
        if here and phase == "before":
            die()
        result = original(self, *arguments)
        done += 1
        if here and phase in ("after", "inside 1", "inside 2"):
            die()
        return result

    def descended(self: Learner, *arguments: Any) -> Any:
        nonlocal turns
        found = descend(self, *arguments)
        if done + 1 == step:
            turns += 1
            if phase == f"inside {turns}":  # D's weights have changed, G's have not, or both
                die()
        return found

    Learner.step, Learner._descend = stepped, descended
    append, sync, save = checkpoint.append_line, os.fsync, training._save
    syncs = 0

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

    def saved(run: Any) -> Iterator[Any]:
        yield from save(run)
        if done >= step:
            die()

    checkpoint.append_line, os.fsync, training._save = appended, synced, saved
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
        save, digests = training._save, {}

        def saved(run: Any) -> Iterator[Any]:
            yield from save(run)
            digests.setdefault(run.at.step, []).append(digest_of(run.out))

        training._save = saved
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
        "--set", "contrastive_batch_size=4", "--set", "vocab_size=300", "--precision", "fp32", "--prompts",
        folder / "prompts",
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
            rows = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
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
    "flow": ("text_encoder", "generator"),
    "adversarial": ("text_encoder", "image_encoder", "generator", "discriminator"),
}
LOSSES = {
    "contrastive": ("contrastive_loss",),
    "flow": ("flow_loss",),
    "adversarial": (
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
    """A number that is not finite, planted somewhere in a run's steps or looks; use as a context.

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
        self.learner: Learner | None = None
        self._originals = (Learner.__init__, Learner.step, training._look, Batches.get)

    def __str__(self) -> str:
        where = {"loss": self.loss, "pictures": ""}.get(self.point, self.network)
        return f"{self.bad} in {self.point} {where} from step {self.first}, {self.lasts} steps"

    def __enter__(self) -> Planted:
        made, step, look, get = self._originals
        planted = self

        def made_with_hooks(self: Learner, *a: Any, **k: Any) -> None:
            made(self, *a, **k)
            planted.learner = self
            for name, network in self.networks.named_children():
                network.register_forward_hook(functools.partial(planted.forward, name))
                for parameter in network.parameters():
                    parameter.register_hook(functools.partial(planted.gradient, name))

        def stepped(self: Learner, stage: str, *a: Any) -> Any:
            planted.calls += 1
            networks = IN_STAGE.get(stage, IN_STAGE["adversarial"])
            if planted.calls == planted.first or planted.network not in networks:
                planted.network = planted.turn.choice(networks)
                planted.loss = planted.turn.choice(LOSSES.get(stage, LOSSES["adversarial"]))
            planted.on = planted.point != "look" and planted.now(planted.calls)
            whole = getattr(losses, planted.loss)
            if planted.on and planted.point == "loss":
                setattr(losses, planted.loss, functools.partial(planted.spoilt, whole))
            try:
                return step(self, stage, *a)
            finally:
                setattr(losses, planted.loss, whole)
                planted.on = False

        def looked(run: Any) -> Iterator[Any]:
            planted.on = planted.point == "look"
            try:
                yield from look(run)
            finally:
                planted.on = False

        def got(self: Batches, stage: str, number: int, size: int) -> Any:
            batch = get(self, stage, number, size)
            if planted.point != "pictures" or not planted.now(planted.calls + 1):
                return batch
            planted.done = True
            images = poisoned(batch.images, planted.bad, planted.turn)
            return dataclasses.replace(batch, images=images)

        Learner.__init__, Learner.step = made_with_hooks, stepped
        training._look, Batches.get = looked, got
        return self

    def __exit__(self, *exception: object) -> None:
        Learner.__init__, Learner.step, training._look, Batches.get = self._originals

    def now(self, call: int) -> bool:
        return self.first <= call < self.first + self.lasts

    def forward(self, name: str, module: Any, given: Any, result: Any) -> Any:
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
    """A NaN or an infinity at a random step, network and phase of a run, once or for so many steps."""
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
                for event in training.train(micro(data, run, steps)):
                    counts["went back"] += "back to step" in getattr(event, "text", "")
                counts["finished"] += 1
            except TrainingError as error:
                counts["gave up"] += 1
                if error.exit_code != 1 or "not finite" not in str(error) or planted.lasts < 3:
                    found.append(str(error))
            except BaseException as error:
                found.append(repr(error))
        if planted.learner is not None:
            found += poison_left(planted.learner, run)
        rows = rows_of(run) if (run / "log.jsonl").exists() else []
        counts["skipped steps"] += rows[-1]["skipped"] if rows else 0
        counts["planted"] += planted.done
        counts["slowest, s"] = max(counts["slowest, s"], round(time.monotonic() - begun, 1))
        failures += [f"case {case}: {planted}: {text}" for text in found]
        if case % 50 == 0:
            gc.collect()
            print(case, counts, failures[-3:], flush=True)
    return {"cases": count, "failures": failures, "counts": counts}


def poison_left(learner: Learner, run: Path) -> list[str]:
    """What is not finite in the networks, the average, the optimizers, the files and the log."""
    wrong: list[str] = []

    def look(where: str, tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                wrong.append(f"{where}: {name} is not finite")

    look("networks", learner.networks.state_dict())
    look("average", learner.average.state_dict())
    for name, optimizer in learner.optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            look(f"optimizer {name}", {f"{index}.{k}": v for k, v in entry.items()})
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
    make_micro()
    kind, place, *numbers = sys.argv[1:]
    Path(place).mkdir(parents=True, exist_ok=True)
    verbs = {
        "resume": kill_at_each_step,
        "chains": kill_chains,
        "signals": signals,
        "numbers": plant_numbers,
    }
    with contextlib.redirect_stdout(sys.stderr):
        told = verbs[kind](Path(place), *map(int, numbers))
    print(json.dumps(told))
