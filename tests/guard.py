"""Run t2i so that no socket can be opened, and say which files were made or changed.

``python tests/guard.py REPORT ARGUMENTS...`` is ``t2i ARGUMENTS...`` with two guards: the kernel kills the process (and
any that it starts) at its first ``socket`` call, and each file that Python opens for writing, makes, moves or removes
becomes a line of REPORT. `run_guarded` adds strace where it is installed: it sees what C code does too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KILLED = -signal.SIGSYS if hasattr(signal, "SIGSYS") else None
_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # AUDIT_ARCH, socket
CAN_GUARD = sys.platform == "linux" and platform.machine() in _CALLS
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_TRACED = "socket,connect,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"


def forbid_sockets() -> None:
    """Let the kernel kill this process, and each that it starts, when it calls ``socket``. There is no way back."""
    architecture, socket_call = _CALLS[platform.machine()]
    lines = (
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_EQUAL, 0, 3, architecture),
        (_LOAD, 0, 0, 0),  # the call's number
        (_JUMP_EQUAL, 0, 1, socket_call),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

    program = Program(len(lines), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, filter_mode = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(seccomp, filter_mode, ctypes.byref(program), 0, 0) == 0


def watch_files(report: str) -> None:
    """Write a line for each file that Python opens for writing, makes, moves or removes."""
    told = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    places = {
        "os.mkdir": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,), "os.remove": (0,),
        "os.rmdir": (0,), "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,),
    }  # fmt: skip

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        found: list[object] = []
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                found = [path]
        elif event in places:
            found = [arguments[at] for at in places[event]]
        for path in found:
            if isinstance(path, str | bytes | os.PathLike):
                line = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a link is not followed
                os.write(told, os.fsencode(line.replace("\n", "?") + "\n"))

    sys.addaudithook(hook)


@dataclass
class Guarded:
    """What a guarded command did."""

    done: subprocess.CompletedProcess[str]
    sockets: int  # opened, or asked for
    outside: list[
        str
    ]  # paths that were made or changed and are in none of the folders it was given
    left: list[str]  # files in its home and temporary folders when it had ended


def run_guarded(
    world: Path, arguments: Sequence[object], env: Mapping[str, str] | None = None, **more: object
) -> Guarded:
    """Run a command in ``world/here`` with a fresh HOME and TMPDIR, and the cache in ``world/cache``."""
    home, temporary, here = (world / name for name in ("home", "tmp", "here"))
    for folder in (home, temporary):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    here.mkdir(exist_ok=True)
    report, trace = world / "report.txt", world / "trace.txt"
    report.write_text("")
    trace.write_text("")
    command = [sys.executable, "-B", str(Path(__file__)), str(report), *map(str, arguments)]
    if strace := shutil.which("strace"):
        command = [strace, "-f", "-qq", "-y", "-e", f"trace={_TRACED}", "-o", str(trace), *command]
    # torch's compiler, once a test of this process has loaded it, names its folder in the environment
    foreign = ("XDG_", "TORCHINDUCTOR_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    kept |= {"HOME": str(home), "TMPDIR": str(temporary), "T2I_CACHE": str(world / "cache")}
    kept["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=here, env={**kept, **(env or {})}, timeout=600, **more,
    )  # fmt: skip
    traced = trace.read_text(errors="replace")
    changed = {*report.read_text(errors="replace").splitlines(), *_changed(traced)}
    given = (str(here), str(world / "cache"), str(temporary), "/dev/", "/proc/self/", str(report))
    outside = sorted(path for path in changed if not path.startswith(given))
    left = [str(path) for folder in (home, temporary) for path in folder.rglob("*")]
    sockets = len(re.findall(r"\b(?:socket|connect)\(", traced))
    return Guarded(done, max(sockets, int(done.returncode == KILLED)), outside, left)


def _changed(traced: str) -> set[str]:
    """The paths that a trace says were made or changed."""
    found: set[str] = set()
    for line in traced.splitlines():
        if re.search(r"= -1 ", line):
            continue
        call = re.search(r"\b(\w+)\((.*)", line)
        if call is None:
            continue
        if call[1] in ("open", "openat", "creat"):
            opened = re.search(r"= \d+<([^>]*)>", line)
            if opened and re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(", line):
                found.add(opened[1])
        elif call[1] not in ("socket", "connect"):
            base = re.search(r"(?:AT_FDCWD|\d+)<([^>]*)>", line)
            for path in re.findall(r'"([^"]*)"', line):
                found.add(path if path.startswith("/") or base is None else f"{base[1]}/{path}")
    return {path for path in found if path.startswith("/")}


if __name__ == "__main__":
    watch_files(sys.argv[1])
    forbid_sockets()
    sys.argv[:2] = ["t2i"]
    from t2i_cli.__main__ import main

    main()
