"""Faults for the tests of what must survive: kills, full disks, cut and flipped files. Runs as a script too.

The script forks children that save and are killed, which a process with threads (pytest) should not do itself:

    python tests/faults.py each FOLDER K          a kill before and after every K-th system call of a save
    python tests/faults.py random FOLDER N SEED   N kills at random moments of an endless run
    python tests/faults.py full FOLDER            a save at every 4 KiB of free space (FOLDER on its own small tmpfs)
    python tests/faults.py tokenizers FOLDER N SEED   N damaged tokenizers, each read in a child that may crash
    python tests/faults.py train FOLDER N SEED    runs of t2i train, killed N times at random and resumed
    python tests/faults.py commands FOLDER N SEED DATA    a full disk under tokenize, sample, train
    python tests/faults.py limit FOLDER           the same by a limit on a file's size, where no tmpfs can be mounted

It prints one JSON object: cases, failures (a list of sentences) and what else it counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from t2i_cli import checkpoint, models
from t2i_cli.checkpoint.safetensors_file import HEADER_HASH
from t2i_cli.config import Attribute, ModelConfig, TextEncoderConfig
from t2i_cli.errors import OutputError, T2IError, TokenizerError
from t2i_cli.references import ReferenceStore
from t2i_cli.tokenizer import Tokenizer, train_tokenizer


def _tokenizer() -> bytes:
    """A tokenizer of a few kilobytes: without the 240 KB table that folds case."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red cat", "a blue dog", "a green house"]), model_writer=model,
        model_type="unigram", vocab_size=300, hard_vocab_limit=False, byte_fallback=True,
        normalization_rule_name="identity", pad_id=0, unk_id=1, bos_id=2, eos_id=3, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


TOKENIZER = _tokenizer()
VOCAB = Tokenizer(TOKENIZER).vocab_size
SYSTEM_CALLS = frozenset(
    [
        "open",
        "write",
        "flush",
        "close",
        "fsync",
        "rename",
        "replace",
        "mkdir",
        "unlink",
        "rmdir",
        "link",
        "ftruncate",
        "scandir",
        "flock",
        "__exit__",
    ]
)


def sealed(header: bytes) -> bytes:
    """The start of a weights file with this header, whose own digest holds where the header has sixty-four 0 for it."""
    raw = struct.pack("<Q", len(header)) + header
    pin = f'"{HEADER_HASH}":"%s"'
    digest = hashlib.sha256(raw).hexdigest()
    return raw.replace((pin % ("0" * 64)).encode(), (pin % digest).encode())


STYLES = ("bold", "light")  # of the attribute style of the smallest model


def tiny_config() -> ModelConfig:
    """The smallest model that every network accepts."""
    return ModelConfig(
        size="custom",
        resolution=32,
        cells=4,
        latent_channels=2,
        patch=8,
        encoder_channels=(8,),
        decoder_channels=(8,),
        channels=(8, 8),
        blocks=1,
        head_dim=8,
        attributes=(Attribute("style", STYLES),),
        image_encoder_channels=(8,),
        text=TextEncoderConfig(vocab_size=VOCAB, context_length=8, dim=8, depth=1, heads=1),
    )


def tiny_networks(seed: int = 0) -> models.Networks:
    """Every weight drawn at random, so that none is the same in two models."""
    torch.manual_seed(seed)
    networks = models.build(tiny_config())
    with torch.no_grad():
        for value in networks.parameters():
            value.copy_(torch.randn_like(value))
    return networks


def tiny_states(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """The networks as `save_model` takes them."""
    return {name: net.state_dict() for name, net in tiny_networks(seed).named_children()}


def tiny_store(count: int = 5) -> ReferenceStore:
    """References of no pictures in particular, the last one without a style."""
    random_state, config = np.random.RandomState(count), tiny_config()
    latents = random_state.randint(-127, 128, (count, config.latent_channels, 4, 4))
    keys = random_state.randint(-127, 128, (count, config.text.dim))
    kinds = [[row % len(STYLES)] for row in range(count - 1)] + [[len(STYLES)]] * bool(count)
    return ReferenceStore(
        latents.astype(np.int8),
        keys.astype(np.int8),
        np.array(kinds, np.int16).reshape(count, 1),
        np.arange(count, dtype=np.int32),
    )


def save_tiny(path: Path, seed: int = 0, **more: object) -> str:
    """Write the smallest model, with five references; returns its hash."""
    more = {"references": tiny_store(), "title": f"tiny {seed}", **more}
    return checkpoint.save_model(path, tiny_states(seed), tiny_config(), TOKENIZER, **more)


def tensors_at(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """The state of step ``step``: told apart from any other step's by every byte."""
    return {
        "networks": {
            "w": torch.full((33, 17), float(step)),
            "b": torch.full((5,), step, dtype=torch.bfloat16),
        },
        "optimizer": {
            "step": torch.tensor(step),
            "moments": torch.full((700,), step / 3, dtype=torch.float64),
        },
    }


def one_save(run: Path, step: int) -> None:
    """What a trainer does at a save: the log's row, the weights, the state."""
    checkpoint.append_line(run / "log.jsonl", json.dumps({"step": step, "loss": step / 7}))
    networks = {
        "text_encoder": {"a": torch.full((40,), step / 128)},
        "image_encoder": {"a": torch.zeros(3)},
        "encoder": {"a": torch.zeros(3)},
        "decoder": {"a": torch.zeros(3)},
        "generator": {"a": torch.full((900,), step % 256.0)},
    }
    checkpoint.save_model(
        run / "model.safetensors", networks, tiny_config(), TOKENIZER, title=str(step)
    )
    checkpoint.save_state(
        run, step, tensors_at(step), {"step": step, "rng": list(range(step % 50))}
    )


def problems_after(run: Path, at_least: int, at_most: int) -> tuple[int, list[str]]:
    """Start again after a kill: the step that is there, and each thing about it that is not as promised."""
    wrong: list[str] = []
    with checkpoint.RunLock(run):
        left = [str(path) for path in run.rglob(".*") if path.name != ".lock"]
        if left:
            wrong.append(f"orphans after the next start: {left}")
        state = checkpoint.load_state(run)
        step = state.step if state is not None else 0
        if not at_least <= step <= at_most:
            wrong.append(f"state of step {step}, expected {at_least} to {at_most}")
        if state is not None:
            expected = tensors_at(step)
            for group, tensors in expected.items():
                for name, value in tensors.items():
                    if not torch.equal(state.files[group][name], value):
                        wrong.append(f"{group}.{name} is not that of step {step}")
            if state.meta != {"step": step, "rng": list(range(step % 50))}:
                wrong.append("meta is another step's")
            if len(list((run / "state").iterdir())) > 1:
                newest = sorted((run / "state").iterdir())[-1]
                if state.path != newest:
                    wrong.append("not the newest state")
        if (run / "model.safetensors").exists():
            title = int(checkpoint.read_info(run / "model.safetensors", verify=True).title)
            if title not in (step, step + 1):
                wrong.append(f"weights of step {title} beside the state of step {step}")
        elif step:
            wrong.append("no weights")
        checkpoint.truncate_log(run / "log.jsonl", step)
        log = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
        if log != "".join(
            json.dumps({"step": k, "loss": k / 7}) + "\n" for k in range(1, step + 1)
        ):
            wrong.append("the log's rows are not those of an unbroken run")
    return step, wrong


def fork_and(work: object) -> int:
    """Run ``work()`` in a child that ends without cleaning up; its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        work()  # pyright: ignore
        code = 0
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr, flush=True)
    os._exit(code)


def kill_at_each_call(folder: Path, stride: int) -> dict[str, object]:
    """A kill before and after every (``stride``-th) system call of a save, a child each."""
    template = folder / "template"
    for step in (1, 2):
        with checkpoint.RunLock(template):
            one_save(template, step)
    failures: list[str] = []
    seen: list[int] = []
    for case in range(10_000):
        point = case * stride
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(template, run)

        def work(run: Path = run, point: int = point) -> None:
            count = 0

            def watch(frame: object, event: str, called: object) -> None:
                nonlocal count
                if (
                    event in ("c_call", "c_return")
                    and getattr(called, "__name__", "") in SYSTEM_CALLS
                ):
                    count += 1
                    if count > point:
                        os.kill(os.getpid(), signal.SIGKILL)

            with checkpoint.RunLock(run):
                sys.setprofile(watch)
                one_save(run, 3)
                sys.setprofile(None)

        child = fork_and(work)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):  # there was no such call any more: every one has had its turn
            if os.WEXITSTATUS(status):
                failures.append(f"the child failed: {os.WEXITSTATUS(status)}")
            step, wrong = problems_after(run, 3, 3)
            failures += wrong
            return {"cases": case, "failures": failures, "steps seen": sorted(set(seen))}
        step, wrong = problems_after(run, 2, 3)
        seen.append(step)
        failures += [f"kill {point}: {text}" for text in wrong]
    return {"cases": 0, "failures": ["the save never ended"]}


def kill_at_random(folder: Path, count: int, seed: int) -> dict[str, object]:
    """Kills at random moments of a run that goes on in one folder from kill to kill."""
    chance = random.Random(seed)
    run = folder / "run"
    failures: list[str] = []
    begun = time.monotonic()
    with checkpoint.RunLock(run):
        one_save(run, 1)
        one_save(run, 2)
    step, in_save, usual = 2, 0, min((time.monotonic() - begun) / 2, 1.0)  # s a save
    for case in range(count):
        read_end, write_end = os.pipe()

        def work(run: Path = run, start: int = step, write_end: int = write_end) -> None:
            with checkpoint.RunLock(run):
                checkpoint.truncate_log(run / "log.jsonl", start)
                for at in range(start + 1, start + 100_000):
                    os.write(write_end, b"%d\n" % (at - 1))
                    one_save(run, at)

        child = fork_and(work)
        os.close(write_end)
        select.select([read_end], [], [], 20)  # it has begun
        time.sleep(chance.random() * 3 * usual)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b""
        while chunk := os.read(read_end, 65_536):
            told += chunk
        os.close(read_end)
        done = int(told.split(b"\n")[-2]) if told.count(b"\n") else step
        before = step
        in_save += any(path.name != ".lock" for path in run.rglob(".*"))
        step, wrong = problems_after(run, done, done + 1)
        failures += [f"kill {case}: {text}" for text in wrong]
        if step < before:
            failures.append(f"kill {case}: went back from step {before} to {step}")
    return {
        "cases": count,
        "failures": failures,
        "last step": step,
        "killed inside a save": in_save,
    }


def fill_disk(folder: Path) -> dict[str, object]:
    """Every kind of write with 0, 4, 8, ... KiB free, over what existed; it must still be there, whole."""
    failures: list[str] = []
    cases = refused = 0
    run, ballast = folder / "run", folder / "ballast"
    with checkpoint.RunLock(run):
        one_save(run, 1)
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    writes = {
        "log": lambda: checkpoint.append_line(
            run / "log.jsonl", json.dumps({"step": 2, "text": "x" * 6000})
        ),
        "model": lambda: save_tiny(run / "model.safetensors", 2),
        "state": lambda: checkpoint.save_state(run, 2, tensors_at(2), {"big": list(range(2000))}),
        "file": lambda: checkpoint.write_atomic(run / "config.toml", b"#" * 30_000),
        "start": lambda: checkpoint.RunLock(run).__enter__().__exit__(None, None, None),
    }
    for name, write in writes.items():
        pages, succeeded = 0, 0
        while succeeded < 3 and pages < 200:
            pages_free = pages * 4096
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            ballast.write_bytes(b"\0" * max(0, free - pages_free))
            before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
            cases += 1
            try:
                write()
                succeeded += 1
            except OutputError as error:
                refused += 1
                if error.exit_code != 1 or "No space left" not in str(error):
                    failures.append(f"{name} with {pages_free} bytes free: {error}")
                after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
                if after != before:
                    changed = [str(p) for p in {*after, *before} if after.get(p) != before.get(p)]
                    failures.append(f"{name} with {pages_free} bytes free changed {changed}")
            except T2IError as error:
                failures.append(f"{name} with {pages_free} bytes free: {error!r}")
            ballast.unlink()
            try:
                checkpoint.read_info(run / "model.safetensors", verify=True)
                assert checkpoint.load_state(run) is not None
            except (T2IError, AssertionError) as error:
                failures.append(f"{name} with {pages_free} bytes free: afterwards {error!r}")
            pages += 1
        if succeeded < 3:
            failures.append(f"{name}: never enough space")
        shutil.rmtree(run)
        for path, content in whole.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return {"cases": cases, "failures": failures, "refused": refused}


def limit_files(folder: Path) -> dict[str, object]:
    """Every kind of write that fails at every 512 bytes, later 4 KiB, of a file (EFBIG), over what existed."""
    failures: list[str] = []
    cases = refused = 0
    run = folder / "run"
    with checkpoint.RunLock(run):
        one_save(run, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes = {
        "log": lambda: checkpoint.append_line(run / "log.jsonl", "x" * 3000),
        "model": lambda: save_tiny(run / "model.safetensors", 2),
        "state": lambda: checkpoint.save_state(run, 2, tensors_at(2), {}),
        "file": lambda: checkpoint.write_atomic(run / "config.toml", b"#" * 3000),
    }
    for name, write in writes.items():
        limit = 1
        while True:
            before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
            cases += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                write()
                break
            except OutputError:
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
            if after != before:
                failures.append(f"{name} at {limit} bytes: what existed has changed")
            limit += 512 if limit < 8192 else 4096
            if limit > 2_000_000:
                failures.append(f"{name}: never enough")
                break
    return {"cases": cases, "failures": failures, "refused": refused}


def _train_micro(data: Path, out: Path, steps: int) -> None:
    """A real run of the smallest model there can be; it goes on where it stands."""
    import pytest

    from t2i_cli.train import train
    from tests import toy_runs

    toy_runs.make_small(pytest.MonkeyPatch())
    config = {"steps": steps, "save_every": 0.1}
    for _ in train(toy_runs.settings(data, out, config=config, resume=True)):
        pass


def _log_without_clock(run: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clock = {"images_per_second", "memory_mb", "seconds", "eta_s"}
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def _toy_data(data: Path) -> Path:
    from t2i_cli import images

    data.mkdir()
    for number in range(16):
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[number : number + 12, 4:28] = (40 * (number % 4), 90, 255 - 12 * number, 255)
        (data / f"{number}.png").write_bytes(images.encode(pixels))
        (data / f"{number}.txt").write_text(f"bar number {number}\n")
    return data


def fill_disk_under_commands(place: Path, count: int, seed: int, apart: Path) -> dict[str, object]:
    """Commands on a small tmpfs that fills while they work; ``apart`` holds their input and cache."""
    apart.mkdir()
    os.environ["T2I_CACHE"] = str(apart / "t2i-cache")
    chance, failures, counts = random.Random(seed), [], {}
    data, ballast = _toy_data(apart / "data"), place / "ballast"
    save_tiny(apart / "model.safetensors", 3)

    def command(*arguments: object) -> int:
        def work() -> None:
            from t2i_cli.cli import run

            sys.stderr.flush()
            os.dup2(os.open(apart / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
            os._exit(run([str(argument) for argument in arguments]))

        return os.waitstatus_to_exitcode(os.waitpid(fork_and(work), 0)[1])

    def leave_free(size: int) -> None:
        ballast.unlink(missing_ok=True)
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        ballast.write_bytes(b"\0" * max(0, free - size))

    verbs = {
        "tokenize": (
            "tokenize",
            "--train",
            data,
            "-o",
            place / "tokenizer.model",
            "-f",
            "--vocab-size",
            300,
        ),
        "sample": (
            "sample",
            "a bar",
            "-m",
            apart / "model.safetensors",
            "-o",
            place / "out.png",
            "-f",
            "--device",
            "cpu",
        ),
    }
    for name, arguments in verbs.items():
        target = Path(str(arguments[arguments.index("-o") + 1]))
        if code := command(*arguments):
            failures.append(
                f"{name}: {code} with an empty disk: {(apart / 'said').read_text()[-300:]}"
            )
            continue
        old, cases, refused, succeeded = target.read_bytes(), 0, 0, 0
        while succeeded < 3 and cases < 400:
            leave_free(cases * 4096)
            code = command(*arguments)
            said = (apart / "said").read_text()
            if code == 0:
                succeeded += 1
            elif code != 1 or "No space left" not in said or "Traceback" in said:
                failures.append(
                    f"{name} with {cases * 4096} bytes free: exit {code}: {said[-300:]}"
                )
            refused += code != 0
            left = sorted(path.name for path in place.iterdir() if path != ballast)
            if target.read_bytes() != old or left != [target.name]:
                failures.append(
                    f"{name} with {cases * 4096} bytes free: changed what existed; {left}"
                )
            cases += 1
        counts[name] = {"cases": cases, "refused": refused}
        target.unlink()
        ballast.unlink()

    def train(run: Path, steps: int = 48) -> int:
        def work() -> None:
            try:
                _train_micro(data, run, steps)
            except T2IError as error:
                (apart / "said").write_text(str(error))
                os._exit(error.exit_code)

        return fork_and(work)

    importlib.import_module("t2i_cli.train")  # before the children need it, and the same for all
    template, run = apart / "template", place / "run"
    os.waitpid(train(apart / "quiet"), 0)
    expected = checkpoint.read_info(apart / "quiet" / "model.safetensors").hash
    child = train(template)
    while (checkpoint.saved_step(template) or 0) < 20:
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    refused = 0
    for _ in range(count):
        ballast.unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(template, run)
        with checkpoint.RunLock(run):
            free = chance.randrange(0, 6_000_000, 4096)
        leave_free(free)
        code = os.waitstatus_to_exitcode(os.waitpid(train(run), 0)[1])
        if code:
            refused += 1
            if code != 1 or "No space left" not in (apart / "said").read_text():
                failures.append(
                    f"train with {free} bytes free: exit {code}: {(apart / 'said').read_text()[-300:]}"
                )
        if code and checkpoint.load_state(run) is None:
            failures.append(f"train with {free} bytes free: no state is left")
        checkpoint.load_model(run / "model.safetensors")
        ballast.unlink(missing_ok=True)
        if code and (code := os.waitstatus_to_exitcode(os.waitpid(train(run), 0)[1])):
            failures.append(f"train with {free} bytes free: could not go on later: exit {code}")
        if checkpoint.read_info(run / "model.safetensors", verify=True).hash != expected:
            failures.append(f"train with {free} bytes free: other weights in the end")
    counts["train"] = {"cases": count, "refused": refused}
    total = sum(row["cases"] for row in counts.values())
    return {"cases": total, "failures": failures, "commands": counts}


def kill_training(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Runs of all three stages, killed at random until they end, against one that nobody disturbed."""
    chance = random.Random(seed)
    data, quiet = _toy_data(folder / "data"), folder / "quiet"
    importlib.import_module("t2i_cli.train")  # before the children need it, and the same for all
    steps, failures = 48, []
    begun = time.monotonic()
    _, status = os.waitpid(fork_and(lambda: _train_micro(data, quiet, steps)), 0)
    lasts = time.monotonic() - begun
    if status:
        return {"cases": 0, "failures": [f"the undisturbed run ended with {status}"]}
    expected = checkpoint.read_info(quiet / "model.safetensors", verify=True).hash
    rows = _log_without_clock(quiet)
    done = runs = 0
    while done < kills:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        runs += 1
        before = 0
        for _ in range(200):
            child = fork_and(lambda run=run: _train_micro(data, run, steps))
            time.sleep(chance.random() ** 2 * lasts * 0.6)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                if status:
                    failures.append(f"run {runs}: ended with {status}")
                break
            done += 1
            try:
                with checkpoint.RunLock(run):
                    left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
                state = checkpoint.load_state(run)
                step = state.step if state is not None else 0
                if left or step < before:
                    failures.append(f"run {runs}: step {step} after {before}, orphans {left}")
                if (run / "model.safetensors").exists():
                    checkpoint.load_model(run / "model.safetensors")
                before = step
            except T2IError as error:
                failures.append(f"run {runs}: {error!r}")
        else:
            _, status = os.waitpid(fork_and(lambda run=run: _train_micro(data, run, steps)), 0)
        if checkpoint.read_info(run / "model.safetensors", verify=True).hash != expected:
            failures.append(f"run {runs}: other weights than the undisturbed run's")
        found = _log_without_clock(run)
        if found != rows:
            first = next(
                (pair for pair in zip(found, rows, strict=False) if pair[0] != pair[1]),
                (len(found), len(rows)),
            )
            failures.append(
                f"run {runs}: other rows in its log than the undisturbed run's: {first}"
            )
    return {"cases": done, "failures": failures, "runs": runs, "seconds of a run": lasts}


def damage_tokenizers(folder: Path, count: int, seed: int) -> dict[str, object]:
    """Tokenizers with bytes changed or cut, half of them ours with its table of cases: refused or read, no crash."""
    chance = random.Random(seed)
    whole = [TOKENIZER, train_tokenizer(["a red cat", "a blue dog", "a green house"]).to_bytes()]
    failures: list[str] = []
    loaded = 0
    for case in range(count):
        data = bytearray(whole[case % 2])
        for _ in range(chance.choice([1, 1, 2, 5, 30])):
            near = chance.choice([len(data), min(3000, len(data)), min(400, len(data))])
            place = chance.randrange(near) if chance.random() < 0.7 else -1 - chance.randrange(near)
            data[place] = chance.randrange(256)
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]

        def work(data: bytes = bytes(data)) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                tokenizer = Tokenizer(data)
            except TokenizerError:
                os._exit(3)
            for text in ("a réd cat \U0001f600 ǆ Ⅷ ﬁ" * 20, "", "\0", "Cat ½"):
                tokenizer.encode(text), tokenizer.pieces(text), tokenizer.unknown(text)

        _, status = os.waitpid(fork_and(work), 0)
        if not os.WIFEXITED(status) or os.WEXITSTATUS(status) not in (0, 3):
            (folder / f"crash-{case}.model").write_bytes(data)
            failures.append(f"case {case}: status {status}")
        loaded += status == 0
    return {"cases": count, "failures": failures, "loaded": loaded}


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, place, *numbers = sys.argv[1:]
    Path(place).mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "each":
            told = kill_at_each_call(Path(place), int(numbers[0]))
        elif kind == "random":
            told = kill_at_random(Path(place), int(numbers[0]), int(numbers[1]))
        elif kind == "full":
            told = fill_disk(Path(place))
        elif kind == "commands":
            told = fill_disk_under_commands(
                Path(place), int(numbers[0]), int(numbers[1]), Path(numbers[2])
            )
        elif kind == "train":
            told = kill_training(Path(place), int(numbers[0]), int(numbers[1]))
        elif kind == "tokenizers":
            told = damage_tokenizers(Path(place), int(numbers[0]), int(numbers[1]))
        else:
            told = limit_files(Path(place))
    print(json.dumps(told))
