"""The full counts of the promises about terminals and names: strangers' text printed, and made into file names."""

import fcntl
import io
import json
import os
import pty
import random
import re
import select
import struct
import subprocess
import sys
import tarfile
import termios
import time
import unicodedata
from pathlib import Path

import faults
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from t2i_cli import images
from t2i_cli.checkpoint import save_model
from t2i_cli.errors import T2IError, visible
from t2i_cli.naming import Fields, Template, expanded, inside, write_new
from tests.slow.summary import SEED, TESTS, count
from tests.toy_weights import save_toy

pytestmark = pytest.mark.slow

CONTROLS = [chr(point) for point in (*range(1, 32), *range(127, 160))]
DIRECTIONS = [
    chr(point) for point in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
]
HIDDEN = ["\u200b", "\u2028", "\u2029", "\u2060", "\ufeff", "\U000e0041", "\ue000", "\ufff9"]
SEQUENCES = [
    "\x1b[2J", "\x1b[38;5;201m", "\x1b[6n", "\x1bc", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1bP+q\x1b\\", "\x1b_x\x1b\\", "\x9b31m", "\x9d0;t\x9c", "\x1b[?1049h", "\r\x1b[Koverwritten", "\x08\x08\x08",
]  # fmt: skip
MARKUP = [
    "[bold red]x[/bold red]",
    "[link=http://x]y[/link]",
    "[/]",
    "[blink]",
    "%s%n",
    "{0}",
    "$(id)",
    ":smiley:",
]
HOSTILE = [*(f"a{c}b" for c in (*CONTROLS, *DIRECTIONS, *HIDDEN)), *SEQUENCES, *MARKUP]
OWN = re.compile(
    r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AKG]|\r"
)  # colours, and how rich moves its display


def raw(text: str) -> set[str]:
    """The characters of a text that a terminal obeys, this tool's own colours and movements aside."""
    found = {"\x1b[38;5;201m"} if "\x1b[38;5;201m" in text else set()
    rest = OWN.sub("", text)
    return found | {
        c for c in rest if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Co")
    }


def terminal(
    arguments: list, stdin: bytes = b"", cwd: Path | None = None, **env: str
) -> tuple[int, str]:
    """Run t2i in a terminal of 200 columns: its exit code and everything that the terminal was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        [sys.executable, "-m", "t2i_cli", *(a if isinstance(a, bytes) else os.fsencode(str(a)) for a in arguments)],
        stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), "TERM": "xterm-256color", **env},
    )  # fmt: skip
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    said = b""
    while process.poll() is None or select.select([ours], [], [], 0.1)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                said += os.read(ours, 65_536)
            except OSError:
                break
    process.wait()
    os.close(ours)
    return process.returncode, said.decode("utf-8", "surrogateescape")


class Said:
    """Runs commands in a terminal and keeps what is not as promised."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.cases = self.characters = 0

    def __call__(
        self, *arguments: object, codes: tuple[int, ...], texts: int, **more: object
    ) -> str:
        """Run a command that meets so many hostile texts; ``codes`` are the exit codes that it may have."""
        self.cases += texts
        code, said = terminal(list(arguments), **more)  # pyright: ignore
        self.characters += len(said)
        what = " ".join(ascii(str(a))[1:-1] for a in arguments)[:150]
        if raw(said):
            self.failures.append(f"{what}: printed {raw(said)!r}: {ascii(said)[:600]}")
        if code not in codes or not said.strip():
            self.failures.append(f"{what}: exit {code}, expected {codes}: {ascii(said)[-600:]}")
        if "Traceback" in said and "T2I_DEBUG" not in more:
            self.failures.append(f"{what}: {ascii(said)[-600:]}")
        return said


def file_name(text: str) -> str:
    return text.replace("/", "_").replace("\0", "")


def picture(number: int) -> bytes:
    return images.encode(np.full((32, 32, 4), number % 256, np.uint8))


@pytest.fixture
def sidecars(tmp_path: Path) -> Path:
    """A data set whose names and captions are hostile; some pictures are broken, so that their names are told."""
    folder = tmp_path / file_name("data\x1b[2J\u202e[bold]")
    folder.mkdir()
    for number, text in enumerate(HOSTILE):
        stem = f"{number:03}{file_name(text)}"
        (folder / f"{stem}.png").write_bytes(picture(number))
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8", newline="")
    return folder


def spoil(folder: Path) -> None:
    for number, text in enumerate(HOSTILE):
        name = file_name(text)
        (folder / f"x{number:03}{name}.png").write_bytes(b"no picture")
        (folder / f"x{number:03}{name}.txt").write_text(text)
        (folder / f"y{number:03}{name}.png").write_bytes(picture(number))  # without a caption
    (folder / os.fsdecode(b"\x9b31m\xff.png")).write_bytes(b"no picture")


def test_15_nothing_untrusted_prints_a_control_byte(
    sidecars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    begun, said, many = time.monotonic(), Said(), len(HOSTILE)
    model = save_toy(tmp_path / "toy.safetensors")
    monkeypatch.setenv("T2I_MODEL", str(model))
    # a run, its log and what it leaves
    run = tmp_path / file_name("run\x1b[2J\u202e")
    small = [
        "--resolution",
        32,
        "--batch-size",
        2,
        "--set",
        "contrastive_batch_size=4",
        "--steps",
        3,
    ]
    said("train", sidecars, "-o", run, *small, "-v", codes=(0,), texts=2 * many)
    for path in (run / "log.jsonl", run / "data.json", run / "config.toml"):
        if bad := raw(path.read_text(encoding="utf-8")):
            said.failures.append(f"{path.name} holds {bad!r}")
    said("info", run, codes=(0,), texts=1)
    said("info", run, "--json", codes=(0,), texts=1)
    said("eval", sidecars, sidecars, "-n", 30, codes=(0, 1, 3), texts=2 * many)
    said("eval", run, sidecars, "-n", 12, "--metrics", "kid", codes=(0, 1, 3), texts=many)
    # data sets
    spoil(sidecars)
    for more in ([], ["--json"], ["-v"]):
        said("check", sidecars, *more, codes=(3,), texts=4 * many)
    said("train", sidecars, "-o", tmp_path / "none", codes=(3,), texts=1)
    rows = tmp_path / "rows"
    rows.mkdir()
    for number in range(many):
        (rows / f"{number}.png").write_bytes(picture(number))
    told = [{"file_name": f"{n}.png", "text": text, text: text} for n, text in enumerate(HOSTILE)]
    told += [{"file_name": f"{text}.png", "text": text} for text in HOSTILE]
    (rows / "metadata.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in told) + "\x1b[2J\n"
    )
    said("check", rows, codes=(3,), texts=4 * many)
    said("check", rows, "--caption-key", "x\x1b[2J\u202e", codes=(3,), texts=1)
    (rows / "metadata.jsonl").write_text("".join(json.dumps({t: t}) + "\n" for t in HOSTILE))
    said("check", rows, codes=(3,), texts=2 * many)
    (rows / "metadata.jsonl").unlink()
    (rows / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f'{n}.png,"{t}"\n' for n, t in enumerate(SEQUENCES))
    )
    said("check", rows, codes=(0, 3), texts=len(SEQUENCES))
    with tarfile.open(tmp_path / "a\x1b[2J.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, text in enumerate(HOSTILE):
            for ending, content in ((".png", b"no picture"), (".txt", text.encode())):
                info = tarfile.TarInfo(f"{number}{file_name(text)}{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            info = tarfile.TarInfo(f"link{file_name(text)}.png")
            info.type, info.linkname = tarfile.SYMTYPE, text
            tar.addfile(info)
    said("check", tmp_path / "a\x1b[2J.tar", codes=(3,), texts=3 * many)
    # prompts
    lines = "".join(text.replace("\n", " ") + "\n" for text in HOSTILE)
    objects = [{"prompt": text, "out": text + ".png"} for text in HOSTILE]
    objects += [{"prompt": text, "id": text} for text in HOSTILE]
    objects += [{"prompt": "x", text: 1} for text in HOSTILE] + [
        {"prompt": "x", "seed": text} for text in HOSTILE
    ]
    stream = "".join(json.dumps(row) + "\n" for row in objects) + "{\x1b[2J\n"
    out = tmp_path / "out"
    said(
        "sample",
        "-",
        "-o",
        f"{out}/{{i}}-{{slug}}.png",
        codes=(0, 4),
        texts=many,
        stdin=lines.encode(),
    )
    said("sample", "-", "-o", f"{out}/x/", "-v", codes=(4,), texts=5 * many, stdin=stream.encode())
    said(
        "sample",
        "-",
        "-o",
        f"{out}/y/{{i}}-{{id}}.png",
        "--json",
        codes=(4,),
        texts=5 * many,
        stdin=stream.encode(),
    )
    said(
        "sample",
        "-",
        "-o",
        f"{out}/{{i}}{sidecars.name}.png",
        codes=(0, 4),
        texts=many,
        stdin=lines.encode(),
    )
    said(
        "sample",
        *[t for t in HOSTILE if not t.startswith("-")],
        "--grid",
        "-o",
        out / "sheet.png",
        codes=(0,),
        texts=many,
    )
    said("sample", b"\xff\x9b", "-o", out / "z.png", codes=(3,), texts=1)
    lines = "".join(line for line in lines.splitlines(keepends=True) if not line.startswith("{"))
    for option in ("--ids", "--pieces", "--json"):
        said("tokenize", "-", option, codes=(0,), texts=many, stdin=lines.encode())
    said("tokenize", *HOSTILE, codes=(0,), texts=many)
    for path in out.rglob("*"):
        if bad := raw(path.relative_to(out).as_posix()) - raw(sidecars.name):
            said.failures.append(f"a file is called {path.name!r}: {bad}")
    # paths and values in errors
    evil = "\x1b[2J\u202e\x9b[bold]"
    gone = tmp_path / evil / "gone"
    for arguments, codes in (
        (("check", gone), (3,)), (("train", gone, "-o", gone), (3,)), (("info", gone), (1, 2, 3)),
        (("eval", gone, gone), (1, 2, 3)), (("export", gone), (1, 2, 3)), (("tokenize", "x", "-m", gone), (1, 2, 3)),
        (("sample", "x", "-m", gone), (1, 2, 3)), (("sample", "-i", gone), (3,)), (("sample", "--from", gone), (3,)),
        (("sample", "x", "--vary", gone), (3,)), (("sample", "x", "--device", evil), (2,)),
        (("sample", "x", "--seed", evil), (2,)),
        (("sample", "x", "--background", evil), (2,)), (("sample", "x", "--format", evil), (2,)),
        (("sample", "x", "-n", evil), (2,)),
        (("sample", "x", "--" + evil), (2,)), (("sample", "x", "--shard", evil), (2,)),
        (("sample", "x", "-o", "{" + evil + "}"), (2,)),
        ((evil,), (2,)), (("train", sidecars, "--time", evil), (2,)), (("train", sidecars, "--set", evil), (2,)),
        (("train", sidecars, "--set", f"{evil}=1"), (2, 3)), (("train", sidecars, "--size", evil), (2,)),
        (("train", sidecars, "--config", gone), (2,)), (("eval", model, sidecars, "--metrics", evil), (2,)),
        (("eval", model, sidecars, "--fail-if", evil), (2,)),
        (("eval", model, sidecars, "--features", evil), (1, 2, 3)),
        (("tokenize", "--train", gone), (1, 2, 3)), (("train", rows, "--text-encoder", gone), (1, 2, 3)),
        (("sample", "x", "-o", f"{model}/{evil}.png"), (1,)), (("train", rows, "-o", model / "x"), (1, 2, 3)),
    ):  # fmt: skip
        said(*arguments, codes=codes, texts=1)
        said(*arguments, codes=codes, texts=1, T2I_DEBUG="1")
    # weights and pictures that say hostile things of themselves
    networks = faults.tiny_networks(0)
    states = {name: net.state_dict() for name, net in networks.named_children()}
    named = tmp_path / "named.safetensors"
    save_model(
        named, states, faults.tiny_config(), faults.TOKENIZER, title=evil, license=evil, description="".join(HOSTILE),
        extra={"t2i.stage": evil, "t2i.data": evil, "t2i.train_config": json.dumps({"size": evil, evil: evil})},
    )  # fmt: skip
    for more in ([], ["--json"]):
        said("info", named, *more, codes=(0,), texts=many + 6)
    said(
        "sample",
        "x",
        "-m",
        named,
        "-o",
        f"{out}/{{model}}-named.png",
        "--json",
        codes=(0,),
        texts=6,
    )
    told = json.loads(named.read_bytes()[8 : 8 + struct.unpack("<Q", named.read_bytes()[:8])[0]])
    for change in ("name", "dtype", "metadata"):
        table = json.loads(json.dumps(told))
        if change == "name":
            table[evil + "w"] = table.pop(next(key for key in table if key.startswith("generator")))
        elif change == "dtype":
            table[next(key for key in table if key.startswith("generator"))]["dtype"] = evil
        else:
            table["__metadata__"]["t2i.config"] = json.dumps({"size": evil, evil: evil})
        header = json.dumps(table).encode()
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(
            struct.pack("<Q", len(header)) + header + named.read_bytes()[8 + len(header) :]
        )
        for command in (("info", broken), ("sample", "x", "-m", broken, "-o", out / "no.png")):
            said(*command, codes=(3,), texts=2)
    for number, text in enumerate(
        (
            "".join(HOSTILE),
            json.dumps({"prompt": evil, "seed": 1, "model": evil, "model_hash": evil}),
        )
    ):
        info = PngImagePlugin.PngInfo()
        for key in ("t2i", "parameters", "Comment"):
            info.add_itxt(key, text)
        path = tmp_path / f"p{number}\x1b[2J.png"
        Image.new("RGBA", (8, 8)).save(path, pnginfo=info)
        said("info", path, codes=(0, 3), texts=many)
        said("info", path, "--json", codes=(0, 3), texts=many)
        said("sample", "--from", path, "-o", out / "again.png", codes=(0, 3), texts=many)
    (run / "log.jsonl").write_text(
        json.dumps(
            {"step": 1, "stage": evil, evil: 2.0, "advice": [{"signal": evil, "text": evil}]}
        )
        + "\n"
    )
    (run / "config.toml").write_text('size = "\\u001b[2J\\u202e"\n')
    (run / "data.json").write_text(json.dumps({"layout": evil, "pairs": evil, "path": evil}))
    for more in ([], ["--json"]):
        said("info", run, *more, codes=(0, 3), texts=8)
    print(f"\n{said.characters:,} characters read back from the terminal")
    count("15: hostile texts read back through a pseudo-terminal", said.cases, said.failures, begun)


# -- names ----------------------------------------------------------------------------------------

NASTY = [
    "../", "..\\", "/", "//", "\0", "\ud800", "\udcff", "-rf", "-", "~", "CON", "con.png", "nul",
    "COM1.txt", ".", "..", "...",
    " ", "a" * 300, "é" * 200, "猫" * 120, "\u202egnp.exe", "\x1b[2J", "C:", "a:b", "link", "link/",
    "file", "|", "*", "?", "{", "}",
    "%2e%2e/", "\n", "\t", ".png", "out", "\uff0e\uff0e/", "\u2024\u2024/", "\u2215", "\uff0f", "a/b",
    "x\u0301", "\U0001f408\u200d",
]  # fmt: skip
TEMPLATES = [
    "{slug}.png", "{i:05}-{slug}-{seed}.png", "{id}.png", "{slug}/{k}.png", "{model}-{id}-{slug}.webp",
    "{slug}{slug}{slug}.png",
]  # fmt: skip


def nasty(chance: random.Random) -> str:
    parts = chance.choices(
        [*NASTY, "cat", "red", *map(chr, (0x61, 0x20AC, 0x1F600))], k=chance.choice([1, 1, 2, 3, 6])
    )
    return "".join(parts)


def test_16_hostile_names_stay_inside_and_overwrite_nothing(memory: Path):
    begun, failures, chance = time.monotonic(), [], random.Random(SEED)
    outside, base = memory / "outside", memory / "base"
    for folder in (outside, base):
        folder.mkdir()
    (outside / "precious").write_bytes(b"precious")
    (base / "link").symlink_to(outside)
    (base / "file").symlink_to(outside / "precious")
    (base / "dangling.png").symlink_to(outside / "made.png")
    kept: dict[Path, bytes] = {}
    written = refused = there = 0
    for case in range(20_000):
        text, other = nasty(chance), nasty(chance)
        data = b"%d" % case
        try:
            if case % 2:
                fields = Fields(
                    case, chance.randrange(3), chance.randrange(9), text, other, nasty(chance)
                )
                path = expanded(Template(f"{base}/{chance.choice(TEMPLATES)}"), fields)
            else:
                path = inside(str(base), text + chance.choice(["", ".png"]))
            done = write_new(path, data)
        except T2IError as error:
            refused += 1
            if visible(error, 10**6) != str(error):
                failures.append(f"case {case}: {error!r}")
            continue
        except BaseException as error:
            failures.append(f"case {case}: {text!r} {other!r}: {error!r}")
            continue
        if done:
            written += 1
            real = Path(os.path.realpath(path))
            if (
                not real.is_relative_to(base)
                or real in kept
                or max(map(len, map(os.fsencode, real.parts))) > 255
            ):
                failures.append(f"case {case}: {text!r} became {path!r}")
            kept[real] = data
        else:
            there += 1
    left = {
        path: path.read_bytes()
        for path in base.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    if left != kept:
        failures.append(f"{len(set(left) ^ set(kept))} files too many or lost, or changed")
    if [(p.name, p.read_bytes()) for p in outside.iterdir()] != [("precious", b"precious")]:
        failures.append(f"outside holds {[p.name for p in outside.iterdir()]}")
    print(f"\n{written:,} written, {there:,} were there already, {refused:,} refused")
    count("16: hostile names", 20_000, failures, begun)


WRITER = """
import sys
import numpy as np
from t2i_cli import png
from t2i_cli.naming import write_new
folder, who, same = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "same"
won = 0
for i in range(1000):
    pixels = np.random.RandomState(i * 8 + who).randint(0, 255, (16, 16, 4)).astype(np.uint8)
    won += write_new(f"{folder}/{i}.png" if same else f"{folder}/{who}-{i}.png", png.encode(pixels, {}, ""))
print(won)
"""


@pytest.mark.parametrize("names", ["different", "same"])
def test_16_eight_writers_of_a_thousand_pictures(names: str, memory: Path):
    begun, failures = time.monotonic(), []
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, memory, str(who), names],
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        )
        for who in range(8)
    ]  # fmt: skip
    won = [int(writer.communicate()[0]) for writer in writers]
    expected = 8000 if names == "different" else 1000
    files = sorted(memory.iterdir())
    if sum(won) != expected or len(files) != expected:
        failures.append(f"{won} were written, {len(files)} are there")
    for path in files:
        pixels = images.decode(path.read_bytes(), name=path.name)
        number = int(path.stem.rpartition("-")[2])
        who = [int(path.stem.partition("-")[0])] if names == "different" else range(8)
        made = (np.random.RandomState(number * 8 + k).randint(0, 255, (16, 16, 4)) for k in who)
        if not any(np.array_equal(pixels, one) for one in made):
            failures.append(f"{path.name} is nobody's whole picture")
    what = "each its own names" if names == "different" else "all the same names"
    count(f"16: 8 writers of 1,000 pictures, {what}", 8000, failures, begun)


def test_16_eight_samplers_of_a_thousand_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Eight `t2i sample` in one folder: the first half of their names are their own, the rest are everybody's."""
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    begun, failures = time.monotonic(), []
    model, out = save_toy(tmp_path / "toy.safetensors"), tmp_path / "out"
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent), "T2I_MODEL": str(model)}
    subprocess.run(
        [sys.executable, "-m", "t2i_cli", "sample", "x", "-o", tmp_path / "x.png"],
        env=env,
        check=True,
    )
    processes = []
    for who in range(8):
        rows = [
            {"prompt": f"ball {i}", "out": f"{who}-{i}.png" if i < 500 else f"{i}.png"}
            for i in range(1000)
        ]
        (tmp_path / f"{who}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [
            sys.executable,
            "-m",
            "t2i_cli",
            "sample",
            "-i",
            tmp_path / f"{who}.jsonl",
            "-o",
            f"{out}/",
        ]
        command += ["--skip-existing", "-q", "--device", "cpu"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True))
    told = [process.communicate()[0].splitlines() for process in processes]
    codes = [process.returncode for process in processes]
    files = sorted(out.iterdir())
    if codes != [0] * 8 or len(files) != 4500 or sum(map(len, told)) != 4500:
        failures.append(
            f"exits {codes}, {len(files)} files, {[len(lines) for lines in told]} reported"
        )
    if len({line for lines in told for line in lines}) != sum(map(len, told)):
        failures.append("two processes say that they made the same picture")
    seen: dict[str, bytes] = {}
    for path in files:
        data = path.read_bytes()
        images.decode(data, name=path.name)
        if seen.setdefault(path.stem.rpartition("-")[2], data) != data:
            failures.append(
                f"{path.name} is another picture than other processes made of its prompt"
            )
    count("16: 8 `t2i sample` of 1,000 prompts in one folder", 8000, failures, begun)
