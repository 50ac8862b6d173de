"""The full counts of the promises about data sets of strangers: pictures and tar shards. One seed: T2I_SEED.

PILLOW_IMAGES names the folder Tests/images of Pillow's source package; without it that one test is skipped:

    pip download --no-binary :all: --no-deps pillow && tar xzf pillow-*.tar.gz
    export PILLOW_IMAGES=$(echo $PWD/pillow-*/Tests/images)
"""

import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import images
from t2i_cli.check import check
from t2i_cli.data import load, scan
from t2i_cli.errors import DataError, T2IError
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import sound_pictures
from tests.slow.summary import SEED, TESTS, count

pytestmark = pytest.mark.slow


def peak_of(*arguments: object, **env: str) -> tuple[int, str, str, float]:
    """Exit code, stdout, stderr and the greatest memory (MB) of a command in a process of its own."""
    code = (  # not ru_maxrss: a child begins with its parent's
        "import re, sys\nfrom t2i_cli.cli import run\ncode = run(sys.argv[1:])\n"
        "peak = re.search('VmHWM:.*?([0-9]+) kB', open('/proc/self/status').read())[1]\n"
        "print('peak', peak, file=sys.stderr)\nraise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(TESTS.parent), **env},
    )  # fmt: skip
    said, _, peak = done.stderr.rpartition("peak ")
    assert peak, done.stderr
    return done.returncode, done.stdout, said, int(peak) / 1024


def test_13_pillows_own_hostile_pictures(memory: Path):
    place = os.environ.get("PILLOW_IMAGES")
    if not place:
        pytest.skip(
            "PILLOW_IMAGES does not name Tests/images of Pillow's source package; see the head of this file"
        )
    begun, failures, read, slowest = time.monotonic(), [], 0, 0.0
    files = sorted(path for path in Path(place).rglob("*") if path.is_file())
    assert len(files) > 500, f"{place} holds {len(files)} files"
    for number, path in enumerate(files):
        data, started = path.read_bytes(), time.monotonic()
        try:
            found = images.read_picture(data, name=path.name, resolution=64)
            read += found.pixels.shape == (64, 64, 4)
        except DataError as error:
            if path.name not in str(error) or not str(error).isprintable():
                failures.append(f"{path.name}: {error!r}")
        except BaseException as error:
            failures.append(f"{path.name}: {error!r}")
        slowest = max(slowest, time.monotonic() - started)
        # all of them as one data set, each under the name of a picture
        (memory / f"{number:04}.png").write_bytes(data)
        (memory / f"{number:04}.txt").write_text("a picture")
    code, _, said, peak = peak_of("check", memory, "--json")
    if code != 3 or "Traceback" in said:
        failures.append(f"check: exit {code}: {said[-300:]}")
    report = scan(memory)
    refused = sum(problem.count for problem in report.problems if problem.kind == "unreadable")
    if refused != len(files) - read or report.pairs != read:
        failures.append(
            f"check refuses {refused} and reads {report.pairs}, alone {read} of {len(files)} are read"
        )
    if peak > 700:
        failures.append(f"check took {peak:.0f} MB")
    print(
        f"\n{len(files)} files: {read} read, {refused} refused; slowest {slowest:.1f} s; t2i check {peak:.0f} MB"
    )
    count("13: the pictures of Pillow's source package", len(files), failures, begun)


def test_13_changed_pictures_cost_one_sample_and_one_line(memory: Path):
    """20,000 pictures in PNG, WebP, JPEG, GIF, BMP with something changed, in data sets of 1,000."""
    begun, failures, read, lines = time.monotonic(), [], 0, 0
    chance, kinds = random.Random(SEED), list(sound_pictures().items())
    for group in range(20):
        folder = memory / str(group)
        folder.mkdir()
        for number in range(1000):
            name, data = kinds[number % len(kinds)]
            (folder / f"{number:03}.{name.rpartition('.')[2]}").write_bytes(mutated(data, chance))
            (folder / f"{number:03}.txt").write_text("a picture")
        try:
            report = scan(folder)
        except BaseException as error:
            failures.append(f"group {group}: {error!r}")
            continue
        bad = [
            item
            for problem in report.problems
            if problem.kind == "unreadable"
            for item in problem.items
        ]
        if report.pairs + len(bad) != 1000 or len({item.split(":")[0] for item in bad}) != len(bad):
            failures.append(f"group {group}: {report.pairs} read and {len(bad)} refused of 1,000")
        failures += [
            f"group {group}: {item!r}" for item in bad if "\n" in item or "Traceback" in item
        ]
        read, lines = read + report.pairs, lines + len(bad)
    print(f"\nof 20,000 changed pictures {read:,} are read, {lines:,} refused in one line each")
    count("13: changed PNG, WebP, JPEG, GIF, BMP", 20_000, failures, begun)


def bombs() -> dict[str, bytes]:
    """Small files that say they are enormous, or are."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    def png(width: int, height: int, depth: int, colour: int, row: int) -> bytes:
        squeezed = zlib.compressobj(9)
        body = b"".join(squeezed.compress(bytes(row)) for _ in range(height)) + squeezed.flush()
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))
    small = png(3, 3, 8, 2, 10)
    at = small.index(b"IDAT") - 4
    return {
        "81-megapixels-1-bit.png": png(9000, 9000, 1, 0, 1126),
        "81-megapixels.png": png(9000, 9000, 8, 0, 9001),
        "49-megapixels.png": png(7000, 7000, 8, 2, 21_001),
        "text-of-200-MB.png": small[:at] + text + small[at:],
        "65535.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b"\x2c" + bytes(9) + b"\x02\x02\x4c\x01\0;",
        "65535.bmp": b"BM" + struct.pack("<IHHIIii", 99, 0, 0, 54, 40, 65535, 65535)
        + struct.pack("<HHIIiiII", 1, 24, 0, 0, 1, 1, 0, 0),
        "16383.webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10)
        + bytes(4) + b"\xff\x3f\0" * 2,
        "65535.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xd9",
    }  # fmt: skip


def test_13_bombs_stay_small(memory: Path):
    begun, failures, peaks = time.monotonic(), [], {}
    sound = images.encode(np.zeros((64, 64, 4), np.uint8))
    for name, data in bombs().items():
        folder = memory / name
        folder.mkdir()
        (folder / name).write_bytes(data)
        for number in range(3):
            (folder / f"{number}.png").write_bytes(sound + bytes([number]))
        for path in list(folder.iterdir()):
            path.with_suffix(".txt").write_text("a picture")
        started = time.monotonic()
        code, out, said, peak = peak_of("check", folder)
        peaks[f"{name} ({len(data):,} bytes)"] = round(peak)
        if (
            code not in (0, 3)
            or "Traceback" in out + said
            or peak > 700
            or time.monotonic() - started > 60
        ):
            failures.append(
                f"{name}: exit {code}, {peak:.0f} MB, {time.monotonic() - started:.0f} s: {said}"
            )
    print(f"\nMB of t2i check: {peaks}")
    count("13: small files that decode to a flood", len(peaks), failures, begun)


# -- tar ------------------------------------------------------------------------------------------


def shard(samples: int, kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for number in range(samples):
            pixels = np.full((20, 20, 4), number * 5, np.uint8)
            for name, content in (
                (f"{number:03}.png", images.encode(pixels)),
                (f"{number:03}.txt", b"a cat"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


LOST = {
    "cut-shard",
    "no-end-marker",
    "empty",
}  # kinds of problem that tell that something is missing


def cut_to(path: Path, data: bytes, length: int, samples: int) -> list[str]:
    """What is wrong with how a cut shard is told: whatever is lost must be named."""
    path.write_bytes(data[:length])
    try:
        report = scan(path)
    except T2IError as error:
        return [] if error.exit_code == 3 else [f"cut to {length}: {error!r}"]
    except BaseException as error:
        return [f"cut to {length}: {error!r}"]
    told = {problem.kind for problem in report.problems}
    if report.pairs < samples and not told & LOST:
        return [f"cut to {length}: {samples - report.pairs} samples lost without a word: {told}"]
    marker = data.rindex(b"a cat") // 512 * 512 + 512  # where the end marker begins
    if length < marker + 512 and not told & LOST:
        return [f"cut to {length}: a missing end marker is not told: {told}"]
    return []


def test_14_cut_shards(memory: Path):
    begun, failures, cases, chance = time.monotonic(), [], 0, random.Random(SEED + 1)
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = shard(12, kind)
        lengths = [*range(0, len(data), 512), *(chance.randrange(len(data)) for _ in range(500))]
        for length in lengths:
            cases += 1
            failures += cut_to(memory / "a.tar", data, length, 12)
    count("14: shards cut at every 512 bytes and at random", cases, failures, begun)


def hostile_shard(chance: random.Random) -> tuple[bytes, int, int]:
    """A shard with members that must not be read: the bytes, its sound pairs, how many are to be skipped."""
    out, pairs, skipped = io.BytesIO(), 0, 0
    formats = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
    with tarfile.open(fileobj=out, mode="w", format=chance.choice(formats)) as tar:
        for number in range(chance.randint(4, 12)):
            deed = chance.randrange(8)
            info = tarfile.TarInfo(f"{number:03}.png")
            if deed == 0:
                info.type = chance.choice([tarfile.SYMTYPE, tarfile.LNKTYPE])
                info.linkname = chance.choice(["/etc/passwd", "../../x", "000.png"])
            elif deed == 1:
                info.type = chance.choice([tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
                info.devmajor = info.devminor = 1
            elif deed == 2:
                info.name = chance.choice(["../", "/tmp/", "a/../../"]) + info.name
            elif deed == 3:
                info.pax_headers = {"comment": "x" * chance.randint(1, 60_000), "uid": "-1"}
            elif deed == 4:
                info.pax_headers = {"path": "../../evil-\x1b[31m" + info.name}
            if deed <= 1:
                tar.addfile(info)
                skipped += 1
                continue
            content = images.encode(np.full((20, 20, 4), number, np.uint8))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            name = (
                info.pax_headers.get("path", info.name)
                if tar.format == tarfile.PAX_FORMAT
                else info.name
            )
            text = tarfile.TarInfo(name.removesuffix(".png") + ".txt")
            text.size = 5
            tar.addfile(text, io.BytesIO(b"a cat"))
            pairs += 1
    data = out.getvalue()
    if chance.random() < 0.3:  # a member that says it is larger than anything that is read
        big = tarfile.TarInfo("big.png")
        big.size = chance.choice([images.MAX_FILE_BYTES + 1, 8 << 30])
        data = big.tobuf(tarfile.GNU_FORMAT) + data  # the rest of the file is then inside of it
        return data, -1, 1
    return data, pairs, skipped


def test_14_links_devices_and_absurd_headers(memory: Path):
    begun, failures, cases, chance = time.monotonic(), [], 1000, random.Random(SEED + 2)
    counted = 0
    for case in range(cases):
        folder = memory / "shards"
        folder.mkdir(exist_ok=True)
        data, pairs, skipped = hostile_shard(chance)
        (folder / "a.tar").write_bytes(data)
        report = scan(folder)
        found = {problem.kind: problem.count for problem in report.problems}
        counted += found.get("skipped-member", 0)
        if pairs >= 0 and (report.pairs, found.get("skipped-member", 0)) != (pairs, skipped):
            failures.append(
                f"case {case}: {report.pairs} pairs of {pairs}, {found}, {skipped} to be skipped"
            )
        if pairs < 0 and not found.get("skipped-member"):
            failures.append(f"case {case}: an oversize member is not counted: {found}")
        left = [path.relative_to(memory).as_posix() for path in memory.rglob("*") if path.is_file()]
        if left != ["shards/a.tar"]:
            failures.append(f"case {case}: extracted {left}")
    print(f"\n{counted:,} members were passed over and counted")
    count(
        "14: links, devices, oversize members, pax headers, names that lead out",
        cases,
        failures,
        begun,
    )


def test_14_cut_compressed_shards(memory: Path):
    import gzip

    begun, failures, cases = time.monotonic(), [], 0
    data = gzip.compress(shard(12), mtime=0)
    for length in range(0, len(data), max(1, len(data) // 400)):
        cases += 1
        path = memory / "a.tar.gz"
        path.write_bytes(data[:length])
        try:
            report = scan(path)
        except T2IError:
            continue
        except BaseException as error:
            failures.append(f"cut to {length}: {error!r}")
            continue
        told = {problem.kind for problem in report.problems}
        if report.pairs < 12 and not told & LOST:
            failures.append(
                f"cut to {length}: {12 - report.pairs} samples lost without a word: {told}"
            )
    count("14: compressed shards cut at 400 places", cases, failures, begun)


def test_13_training_goes_on_without_the_bad_ones(memory: Path):
    """Any share up to a half: training reads the others, and says what it left out; beyond it, it refuses."""
    begun, failures = time.monotonic(), []
    for number in range(60):
        pixels = np.full((32, 32, 4), number, np.uint8)
        (memory / f"{number}.png").write_bytes(images.encode(pixels))
        (memory / f"{number}.txt").write_text(f"number {number}")
    for bad in range(60):
        if bad:
            (memory / f"{bad}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        try:
            got = len(load(memory, 32, cache=memory.parent / f"{memory.name}-cache"))
            if got != 60 - bad or bad > 30:
                failures.append(f"{bad} bad: {got} are read")
        except DataError as error:
            if bad <= 30:
                failures.append(f"{bad} bad: {error}")
        report = check(memory)
        if report.exit_code != (3 if bad > 30 else 0):
            failures.append(f"{bad} bad: check says {report.exit_code}")
        if sum(problem.count for problem in report.data.errors) != bad:
            failures.append(f"{bad} bad: {report.lines}")
    count("24: training beside bad pictures", 60, failures, begun)
