"""The command line from outside: exit codes, one line an error, nothing slow imported, quiet pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import t2i_cli
from t2i_cli import cli as cli_module
from t2i_cli.cli import parse_span, run
from t2i_cli.errors import OutputError, Stopped, T2IError, UsageError
from tests.conftest import Cli
from tests.toy_weights import save_toy

COMMANDS = ("check", "tokenize", "train", "sample", "eval", "info", "export")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The only line of an error, after checks of what every error keeps to."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("t2i: error: ")
    assert not CONTROL.search(done.stderr)
    return done.stderr.strip()


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    text = path.with_suffix(".txt")
    text.write_text("a red cat\na blue dog on a green table\nthe red dog\n" * 20, encoding="utf-8")
    assert (
        run(["-q", "tokenize", "--train", str(text), "-o", str(path), "--vocab-size", "400"]) == 0
    )
    return path


# --- help, version, speed of the command itself


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"t2i {t2i_cli.__version__}\n", "")


def test_help_names_every_command_and_code(cli: Cli) -> None:
    done = cli("-h")
    assert done.returncode == 0 and done.stderr == ""
    for command in COMMANDS:
        assert re.search(rf"^  {command}\s+\S", done.stdout, re.MULTILINE), command
    assert "Exit codes" in done.stdout
    assert cli("--help").stdout == done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "-h"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: t2i {command} ") and err == ""
    assert "-q, --quiet" in out and "-v, --verbose" in out


def test_no_command_shows_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Commands:" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["sample", "-h"],
        ["train", "-h"],
        ["nothing"],
        ["check", "{data}"],
        ["info", "{data}"],
    ],
    ids=" ".join,
)
def test_quick_commands_import_neither_torch_nor_rich(
    arguments: list[str], captioned_folder: Path
) -> None:
    code = (
        "import sys\nfrom t2i_cli.cli import run\n"
        f"run({[part.format(data=captioned_folder) for part in arguments]!r})\n"
        "slow = {'torch', 'onnxruntime', 'pydantic', 'transformers', 'rich', 'sentencepiece'} & set(sys.modules)\n"
        "print('slow imports:', sorted(slow))"
    )
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.splitlines()[-1] == "slow imports: []", done.stderr


# --- usage errors: one line, exit 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["traim", "x"], "did you mean 'train'?"),
        (["train", "x", "--stepz", "3"], "did you mean --steps?"),
        (["train"], "missing argument 'DATA'"),
        (["train", "x", "--steps", "many"], "expected a whole number, got 'many'"),
        (["train", "x", "--lr", "fast"], "expected a number"),
        (["train", "x", "--steps"], "--steps"),
        (["train", "x", "--time", "soon"], "write 90s, 30m, 2h or 1h30m"),
        (["train", "x", "--time", "5m", "--steps", "3"], "exclude each other"),
        (["train", "x", "--batch-size", "big"], "expected a whole number or auto"),
        (["train", "x", "--size", "huge"], "tiny, small, base, large"),
        (["train", "x", "--resolution", "48"], "32, 64, 128, 256"),
        (["train", "x", "--set", "flow"], "NAME=VALUE"),
        (["train", "x", "--set", "flaw=0.5"], "unknown setting flaw; "),
        (["train", "x", "--set", "flow=2.5"], "out of range"),
        (["train", "x", "--config", "nowhere.toml"], "No such file"),
        (
            ["train", "x", "--captions-from", "dreams"],
            "use folder, name, metadata, sidecar, shards",
        ),
        (["train", "x", "--objective", "magic"], "objective = magic: not known; use flow, gan"),
        (["train", "x", "--resolution", "32", "--set", "distill=0.1"], "unknown setting distill; "),
        (["train", "x", "--distill-from", "y"], "no such option: --distill-from"),
        (["sample", "x", "--references", "-1"], "use 0 to 16"),
        (["sample", "x", "--references", "few"], "expected a whole number, got 'few'"),
        (["sample", "x", "--steps", "few"], "expected auto or a whole number"),
        (["sample", "x", "--steps", "0"], "use 1 to 1000"),
        (["sample", "x", "--like"], "'--like' requires an argument"),
        (["tokenize", "x", "--ids", "--pieces"], "exclude each other"),
        (["tokenize", "x", "-o", "y"], "--train"),
        (["tokenize", "--train", "x", "y"], "--train takes one"),
        (["tokenize", "--train", "x", "--vocab-size", "7"], "out of range"),
        (["train", "x\x1b[31m", "--st\x1b]0;hi\x07"], "no such option"),
        (["\x1b[31mred\u202e"], "no such command"),
    ],
    ids=lambda value: (
        " ".join(value).encode("unicode_escape").decode() if isinstance(value, list) else ""
    ),
)
def test_usage_errors(
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(arguments)
    out, err = capsys.readouterr()
    done = subprocess.CompletedProcess(arguments, code, out, err)
    assert says.lower() in one_line(done, 2).lower()
    assert out == ""
    assert not list(tmp_path.iterdir())  # a wrong command leaves nothing behind


def test_an_environment_variable_of_the_wrong_kind_is_a_usage_error(cli: Cli) -> None:
    assert "precision = soon: not known" in one_line(cli("train", "x", T2I_PRECISION="soon"), 2)


# --- input errors: one line, exit 3


@pytest.mark.parametrize("command", ["check", "train"])
def test_data_that_is_not_there(command: str, cli: Cli, tmp_path: Path) -> None:
    assert "nowhere" in one_line(cli("-q", command, tmp_path / "nowhere", cwd=tmp_path), 3)


def test_an_empty_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for command in ("check", "train"):
        done = cli(command, tmp_path / "data", cwd=tmp_path)
        assert done.returncode == 3 and "Traceback" not in done.stderr
        assert (
            "no picture" in (done.stdout + done.stderr).lower()
            or "no image" in (done.stdout + done.stderr).lower()
        )


def test_weights_that_are_not_there_or_are_none(cli: Cli, tmp_path: Path) -> None:
    assert "no such model" in one_line(cli("tokenize", "a cat", "-m", "nowhere"), 3)
    fake = tmp_path / "fake.safetensors"
    fake.write_bytes(b"\xff" * 100)
    one_line(cli("tokenize", "a cat", "-m", fake), 3)
    bad = tmp_path / "bad.model"
    bad.write_bytes(b"\x00" * 100)
    assert "not a tokenizer" in one_line(cli("tokenize", "a cat", "-m", bad), 3)


@pytest.mark.parametrize("command", ["sample", "info", "tokenize", "export", "train"])
def test_weights_of_the_first_format_are_refused_in_one_line(
    command: str, captioned_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    import torch

    from t2i_cli.checkpoint.weights import save_tensors

    old = tmp_path / "old.safetensors"
    said = {"t2i.format": "1", "t2i.config": "{}", "t2i.networks": "text_encoder,generator"}
    save_tensors(old, {"generator.conv_in.weight": torch.zeros(3)}, said)
    arguments = {
        "sample": ["a cat", "-m", old],
        "info": [old],
        "tokenize": ["a cat", "-m", old],
        "export": [old],
        "train": [captioned_folder, "--init", old],
    }[command]
    line = one_line(cli(command, *arguments, cwd=tmp_path), 3)
    assert str(old) in line
    assert "made by t2i 0.1, whose models drew pixels: train again" in line
    assert [path.name for path in tmp_path.iterdir()] == ["old.safetensors"]


# --- tokenize


def test_tokenize_prints_what_the_model_reads(
    tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tokenize", "A red cat", "-m", str(tokenizer_file), "--json"]) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert row["text"] == "A red cat" and row["unknown_tokens"] == 0
    assert "".join(row["pieces"]).replace("▁", " ").strip() == "a red cat"
    assert run(["tokenize", "A red cat", "-m", str(tokenizer_file), "--ids"]) == 0
    assert capsys.readouterr().out.split() == [str(token) for token in row["ids"]]
    assert run(["tokenize", "A red cat", "-m", str(tokenizer_file), "--pieces"]) == 0
    assert capsys.readouterr().out.split() == row["pieces"]
    assert run(["tokenize", "ж", "-m", str(tokenizer_file)]) == 0
    assert "(2 unknown)" in capsys.readouterr().out


def test_tokenize_shows_what_unknown_words_are_read_as(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(save_toy(tmp_path / "toy.safetensors"))
    assert run(["tokenize", "a crimson orb", "a red ball", "-m", model, "--json"]) == 0
    read, known = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert read == {**known, "text": "a crimson orb", "read_as": "a red ball"}
    assert run(["tokenize", "a crimson orb", "-m", model]) == 0
    assert "(read as: a red ball)" in capsys.readouterr().out
    assert run(["tokenize", "a crimson orb", "-m", model, "--literal", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert "read_as" not in row
    assert row["ids"] != known["ids"]


def test_tokenize_reads_a_pipe_line_by_line(tokenizer_file: Path, cli: Cli) -> None:
    done = cli("tokenize", "-", "-m", tokenizer_file, "--json", input="a red cat\n\nthe dog\n")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [
        "a red cat",
        "the dog",
    ]
    assert cli("tokenize", "-m", tokenizer_file, "--ids", input="a cat\n").stdout.strip()


def test_tokenize_takes_a_hostile_prompt(tokenizer_file: Path, cli: Cli) -> None:
    done = cli("tokenize", "cat \x1b[31m\u202e [bold]dog[/bold]", "-m", tokenizer_file)
    assert done.returncode == 0 and not CONTROL.search(done.stdout.replace("\n", ""))


def test_tokenizer_from_captions_is_made_and_not_overwritten(
    captioned_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "deep" / "tokenizer.model"
    done = cli("tokenize", "--train", captioned_folder, "-o", out, "--json")
    row = json.loads(done.stdout)
    assert done.returncode == 0 and row["path"] == str(out) and row["texts"] == 48
    assert 260 < row["vocab_size"] <= 4096
    before = out.read_bytes()
    assert "-f" in one_line(cli("tokenize", "--train", captioned_folder, "-o", out), 1)
    assert out.read_bytes() == before
    assert cli("tokenize", "--train", captioned_folder, "-o", out, "-f").returncode == 0
    assert out.read_bytes() == before  # the same captions give the same tokenizer


def test_tokenizer_from_a_pipe(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer.model"
    done = cli("tokenize", "--train", "-", "-o", out, input="a red cat\na blue dog\n" * 10)
    assert done.stdout == f"{out}\n" and out.stat().st_size > 1000
    assert "no text" in one_line(
        cli("tokenize", "--train", "-", "-o", tmp_path / "b.model", input="\n"), 3
    )
    assert not (tmp_path / "b.model").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_tokenizer_that_cannot_be_written_is_an_error(captioned_folder: Path, cli: Cli) -> None:
    assert "No space" in one_line(
        cli("tokenize", "--train", captioned_folder, "-o", "/dev/full", "-q"), 1
    )


def test_sentencepiece_that_gives_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from t2i_cli import tokenizer

    monkeypatch.setattr(tokenizer.spm.SentencePieceTrainer, "train", lambda **_: None)
    text = tmp_path / "captions.txt"
    text.write_text("a red cat\n", encoding="utf-8")
    assert run(["tokenize", "--train", str(text), "-o", str(tmp_path / "t.model")]) == 1
    assert "empty tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "t.model").exists()


# --- errors of every kind end in one line


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("wrong", "right"), 2, "t2i: error: wrong; right"),
        (OutputError("full"), 1, "t2i: error: full"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"),
            1,
            "out of memory",
        ),
        (PermissionError(13, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (ModuleNotFoundError("x", name="transformers"), 1, "t2i-cli[hf]"),
        (
            ZeroDivisionError("by\x1b[31m zero\nsecond line"),
            1,
            "internal error: ZeroDivisionError: by\\x1b[31m zero; set T2I_DEBUG=1",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
        (SystemExit(4), 4, ""),
        (BrokenPipeError(), 0, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(cli_module, "_invoke", fail)
    monkeypatch.setattr(cli_module.console, "silence_stdout", lambda: None)
    assert run(["check", "x"]) == code
    out, err = capsys.readouterr()
    assert out == "" and says in err and len(err.splitlines()) == (1 if says else 0)
    assert "Traceback" not in err


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise T2IError("it broke")

    monkeypatch.setattr(cli_module, "_invoke", fail)
    monkeypatch.setenv("T2I_DEBUG", "1")
    assert run(["check", "x"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and err.endswith("t2i: error: it broke\n")


def test_a_traceback_is_visible_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise ValueError("bad\x1b[2J\u202e")

    monkeypatch.setattr(cli_module, "_invoke", fail)
    monkeypatch.setenv("T2I_DEBUG", "1")
    assert run(["check", "x"]) == 1
    assert not set(capsys.readouterr().err) & {"\x1b", "\u202e"}


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_taken_for_no_failure_on_its_way(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No `except Exception` between the signal and the end of the command may swallow it."""
    before = signal.getsignal(signal.SIGTERM)

    def main(**_: object) -> int:
        try:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(5)
        except Exception:
            pytest.fail("swallowed")
        return 0

    monkeypatch.setattr(cli_module, "_command", lambda: SimpleNamespace(main=main))
    assert run(["check", "x"]) == code
    assert capsys.readouterr().err == "t2i: " + f"{Stopped(code - 128)}\n"
    assert signal.getsignal(signal.SIGTERM) is before


# --- a good citizen of the shell


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "T2I": f"{sys.executable} -m t2i_cli"}
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )


def test_a_reader_that_leaves_gives_no_traceback(tokenizer_file: Path, tmp_path: Path) -> None:
    done = shell(f"yes 'a red cat' | $T2I tokenize - -m {tokenizer_file} | head -n 2", tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2 and done.stderr == ""
    done = shell("$T2I --help | head -n 1", tmp_path)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["sample", "-h"], ["--version"]])
def test_a_reader_that_leaves_a_help_text_is_no_failure(arguments: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "t2i_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["--version", "--help", "tokenize a -m {model}"])
def test_a_full_stdout_is_a_failure(command: str, tokenizer_file: Path, tmp_path: Path) -> None:
    done = shell(f"$T2I {command.format(model=tokenizer_file)} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("t2i: error: ") and len(done.stderr.splitlines()) == 1
    assert "No space" in done.stderr


def test_closed_streams_do_no_harm(tokenizer_file: Path, tmp_path: Path) -> None:
    assert shell("$T2I --version >&- 2>&- <&-", tmp_path).returncode == 0
    done = shell("$T2I check nowhere 2>&-", tmp_path)
    assert done.returncode == 3 and done.stdout == ""


def test_quiet_and_verbose_are_understood_anywhere(
    captioned_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    for k, arguments in enumerate(
        [["-q", "tokenize"], ["tokenize", "-q"], ["tokenize", "--quiet"]]
    ):
        done = cli(*arguments, "--train", captioned_folder, "-o", tmp_path / f"{k}.model")
        assert done.returncode == 0 and done.stderr == ""


# --- pieces


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1d", 86_400),
        ("45", 45),
        ("1.5h", 5400),
        ("2 min", 120),
    ],
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text, "--time") == seconds


@pytest.mark.parametrize("text", ["", "m", "1x", "-5m", "1m30h", "1.2.3s", "nan", "inf"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(UsageError, match="not a span of time"):
        parse_span(text, "--time")


# --- the whole path: train, resume, look, draw


@pytest.fixture(scope="module")
def trained_run(captioned_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    small = ["--resolution", "32", "--batch-size", "8", "--set", "contrastive_batch_size=8"]
    with pytest.MonkeyPatch.context() as patch:
        # the graph of this model, which takes ten seconds, is made once for all tests here
        patch.setenv("T2I_CACHE", str(tmp_path_factory.getbasetemp() / "t2i-cache"))
        code = run(
            ["train", str(captioned_folder), "-o", str(out), "--steps", "5", *small, "--json", "-q"]
        )
    assert code == 0
    return out


def test_train_leaves_a_run_folder(trained_run: Path) -> None:
    left = {path.name for path in trained_run.iterdir()}
    assert left >= {
        "config.toml",
        "tokenizer.model",
        "words.txt",
        "model.safetensors",
        "state",
        "log.jsonl",
        "samples",
        "data.json",
    }
    rows = [json.loads(line) for line in (trained_run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert {"stage", "images", "images_per_second", "memory_mb", "eta_s"} <= set(rows[-1])


def test_a_run_is_not_overwritten(
    trained_run: Path, captioned_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(captioned_folder), "-o", str(trained_run), "-q", "--steps", "5"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_changed_setting_is_told_on_resume(
    trained_run: Path, captioned_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(captioned_folder), "-o", str(trained_run), "-q", "--resume"]
    assert run([*arguments, "--seed", "3"]) == 2
    assert "--seed was 0 and is 3 now" in capsys.readouterr().err
    assert run(arguments) == 0  # nothing left to do, and that is fine
    assert capsys.readouterr().out.strip() == str(trained_run / "model.safetensors")


def test_info_of_a_run_and_its_weights(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(trained_run)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^step\s+5$", out, re.MULTILINE) and "from its log" in out
    assert run(["info", str(trained_run / "model.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resolution"] == 32


def test_tokenize_with_a_run(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokenize", "a red ball", "-m", str(trained_run), "--pieces"]) == 0
    by_run = capsys.readouterr().out
    assert (
        run(["tokenize", "a red ball", "-m", str(trained_run / "model.safetensors"), "--pieces"])
        == 0
    )
    assert capsys.readouterr().out == by_run


def test_dry_run_writes_no_run(
    captioned_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dry"
    small = ["--resolution", "32", "--batch-size", "4", "--set", "contrastive_batch_size=8"]
    assert (
        run(
            [
                "train",
                str(captioned_folder),
                "-o",
                str(out),
                "--steps",
                "9",
                *small,
                "--dry-run",
                "--json",
            ]
        )
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert plan["resolution"] == 32 and set(plan["stages"]) == {
        "contrastive",
        "autoencoder",
        "flow",
    }
    assert not out.exists()


def test_a_gpu_that_is_not_there(
    captioned_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(captioned_folder), "-o", str(tmp_path / "run"), "--steps", "5"]
    assert run([*arguments, "--device", "cuda:99"]) == 2
    assert "--device cpu" in capsys.readouterr().err
    assert run([*arguments, "--device", "toaster"]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(
    captioned_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    assert run(["train", str(captioned_folder), "-o", str(tmp_path / "run"), "--steps", "5"]) == 1
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_and_ends(
    name: str, code: int, captioned_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    small = ["--resolution", "32", "--batch-size", "2", "--set", "contrastive_batch_size=4"]
    small += ["--set", "report_every=0.01", "--time", "40s", "--json"]
    command = [sys.executable, "-m", "t2i_cli", "train", str(captioned_folder), "-o", str(out)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with (tmp_path / "stderr").open("w+") as said:
        process = subprocess.Popen(
            [*command, *small], env=env, stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["event"] == "report":  # it trains
                    break
            process.send_signal(getattr(signal, name))
            process.stdout.read()
            assert process.wait(60) == code
        finally:
            process.kill()
            process.communicate()
        said.seek(0)
        assert "saved, go on with --resume" in said.read().splitlines()[-1]
    assert list((out / "state").iterdir())
