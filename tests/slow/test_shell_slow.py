"""The full counts of the promises to shell scripts: readers that leave, disks that fill, writes that fail. T2I_SEED."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import _toy_data
from test_checkpoint_slow import small_disk

from t2i_cli import images
from tests.slow.summary import SEED, TESTS, count, share
from tests.toy_weights import save_toy

pytestmark = pytest.mark.slow
T2I = [sys.executable, "-m", "t2i_cli"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every command here: a toy model, and a cache that has its graph already."""
    place = tmp_path_factory.mktemp("world")
    env = {
        **os.environ,
        "PYTHONPATH": str(TESTS.parent),
        "T2I_CACHE": str(place / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    env |= {
        "T2I_MODEL": str(save_toy(place / "toy.safetensors")),
        "DATA": str(_toy_data(place / "data")),
    }
    for name in ("T2I_SEED", "PILLOW_IMAGES"):
        env.pop(name, None)
    subprocess.run(
        [*T2I, "sample", "x", "-o", place / "x.png"], env=env, check=True, stdout=subprocess.DEVNULL
    )
    (place / "lines").write_text("".join(f"ball {k}\n" for k in range(3000)))
    return env | {"LINES": str(place / "lines")}


def one_line(said: str) -> bool:
    """Whether stderr ends in one line of an error, and holds no traceback."""
    lines = [line for line in said.splitlines() if line.startswith("t2i: error: ")]
    return len(lines) == 1 and "Traceback" not in said


VERBS = {
    "sample": (["sample", "-i", "{LINES}", "-o", "out/{{i}}.png", "--shard", "1/30"], 100),
    "sample --json": (
        ["sample", "-i", "{LINES}", "-o", "out/{{i}}.png", "--shard", "1/30", "--json"],
        100,
    ),
    "sample -o -": (["sample", "a ball", "-o", "-", "--scale", "64"], 0),
    "tokenize": (["tokenize", "-"], 0),
    "tokenize --json": (["tokenize", "-", "--json"], 0),
    "check": (["check", "{DATA}"], 0),
    "check --json": (["check", "{DATA}", "--json"], 0),
    "info": (["info"], 0),
    "info --json": (["info", "--json"], 0),
    "--help": (["--help"], 0),
    "sample -h": (["sample", "-h"], 0),
    "--version": (["--version"], 0),
}  # what is run, and how many pictures it must leave


@contextlib.contextmanager
def started(
    arguments: list[str], world: dict[str, str], cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A command at work; `-` reads the lines of a file."""
    words = [word.format(**world) for word in arguments]
    lines = world["LINES"] if "-" in words else os.devnull
    with (
        Path(lines).open() as stdin,
        subprocess.Popen(
            [*T2I, *words],
            env=world,
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        yield process


@pytest.mark.parametrize("verb", VERBS)
def test_17_a_reader_that_leaves(verb: str, world: dict[str, str], tmp_path: Path):
    """`| head`: the reader leaves after so many bytes, or before the first; nothing is lost and nothing is said."""
    begun, failures, chance = time.monotonic(), [], random.Random(SEED)
    arguments, pictures = VERBS[verb]
    cases = share(20)
    for case in range(cases):
        place = tmp_path / str(case)
        place.mkdir()
        stays = (
            0 if case == 0 else chance.choice([1, chance.randrange(300), chance.randrange(5000)])
        )
        with started(arguments, world, place) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if stays:
                os.read(process.stdout.fileno(), stays)
            process.stdout.close()
            said = process.stderr.read().decode()
            code = process.wait()
        if code != 0 or said.strip():
            failures.append(f"left after {stays} bytes: exit {code}: {said[-300:]}")
        made = [path for path in place.rglob("*") if path.is_file()]
        if len(made) != pictures:
            failures.append(f"left after {stays} bytes: {len(made)} pictures of {pictures}")
        for path in made[:10]:
            images.decode(path.read_bytes(), name=path.name)
        shutil.rmtree(place)
    count(f"17: `t2i {verb}` whose reader leaves", cases, failures, begun)


def test_17_and_18_stdout_that_is_full_or_closed(world: dict[str, str], tmp_path: Path):
    begun, failures, cases = time.monotonic(), [], 0
    run = tmp_path / "run"
    train = [
        "train",
        "{DATA}",
        "-o",
        str(run),
        "--resolution",
        "32",
        "--batch-size",
        "2",
        "--steps",
        "3",
        "--json",
        "-q",
    ]
    more = {
        "train --json": ([*train, "--set", "contrastive_batch_size=4"], 0),
        "eval": (["eval", "{DATA}", "{DATA}", "-n", "10", "--metrics", "kid"], 0),
        "eval --json": (["eval", "{DATA}", "{DATA}", "-n", "10", "--metrics", "kid", "--json"], 0),
    }
    for verb, (arguments, _) in (VERBS | more).items():
        for sink in ("/dev/full", "closed", "stderr full"):
            cases += 1
            place = tmp_path / "place"
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(run, ignore_errors=True)
            place.mkdir()
            words = " ".join(f"'{word.format(**world)}'" for word in [*T2I, *arguments])
            tail = {
                "/dev/full": "> /dev/full",
                "closed": ">&-",
                "stderr full": "> /dev/null 2> /dev/full",
            }[sink]
            with Path(world["LINES"]).open() as stdin:
                done = subprocess.run(
                    ["bash", "-c", f"{words} {tail}"], env=world, cwd=place, capture_output=True, text=True,
                    check=False, stdin=stdin,
                )  # fmt: skip
            if sink == "/dev/full" and (done.returncode != 1 or not one_line(done.stderr)):
                failures.append(f"{verb} > /dev/full: exit {done.returncode}: {done.stderr[-300:]}")
            if sink != "/dev/full" and done.returncode != 0:
                failures.append(f"{verb} {sink}: exit {done.returncode}: {done.stderr[-300:]}")
            if "Traceback" in done.stderr:
                failures.append(f"{verb} {sink}: {done.stderr[-300:]}")
    count(
        "17 and 18: every command with a full or closed stdout, or a full stderr",
        cases,
        failures,
        begun,
    )


def limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_18_no_failed_write_is_only_logged(world: dict[str, str], tmp_path: Path):
    """Each kind of file that a command leaves: cut off at some size (EFBIG), under a file, over a folder."""
    begun, failures, cases, chance = time.monotonic(), [], 0, random.Random(SEED)
    old = b"what was there before"
    kinds = {
        "a.png": ["sample", "x", "-f", "-o", "{OUT}"],
        "a.webp": ["sample", "x", "-f", "-o", "{OUT}"],
        "a.jpg": ["sample", "x", "-f", "-o", "{OUT}"],
        "grid.png": ["sample", "x", "-n", "4", "--grid", "-f", "-o", "{OUT}"],
        "m.gif": ["sample", "x", "--morph", "y", "--frames", "3", "-f", "-o", "{OUT}"],
        "v.png": ["sample", "x", "--vary", "{SELF}", "-f", "-o", "{OUT}"],
        "t.model": ["tokenize", "--train", "{DATA}", "--vocab-size", "300", "-f", "-o", "{OUT}"],
        "r.html": [
            "eval",
            "{DATA}",
            "{DATA}",
            "-n",
            "10",
            "--metrics",
            "kid",
            "-f",
            "--report",
            "{OUT}",
        ],
    }
    picture = tmp_path / "self.png"
    subprocess.run(
        [*T2I, "sample", "x", "-o", picture], env=world, check=True, stdout=subprocess.DEVNULL
    )
    blocked, folder = tmp_path / "file", tmp_path / "folder"
    blocked.write_text("a file")
    for name, arguments in kinds.items():

        def run(
            out: Path, size: int | None = None, words: list[str] = arguments
        ) -> tuple[int, str]:
            told = [word.format(**world, OUT=out, SELF=picture) for word in words]
            done = subprocess.run(
                [*T2I, *told], env=world, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                preexec_fn=limited(size) if size is not None else None,
            )  # fmt: skip
            return done.returncode, done.stderr

        place = tmp_path / f"of-{name}"
        place.mkdir()
        code, said = run(place / name)
        if code:
            failures.append(f"{name}: exit {code} with nothing in its way: {said[-300:]}")
            continue
        size = (place / name).stat().st_size
        for limit in chance.sample(sorted({0, 1, 100, size // 3, size // 2, size - 1}), share(6)):
            cases += 1
            (place / name).write_bytes(old)
            code, said = run(place / name, limit)
            if code != 1 or not one_line(said):
                failures.append(
                    f"{name} cut at {limit} of {size} bytes: exit {code}: {said[-300:]}"
                )
            left = {path.name: path.read_bytes() for path in place.iterdir()}
            if left != {name: old}:
                failures.append(f"{name} cut at {limit} of {size} bytes: left {sorted(left)}")
        shutil.rmtree(folder, ignore_errors=True)
        (folder / name / "x").mkdir(parents=True)
        for out in (blocked / name, folder / name, Path("/proc/none") / name, Path("/dev/full")):
            made = "sample" in arguments
            if made and (out == Path("/dev/full") or (out == folder / name and name != "m.gif")):
                continue  # pictures are linked into place, and into a folder that is named
            cases += 1
            code, said = run(out)
            if code == 0 or not one_line(said):
                failures.append(f"{name} to {out}: exit {code}: {said[-300:]}")
    if blocked.read_text() != "a file":
        failures.append("a file in the way was changed")
    count("18: every kind of file that cannot be written", cases, failures, begun)


# -- a stream, and what happens in the middle of it -----------------------------------------------

HOSTILE = [
    "\x1b[2J",
    '{"prompt"',
    '{"prompt": "x", "out": "../../x.png"}',
    "\udcff",
    "x" * 70_000,
    '{"prompt": "x", "seed": -1}',
    "",
]


def stream(chance: random.Random, lines: int) -> tuple[bytes, int]:
    """Lines of prompts with hostile ones among them, and how many of them are bad."""
    out, bad = [], 0
    for number in range(lines):
        if chance.random() < 0.05:
            line = chance.choice(HOSTILE)
            bad += line not in ("", "\x1b[2J")
            out.append(line)
        out.append(f"ball {number}")
    return "\n".join(out).encode("utf-8", "surrogateescape") + b"\n", bad


def whole(place: Path, reported: list[str]) -> list[str]:
    """What is wrong with the pictures that were reported, and with what else lies there."""
    wrong = [line for line in reported if not (place / line).is_file()]
    left = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "ballast")
    wrong += [f"left behind: {path.name}" for path in left if path.name.startswith(".")]
    for path in left:
        try:
            images.decode(path.read_bytes(), name=path.name)
        except Exception as error:
            wrong.append(repr(error))
    if len(left) > len(reported) + 1:  # a signal may come between a picture and its line
        wrong.append(f"{len(left)} pictures, {len(reported)} reported")
    return wrong


def test_4_and_18_a_disk_that_fills_in_the_middle_of_a_stream(
    world: dict[str, str], tmp_path: Path
):
    begun, failures, chance, cases, stopped = (
        time.monotonic(),
        [],
        random.Random(SEED),
        share(25),
        0,
    )
    prompts, bad = stream(chance, 300)
    with small_disk(tmp_path / "small", "3m") as place:  # room for all, once the ballast is gone
        for case in range(cases):
            for path in list(place.iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
            (place / "ballast").write_bytes(
                bytes(max(0, free - chance.randrange(0, 900_000, 4096)))
            )
            command = [*T2I, "sample", "-", "-o", "out/{i}.png", "--scale", "2"]
            done = subprocess.run(
                command, input=prompts, capture_output=True, env=world, cwd=place, check=False
            )
            reported, said = done.stdout.decode().splitlines(), done.stderr.decode()
            if done.returncode != 1 or "No space left" not in said or "Traceback" in said:
                failures.append(f"case {case}: exit {done.returncode}: {said[-300:]}")
            stopped += done.returncode == 1
            failures += [f"case {case}: {text}" for text in whole(place, reported)]
            (place / "ballast").unlink()
            command += ["--skip-existing", "--shard", "1/6"]
            done = subprocess.run(
                command, input=prompts, capture_output=True, env=world, cwd=place, check=False
            )
            if done.returncode not in (0, 4) or "Traceback" in done.stderr.decode():
                failures.append(
                    f"case {case}, once more: exit {done.returncode}: {done.stderr.decode()[-300:]}"
                )
    print(f"\n{stopped} of {cases} streams met the end of the disk; {bad} of their lines are bad")
    count("4 and 18: a disk that fills in the middle of a stream", cases, failures, begun)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_7_and_17_a_signal_in_the_middle_of_a_stream(
    number: int, world: dict[str, str], tmp_path: Path
):
    """Also a second one at once; what was reported is whole, and (but for the second) nothing else is left."""
    begun, failures, chance, cases = time.monotonic(), [], random.Random(SEED + number), share(40)
    prompts, _ = stream(chance, 3000)
    (tmp_path / "prompts").write_bytes(prompts)
    for case in range(cases):
        place = tmp_path / "place"
        place.mkdir()
        process = subprocess.Popen(
            [*T2I, "sample", "-i", "../prompts", "-o", "out/{i}.png", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=world, cwd=place, bufsize=0,
        )  # fmt: skip
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
        time.sleep(chance.random() * 0.02)
        process.send_signal(number)
        twice = chance.random() < 0.3
        if twice:
            process.send_signal(number)
        rest, said = process.communicate(timeout=120)
        paths = [json.loads(line)["path"] for line in (*reported, *rest.splitlines())]
        if (
            process.returncode not in ((128 + number, -number) if twice else (128 + number,))
            or b"Traceback" in said
        ):
            failures.append(f"case {case}: exit {process.returncode}: {said[-300:]!r}")
        wrong = whole(place, paths)
        failures += [
            f"case {case}: {text}"
            for text in wrong
            if not (twice and text.startswith("left behind"))
        ]
        shutil.rmtree(place)
    count(
        f"7 and 17: {signal.Signals(number).name} in the middle of a stream", cases, failures, begun
    )
