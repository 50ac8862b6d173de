"""Prompts through a pipe: rate, memory, and how long the first picture takes, against one-shot and the warm batch rate.

    OMP_NUM_THREADS=1 python -m benchmarks.stream [--count 10000] [--model FILE]

Every prompt is different, so every one is tokenized and encoded. Times of the stream are the process's own
CPU time, read from the system while it runs; the first picture's are wall time, of the stream and of a
single command, taken in turns.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def status(pid):
    """CPU seconds and resident megabytes of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    memory = (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    )
    return (int(fields[11]) + int(fields[12])) / ticks, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()

    from benchmarks.startup import cost, random_model
    from t2i_cli.sample import Wish, load

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = given.model or random_model(folder, "tiny")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "T2I_MODEL": str(path),
                       "PYTHONPYCACHEPREFIX": str(folder / "pyc")}  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-m", "t2i_cli", "sample"]
        single = [*command, "a red cat", "-o", str(folder / "one.png"), "-f"]
        cost(single, environment)
        model = load(path, "cpu")
        number = iter(range(10**9))
        warm, one, first = [], [], []
        for turn in range(5):
            one.append(cost(single, environment)[1])
            start = time.process_time()
            for _ in range(8):
                model.pictures([Wish(f"warm cat number {next(number)}", 0) for _ in range(16)])
            warm.append((time.process_time() - start) / 128)
            start = time.perf_counter()
            process = subprocess.Popen([*command, "-", "-o", str(folder / f"first{turn}" / "{i}.png")], env=environment,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
            process.stdin.write("".join(f"a cat {k}\n" for k in range(64)))
            process.stdin.flush()
            process.stdout.readline()
            first.append(time.perf_counter() - start)
            process.stdin.close()
            process.stdout.read()
            process.wait()
        out = folder / "out"
        process = subprocess.Popen([*command, "-", "-o", str(out / "{i:05}-{seed}.png")], env=environment,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip

        def feed():
            for k in range(given.count):
                process.stdin.write(f"a red cat number {k}\n")
            process.stdin.close()

        threading.Thread(target=feed, daemon=True).start()
        marks, done = [], 0
        every = max(1, given.count // 10)
        for _ in process.stdout:
            done += 1
            if done % every == 0 and done < given.count:
                marks.append((done, *status(process.pid)))
        process.wait()
        whole = len(list(out.iterdir()))
    print(f"{done} reported, {whole} files, exit {process.returncode}")
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(marks)]
    for (count, cpu, memory), rate in zip(marks[1:], rates, strict=True):
        print(f"  {count:6} pictures  {cpu:7.1f} s CPU  {rate:6.1f} a CPU second  {memory:6.0f} MB")
    if rates:
        ratio = statistics.median(rates) * statistics.median(warm)
        warm_rate = 1 / statistics.median(warm)
        print(f"stream {statistics.median(rates):.1f} pictures a CPU second, warm batches {warm_rate:.1f}: "
              f"ratio {ratio:.2f}; last tenth against first {rates[-1] / rates[0]:.2f}")  # fmt: skip
    print(f"first picture after {statistics.median(first):.2f} s, one-shot {statistics.median(one):.2f} s: "
          f"ratio {statistics.median(first) / statistics.median(one):.2f}")  # fmt: skip
    print(json.dumps({"marks": marks, "warm_s": warm, "first_s": first, "one_shot_s": one}))


if __name__ == "__main__":
    main()
