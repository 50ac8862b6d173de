"""Faults under the real torchrun: a process killed, the launcher killed, signals. A script, for the slow tests.

    python tests/torchrun_faults.py kills FOLDER N SEED     N SIGKILLs at random moments; runs go on to their end
    python tests/torchrun_faults.py signals FOLDER N SEED   N times SIGTERM or SIGINT, to one of them or to all
    torchrun ... tests/torchrun_faults.py train ...         the command line itself, on networks of a tenth the size

The first two print one JSON object: cases, failures (a list of sentences) and what else they counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT = 60.0  # s in which all processes must end
STEPS = 60


class Launch:
    """One torchrun with two processes, in a process group of its own."""

    def __init__(self, run: Path, data: Path) -> None:
        self.codes = run.with_name(f"{run.name}-codes-{time.monotonic_ns()}")
        self.codes.mkdir()
        self.said = run.with_name(f"{run.name}.txt")
        options = (
            f"train {data} -o {run} --resume --resolution 32 --steps {STEPS} --batch-size 4 --save-every 1s "
            "--set vocab_size=300 --set precision=fp32 --device cpu"
        )
        self.begun = time.monotonic()
        self.met: set[int] = set()  # process ids
        with self.said.open("w") as said:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                 __file__, *options.split()],
                stdout=said, stderr=said, start_new_session=True,
                env={**os.environ, "T2I_TEST_CODES": str(self.codes), "OMP_NUM_THREADS": "1",
                     "PYTHONPATH": str(Path(__file__).parent.parent), "T2I_CACHE": str(data.with_name("cache"))},
            )  # fmt: skip

    def ranks(self) -> dict[int, int]:
        """Rank -> process id of those that live."""
        found: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _alive(int(entry.name)):
                with contextlib.suppress(OSError, StopIteration):
                    told = (entry / "environ").read_bytes().split(b"\0")
                    if f"T2I_TEST_CODES={self.codes}".encode() in told:
                        rank = next(one for one in told if one.startswith(b"RANK="))
                        found[int(rank[5:])] = int(entry.name)
        self.met |= set(found.values())
        return found

    def ended_after(self) -> float:
        """Seconds until the launcher and both processes are gone; infinite beyond twice the limit."""
        begun = time.monotonic()
        while time.monotonic() - begun < 2 * LIMIT:
            gone = self.launcher.poll() is not None and not self.ranks()
            if gone and not any(_alive(pid) for pid in self.met):
                return time.monotonic() - begun
            time.sleep(0.05)
        for pid in [*self.ranks().values(), self.launcher.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()
        return float("inf")

    def exit_codes(self) -> dict[int, int]:
        """Rank -> exit code of those that ended by themselves."""
        return {int(path.name): int(path.read_text()) for path in self.codes.iterdir()}

    def text(self) -> str:
        """What all have said."""
        return self.said.read_text()


def _alive(pid: int) -> bool:
    """Whether any of a process's threads still runs: its files stay open until the last one has ended."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if (task / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                    return True
    return False


def _whole(run: Path) -> str | None:
    """What is wrong with a run folder after a fault."""
    from t2i_cli import checkpoint
    from t2i_cli.errors import T2IError

    try:
        if run.exists():
            with checkpoint.RunLock(run):
                pass
            checkpoint.load_state(run)
            if (run / "model.safetensors").exists():
                checkpoint.load_model(run / "model.safetensors")
    except T2IError as error:
        return repr(error)
    return None


def _bytes(run: Path) -> dict[str, bytes]:
    from t2i_cli import checkpoint

    state = checkpoint.load_state(run)
    assert state is not None, run
    return {f"{g}.{n}": t.numpy().tobytes() for g, ts in state.files.items() for n, t in ts.items()}


def _quiet(folder: Path, data: Path) -> tuple[dict[str, bytes], float]:
    """The weights and optimizers of an undisturbed run of two processes, and how long it lasts."""
    launch = Launch(folder / "quiet", data)
    assert launch.launcher.wait() == 0, launch.text()[-3000:]
    return _bytes(folder / "quiet"), time.monotonic() - launch.begun


def _undisturbed(launch: Launch, run: Path, expected: Any, number: int) -> list[str]:
    """What is wrong with the end of a run that was disturbed on its way."""
    code = launch.launcher.returncode
    if code != 0:
        return [f"run {number}: ended with {code}: {launch.text()[-2000:]}"]
    if _bytes(run) != expected:
        return [f"run {number}: other weights than the undisturbed run's"]
    return []


def kills(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """SIGKILL to the first, the second, or the launcher at random moments: all end in time, runs reach the same end."""
    from tests.toy_runs import toy_folder

    chance, failures, slowest, victims, runs, done = random.Random(seed), [], 0.0, {}, 0, 0
    toy_folder(folder / "data")
    expected, lasts = _quiet(folder, folder / "data")
    run = folder / "run"
    while done < count:
        runs += 1
        shutil.rmtree(run, ignore_errors=True)
        while True:
            launch = Launch(run, folder / "data")
            after = chance.uniform(0, lasts) if done < count else 2 * LIMIT
            who: Any = chance.choice([0, 1, 0, 1, "launcher"])
            with contextlib.suppress(subprocess.TimeoutExpired):
                launch.launcher.wait(after)
            while done < count and launch.launcher.poll() is None and len(launch.ranks()) < 2:
                time.sleep(0.05)
            pid = launch.launcher.pid if who == "launcher" else launch.ranks().get(who)
            if launch.launcher.poll() is not None or pid is None or done >= count:
                launch.launcher.wait()
                break
            os.kill(pid, signal.SIGKILL)
            took = launch.ended_after()
            done += 1
            victims[str(who)] = victims.get(str(who), 0) + 1
            slowest = max(slowest, took)
            case = f"kill {done} of {who} after {after:.1f} s"
            print(f"{case}: all ended in {took:.1f} s", file=sys.stderr)
            if took > LIMIT:
                failures.append(f"{case}: ended in {took:.0f} s: {launch.text()[-2000:]}")
            if launch.launcher.returncode == 0:
                failures.append(f"{case}: the launcher ended with 0")
            if wrong := _whole(run):
                failures.append(f"{case}: {wrong}")
        failures += _undisturbed(launch, run, expected, runs)
    return {
        "cases": done,
        "failures": failures,
        "runs": runs,
        "victims": victims,
        "slowest": slowest,
        "lasts": lasts,
    }


def signals(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """SIGTERM and SIGINT: one save, 143 or 130 from both, and the run goes on to the same end."""
    from t2i_cli import checkpoint
    from tests.toy_runs import toy_folder

    chance, failures, slowest, ways, runs, done = random.Random(seed), [], 0.0, {}, 0, 0
    toy_folder(folder / "data")
    expected, lasts = _quiet(folder, folder / "data")
    run = folder / "run"
    while done < count:
        runs += 1
        shutil.rmtree(run, ignore_errors=True)
        while True:
            launch = Launch(run, folder / "data")
            while launch.launcher.poll() is None and "processes" not in launch.text():
                time.sleep(0.05)  # the first step is near
            with contextlib.suppress(subprocess.TimeoutExpired):
                launch.launcher.wait(chance.uniform(0, lasts / 3) if done < count else None)
            if launch.launcher.poll() is not None or len(launch.ranks()) < 2:
                launch.launcher.wait()
                break
            number = chance.choice([signal.SIGTERM, signal.SIGINT])
            who = chance.choice(["first", "second", "launcher", "all, as Ctrl-C does"])
            before = checkpoint.saved_step(run) or 0
            if who.startswith("all"):
                os.killpg(
                    launch.launcher.pid, number
                )  # the launcher then passes it on: a second one
            else:
                pids = {"first": launch.ranks().get(0), "second": launch.ranks().get(1)}
                os.kill(pids.get(who) or launch.launcher.pid, number)
            took = launch.ended_after()
            codes = launch.exit_codes()
            if codes == {0: 0, 1: 0} and launch.launcher.returncode == 0:
                break  # it came after the last step
            done += 1
            ways[f"{number.name} to {who}"] = ways.get(f"{number.name} to {who}", 0) + 1
            slowest = max(slowest, took)
            case = f"signal {done}: {number.name} to {who}"
            print(f"{case}: ended in {took:.1f} s, codes {codes}", file=sys.stderr)
            if codes != {0: 128 + number, 1: 128 + number} or took > LIMIT:
                failures.append(f"{case}: {codes} in {took:.0f} s: {launch.text()[-2000:]}")
            saved = checkpoint.saved_step(run) or 0
            if f"stopped at step {saved:,}; saved" not in launch.text() or saved < before:
                failures.append(f"{case}: saved step {saved}: {launch.text()[-2000:]}")
        failures += _undisturbed(launch, run, expected, runs)
    return {"cases": done, "failures": failures, "runs": runs, "ways": ways, "slowest": slowest}


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "train":
        from t2i_cli.cli import run
        from tests.ranks import small

        small()
        ended = run(sys.argv[1:])
        (Path(os.environ["T2I_TEST_CODES"]) / os.environ["RANK"]).write_text(str(ended))
        os._exit(ended)
    place = Path(rest[0])
    place.mkdir(parents=True, exist_ok=True)
    play = {"kills": kills, "signals": signals}[kind]
    print(json.dumps(play(place, int(rest[1]), int(rest[2]))))
