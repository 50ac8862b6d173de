"""The full counts of the promises about weights and run folders. One seed: T2I_SEED, else drawn and printed."""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from test_checkpoint_files import run_faults

from t2i_cli.checkpoint import RunLock, load_model, load_state, read_info, save_state
from t2i_cli.checkpoint.safetensors_file import HEADER_HASH
from t2i_cli.errors import T2IError, WeightsError
from tests.slow.summary import SEED, count

pytestmark = pytest.mark.slow


def faulty(path: Path, what: str, seconds: float = 5.0) -> list[str]:
    """What is wrong with how a damaged file is refused: it must be one line, with its name, exit 3, soon."""
    begun = time.monotonic()
    try:
        load_model(path)
    except WeightsError as error:
        text = str(error)
        good = str(path) in text and text.isprintable() and error.exit_code == 3
        slow = time.monotonic() - begun > seconds
        return (
            []
            if good and not slow
            else [f"{what}: {text!r} after {time.monotonic() - begun:.1f} s"]
        )
    except BaseException as error:
        return [f"{what}: {error!r}"]
    return [f"{what}: loaded"]


def test_1_every_one_byte_truncation(memory: Path):
    begun, failures = time.monotonic(), []
    path = memory / "tiny.safetensors"
    faults.save_tiny(path)
    size = path.stat().st_size
    for length in range(size - 1, -1, -1):
        os.truncate(path, length)
        failures += faulty(path, f"cut to {length} bytes")
    count("1: every truncation of a tiny file", size, failures, begun)


def test_1_random_truncations(memory: Path):
    begun, failures, chance = time.monotonic(), [], random.Random(SEED + 1)
    whole = memory / "whole.safetensors"
    path = memory / "cut.safetensors"
    for case in range(20_000):
        if case % 2000 == 0:
            faults.save_tiny(whole, case)
            data = whole.read_bytes()
        length = int(len(data) * chance.random() ** chance.choice([1, 1, 8]))
        path.write_bytes(data[:length])
        failures += faulty(path, f"model {case // 2000} cut to {length} bytes")
    count("1: random truncations", 20_000, failures, begun)


def test_1_random_flips(memory: Path):
    begun, failures, chance = time.monotonic(), [], random.Random(SEED + 2)
    path = memory / "flipped.safetensors"
    for case in range(20_000):
        if case % 2000 == 0:
            faults.save_tiny(path, case)
            size, start = path.stat().st_size, read_info(path).header.data_start
        byte = chance.randrange(start if case % 2 else size)  # half of them in the header
        mask = 1 << chance.randrange(8)
        with path.open("r+b") as file:
            for step in range(2):  # flip, try, flip back
                file.seek(byte)
                old = file.read(1)[0]
                file.seek(byte)
                file.write(bytes([old ^ mask]))
                file.flush()
                if step == 0:
                    failures += faulty(path, f"model {case // 2000}, byte {byte}, bit {mask}")
    load_model(path)
    count("1: random flipped bits", 20_000, failures, begun)


def test_1_every_flipped_bit_of_the_header(memory: Path):
    begun, failures, cases = time.monotonic(), [], 0
    path = memory / "flipped.safetensors"
    faults.save_tiny(path)
    data = bytearray(path.read_bytes())
    start = read_info(path).header.data_start
    for byte in range(start):
        for bit in range(8):
            data[byte] ^= 1 << bit
            with path.open("r+b") as file:
                file.seek(byte)
                file.write(data[byte : byte + 1])
            failures += faulty(path, f"byte {byte}, bit {bit}")
            data[byte] ^= 1 << bit
            cases += 1
        with path.open("r+b") as file:
            file.seek(byte)
            file.write(data[byte : byte + 1])
    load_model(path)
    count("1: every flipped bit of a header", cases, failures, begun)


def test_1_cut_and_flipped_states(memory: Path):
    begun, failures, chance = time.monotonic(), [], random.Random(SEED + 3)
    folder = save_state(memory, 1, faults.tensors_at(1), {"k": list(range(99))})
    files = sorted(folder.iterdir())
    cases = 0
    for path in files:
        whole = path.read_bytes()
        for case in range(2500):
            data = bytearray(whole)
            if case % 2:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            else:
                del data[chance.randrange(len(data)) :]
            path.write_bytes(data)
            cases += 1
            try:
                load_state(memory)
                failures.append(f"{path.name} case {case}: loaded")
            except WeightsError as error:
                if str(folder) not in str(error):
                    failures.append(f"{path.name} case {case}: {error}")
            except Exception as error:
                failures.append(f"{path.name} case {case}: {error!r}")
        path.write_bytes(whole)
    load_state(memory)
    count("1: cut and flipped files of a run's state", cases, failures, begun)


def test_2_a_kill_at_each_call(memory: Path):
    begun = time.monotonic()
    told = run_faults("each", memory, 1)
    count("2: a kill before and after each call of a save", told["cases"], told["failures"], begun)


def test_2_random_kills(memory: Path):
    begun = time.monotonic()
    told = run_faults("random", memory, 2000, SEED)
    print(
        f"\nof 2,000 kills {told['killed inside a save']} were inside a save; last step {told['last step']}"
    )
    count("2: random kills of a run in one folder", told["cases"], told["failures"], begun)


def test_2_random_kills_on_the_disk(tmp_path: Path):
    begun = time.monotonic()
    told = run_faults("random", tmp_path, 200, SEED + 1)
    count("2: the same on a disk's file system", told["cases"], told["failures"], begun)


def test_2_and_5_kills_of_real_training(memory: Path):
    begun = time.monotonic()
    told = run_faults("train", memory, 100, SEED)
    print(
        f"\n{told['runs']} runs took the kills; one lasts {told['seconds of a run']:.1f} s undisturbed"
    )
    count(
        "2 and 5: kills of t2i train; the same weights and log in the end",
        told["cases"],
        told["failures"],
        begun,
    )


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs of its own; the test is skipped where none can be mounted."""
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name != "posix":
        pytest.skip("no mount command here")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_4_a_full_disk_at_every_4_kib(tmp_path: Path):
    begun = time.monotonic()
    with small_disk(tmp_path / "small", "1m") as place:
        told = run_faults("full", place)
    count(
        "4: a full disk at every 4 KiB (weights, state, log, file, lock)",
        told["cases"],
        told["failures"],
        begun,
    )


def test_4_a_full_disk_under_commands(tmp_path: Path):
    begun = time.monotonic()
    with small_disk(tmp_path / "small", "16m") as place:
        told = run_faults("commands", place, 20, SEED, tmp_path / "apart")
    print(f"\n{told['commands']}")
    count(
        "4: a full disk under t2i tokenize, sample, train", told["cases"], told["failures"], begun
    )


def test_4_writes_that_fail_at_every_size(tmp_path: Path):
    begun = time.monotonic()
    told = run_faults("limit", tmp_path)
    count("4: writes that fail at every size (EFBIG)", told["cases"], told["failures"], begun)


def test_12_forged_headers(memory: Path):
    """Headers changed by somebody who computes the digests anew: refused or sound, soon, in little memory."""
    begun, failures, chance = time.monotonic(), [], random.Random(SEED + 4)
    path = memory / "tiny.safetensors"
    faults.save_tiny(path)
    info = read_info(path)
    body = path.read_bytes()[info.header.data_start :]
    told = json.loads(path.read_bytes()[8 : info.header.data_start])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cases, accepted = 20_000, 0
    for case in range(cases):
        table = json.loads(json.dumps(told))
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            mutate(table, chance)
        path.write_bytes(signed(table) + body)
        started = time.monotonic()
        try:
            load_model(path)
            accepted += 1  # words were changed, or a name that changes nothing
        except WeightsError as error:
            if str(path) not in str(error) or not str(error).isprintable():
                failures.append(f"case {case}: {error!r}")
        except BaseException as error:
            failures.append(f"case {case}: {error!r}")
        if time.monotonic() - started > 2:
            failures.append(f"case {case}: {time.monotonic() - started:.1f} s")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > 200_000:
        failures.append(f"memory grew by {grown} KiB")
    print(
        f"\nof {cases:,} forged headers {accepted:,} still described the same networks; memory grew {grown} KiB"
    )
    count("12: forged headers with digests that hold", cases, failures, begun)


ODD = [
    None, True, -1, 0, 1, 2**31, 2**48, 2**63, 2**64, 10**30, 1.5, float("nan"), "", "F32", "U8", "BF16", "[]",
    "\x1b[31m", "\ud800",
    [], [0], [1] * 20, [2**40, 2**40], {}, {"a": 1}, "x" * 2000,
]  # fmt: skip


def mutate(table: dict, chance: random.Random) -> None:
    """Change one thing somewhere in a header, or in the config that is text inside it."""
    metadata = table.get("__metadata__")
    if (
        chance.random() < 0.5
        and isinstance(metadata, dict)
        and isinstance(metadata.get("t2i.config"), str)
    ):
        try:
            config = json.loads(metadata["t2i.config"])
        except ValueError:
            config = None
        if isinstance(config, dict):
            change(config, chance)
            metadata["t2i.config"] = json.dumps(config)
            return
    change(table, chance)


def change(node: dict | list, chance: random.Random) -> None:
    """Replace, remove or add an entry at a random depth."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(node[key], dict | list) and chance.random() < 0.7:
            node = node[key]
            continue
        deed = chance.random()
        if deed < 0.15:
            del node[key]
        elif deed < 0.3 and isinstance(node, dict):
            node[chance.choice(["a", "generator.x", "\x9b", str(key) + "x"])] = chance.choice(
                [node[key], *ODD]
            )
        elif type(node[key]) is int and deed < 0.7:
            node[key] = node[key] + chance.choice([-1, 1, 8, -8, 1000, -1000])
        else:
            node[key] = chance.choice(ODD)
        return


def signed(table: dict) -> bytes:
    """The start of a file with this header, its own digest made to hold."""
    metadata = table.get("__metadata__")
    if isinstance(metadata, dict):
        metadata[HEADER_HASH] = "0" * 64
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return faults.sealed(text)


def test_12_damaged_tokenizers(memory: Path):
    begun = time.monotonic()
    told = run_faults("tokenizers", memory, 5000, SEED)
    count("12: damaged tokenizers", told["cases"], told["failures"], begun)


def test_8_one_trainer_a_run_folder(memory: Path):
    """Eight threads, each with its own open file, want the same folder 500 times: never two at once."""
    begun, failures, inside, held, refusals = time.monotonic(), [], [0], [0], [0]
    guard = threading.Lock()

    def worker() -> None:
        for turn in range(500):
            try:
                with RunLock(memory / "run"):
                    with guard:
                        inside[0] += 1
                        held[0] += 1
                        if inside[0] > 1:
                            failures.append(f"{inside[0]} at once")
                    time.sleep(0.0002 if turn % 25 else 0.1)  # longer than others wait
                    with guard:
                        inside[0] -= 1
            except T2IError as error:
                with guard:
                    refusals[0] += 1
                if error.exit_code != 1 or "already being trained by" not in str(error):
                    failures.append(repr(error))

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if held[0] < 100 or refusals[0] < 100:
        failures.append(f"held {held[0]}, refused {refusals[0]} times: not a contest")
    count("8: one trainer a run folder, 8 want it", held[0] + refusals[0], failures, begun)
