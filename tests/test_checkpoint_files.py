"""Files are whole or absent: modes, faults in writing, the log's torn end."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import faults
import pytest

from t2i_cli.checkpoint import append_line, remove_orphans, truncate_log, write_atomic
from t2i_cli.checkpoint.files import temporary_beside
from t2i_cli.errors import OutputError


def test_writes_bytes_and_replaces_them(tmp_path: Path):
    path = tmp_path / "made" / "on the way" / "a.txt"
    write_atomic(path, b"one")
    write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_the_umasks(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a", b"x")
        append_line(tmp_path / "log", "x")
        faults.save_tiny(tmp_path / "m.safetensors")
    finally:
        os.umask(before)
    for name in ("a", "log", "m.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_a_failure_inside_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_overwrite_a_taken_name_is_refused(tmp_path: Path):
    path = tmp_path / "a"
    write_atomic(path, b"mine", overwrite=False)
    with pytest.raises(OutputError, match="File exists"):
        write_atomic(path, b"theirs", overwrite=False)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file_and_say_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as told:
        write_atomic(tmp_path / "file" / "x", b"")
    assert str(tmp_path / "file" / "x") in str(told.value)
    assert told.value.exit_code == 1
    with pytest.raises(OutputError, match="folder"):
        write_atomic(tmp_path, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_an_error_and_never_only_logged():
    for write in (
        lambda: write_atomic("/dev/full", b"x" * 100_000),
        lambda: append_line("/dev/full", "x"),
    ):
        with pytest.raises(OutputError, match="No space left") as told:
            write()
        assert "free some space" in told.value.hint
    write_atomic("/dev/null", b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_link_is_followed(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    for content in (b"one", b"two"):  # first it leads nowhere, then to a file
        write_atomic(tmp_path / "a", content)
        assert (tmp_path / "a").is_symlink()
        assert (tmp_path / "b").read_bytes() == content
    (tmp_path / "null").symlink_to(os.devnull)
    write_atomic(tmp_path / "null", b"x")
    assert (tmp_path / "null").is_symlink()


def test_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    happened: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle):
        target = Path(f"/proc/self/fd/{handle}").resolve() if Path("/proc").exists() else "?"
        happened.append("folder" if target == tmp_path else "file")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(
        os, "replace", lambda a, b, **more: (happened.append("rename"), replace(a, b, **more))
    )
    write_atomic(tmp_path / "a", b"x")
    assert happened == ["file", "rename", "folder"]
    happened.clear()
    append_line(tmp_path / "log", "x")
    append_line(tmp_path / "log", "y")
    assert happened == ["file", "folder", "file"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failing_sync_is_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    write_atomic(tmp_path / "a", b"old")
    append_line(tmp_path / "log", "one")

    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    for write in (
        lambda: write_atomic(tmp_path / "a", b"new"),
        lambda: append_line(tmp_path / "log", "two"),
        lambda: faults.save_tiny(tmp_path / "a"),
    ):
        with pytest.raises(OutputError):
            write()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "log").read_bytes() == b"one\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "log"]


def test_a_line_after_a_torn_line_begins_its_own(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n{"st')
    append_line(log, '{"step": 2}')
    assert log.read_bytes() == b'{"step": 1}\n{"st\n{"step": 2}\n'


def rows(*steps: int | str | None) -> bytes:
    return b"".join(
        (
            step if isinstance(step, str) else json.dumps({} if step is None else {"step": step})
        ).encode()
        + b"\n"
        for step in steps
    )


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (rows(1, 2, 3, 4), 2, rows(1, 2)),
        (rows(1, 2, 3, 4), 9, rows(1, 2, 3, 4)),
        (rows(1, 2, 3, 4), 0, b""),
        (
            rows(1, 2, None, 3, None),
            2,
            rows(1, 2, None),
        ),  # a row without a step goes with the one before it
        (rows(1, 2) + b'{"step": 3', 2, rows(1, 2)),  # torn by a kill
        (rows(1, 2) + b'{"step": 3', 9, rows(1, 2)),
        (rows(1, 2, "torn {", 3), 2, rows(1, 2)),
        (rows(1, 2, 3, 2, 3, 4), 3, rows(1, 2, 3, 2, 3)),  # it had gone back once, which stays told
        (b"", 3, b""),
        (b"[]\n\xff\n", 3, b""),
    ],
)
def test_going_on_drops_the_rows_that_will_be_written_again(
    tmp_path: Path, before: bytes, step: int, after: bytes
):
    log = tmp_path / "log.jsonl"
    log.write_bytes(before)
    dropped = truncate_log(log, step)
    assert log.read_bytes() == after
    lines = lambda data: len(data.splitlines())  # noqa: E731
    assert dropped == lines(before) - lines(after)
    assert truncate_log(log, step) == 0


def test_no_log_is_no_error(tmp_path: Path):
    assert truncate_log(tmp_path / "log.jsonl", 3) == 0


def test_orphans_go_and_nothing_else(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    for folder in (tmp_path, tmp_path / "samples"):
        temporary_beside(folder / "model.safetensors").write_bytes(b"half")
        (folder / ".hidden").write_bytes(b"")
        (folder / "a.t2i-tmp").write_bytes(b"not hidden, so somebody's")
    temporary_beside(tmp_path / "00000003").mkdir()
    assert len(remove_orphans(tmp_path)) == 3
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [".hidden", "a.t2i-tmp", "samples", "samples/.hidden", "samples/a.t2i-tmp"]


def test_temporary_names_fit_whatever_the_name(tmp_path: Path):
    for name in ("x" * 255, "é" * 127, "\udcff" * 100):
        write_atomic(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_writes_that_fail_at_every_size_harm_nothing(tmp_path: Path):
    told = run_faults("limit", tmp_path)
    assert told["failures"] == []
    assert told["refused"] > 50


def run_faults(*arguments: object) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, faults.__file__, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
