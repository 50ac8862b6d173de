"""One trainer a run folder, and no more than one, whatever happens to it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2i_cli.checkpoint import RunLock, lock
from t2i_cli.errors import OutputError, T2IError

HOLD = """
import sys, time
from t2i_cli.checkpoint import RunLock
with RunLock(sys.argv[1]):
    {inside}
    print("held", flush=True)
    time.sleep(60)
"""


def holder(run: Path, inside: str = "pass") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD.format(inside=inside), str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_it_and_exits_1(tmp_path: Path):
    process = holder(tmp_path / "run")
    try:
        with pytest.raises(T2IError) as told, RunLock(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.communicate()
    assert told.value.exit_code == 1
    assert (
        f"already being trained by process {process.pid} on {os.uname().nodename} since 20"
        in str(told.value)
    )
    assert str(tmp_path / "run") in str(told.value)


def test_a_kill_frees_it(tmp_path: Path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_that_outlives_its_parent_does_not_keep_it(tmp_path: Path):
    process = holder(tmp_path, "import os\n    if not os.fork(): time.sleep(5); os._exit(0)")
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = time.monotonic()
    while time.monotonic() - begun < 3:  # the child closes its copy as soon as it runs at all
        with contextlib.suppress(T2IError), RunLock(tmp_path):
            return
    pytest.fail("the worker, which lives for 5 s more, keeps the lock")


def test_it_is_freed_on_the_way_out_of_an_error_and_can_be_taken_again(tmp_path: Path):
    lock = RunLock(tmp_path / "a" / "run")
    for _ in range(3):
        with pytest.raises(KeyError), lock:
            assert (tmp_path / "a" / "run" / ".lock").exists()
            raise KeyError
        assert list((tmp_path / "a" / "run").iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"{", b'{"pid": 1}', b"\x1b[31m" * 1000, b"[" * 4000])
def test_a_lock_without_a_readable_holder_still_holds(tmp_path: Path, text: bytes):
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_bytes(text)
        with (
            pytest.raises(T2IError, match="already being trained by another process"),
            RunLock(tmp_path),
        ):
            pass


def test_the_holder_is_told_without_control_bytes(tmp_path: Path):
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text('{"pid": 7, "host": "\\u001b[31mx", "since": "\\u202e"}')
        with pytest.raises(T2IError) as told, RunLock(tmp_path):
            pass
    assert "process 7 on \\x1b[31mx" in str(told.value)
    assert "\x1b" not in str(told.value)


def test_a_removed_lock_file_lets_nobody_in_beside_a_new_holder(tmp_path: Path):
    first = RunLock(tmp_path).__enter__()
    (tmp_path / ".lock").unlink()  # somebody tidied up: the first one's lock is now on no name
    with RunLock(tmp_path), pytest.raises(T2IError), RunLock(tmp_path):
        pass
    first.__exit__(None, None, None)


def test_orphans_of_a_killed_run_are_removed_at_the_start(tmp_path: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".00000004.1-ab.t2i-tmp").mkdir()
    (tmp_path / ".model.safetensors.1-ab.t2i-tmp").write_bytes(b"")
    with RunLock(tmp_path) as lock:
        assert len(lock.removed) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["state"]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError), RunLock(tmp_path / "file" / "run"):
        pass


def test_many_holders_one_after_another_are_outwaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each has removed its file between our open and our lock; on a busy machine that happens many times in a row."""
    same, met = lock._same_file, 0

    def gone(handle: int, path: Path) -> bool:
        nonlocal met
        met += 1
        if met <= 300:
            path.unlink()
            return False
        return same(handle, path)

    monkeypatch.setattr(lock, "_same_file", gone)
    with RunLock(tmp_path / "run"):
        assert met == 301
