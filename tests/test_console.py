"""What reaches a person: results on stdout, the rest on stderr, nothing that steers a terminal, quiet pipes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2i_cli import console
from t2i_cli.errors import OutputError, T2IError
from t2i_cli.training.events import (
    Advice,
    Finished,
    Message,
    Report,
    Sampled,
    Saved,
    StageStarted,
)

HOSTILE = "a\x1b[31mred\x07 [bold]cat[/bold]\u202e\x9b2J\r\n\0"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ROW = {
    "step": 1200,
    "stage": "flow",
    "progress": 0.5,
    "stage_progress": 0.25,
    "images": 76_800,
    "images_per_second": 171.234,
    "memory_mb": 812.0,
    "eta_s": 754.0,
    "losses": {"flow": 0.2513},
}


@pytest.fixture(autouse=True)
def _level(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(console, "_level", console._Level())
    yield


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_streams_and_levels(capsys: pytest.CaptureFixture[str]) -> None:
    console.result("out.png")
    console.note("a note")
    console.detail("a detail")
    console.warn("a warning")
    console.fail(T2IError("it failed.", "do this"))
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert err == "a note\n! a warning\nt2i: error: it failed; do this\n"
    console.set_level(quiet=True, verbose=True)
    console.result("out.png")
    console.note("a note")
    console.detail("a detail")
    console.warn("a warning")
    console.fail(T2IError("it failed"))
    out, err = capsys.readouterr()
    assert (out, err) == ("out.png\n", "t2i: error: it failed\n")


def test_verbose_adds_details(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_level(verbose=True)
    console.detail("a detail")
    assert capsys.readouterr().err == "a detail\n"


@pytest.mark.parametrize("say", [console.note, console.warn, console.result])
def test_no_control_character_gets_out(say: object, capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)  # type: ignore[operator]
    console.fail(T2IError(HOSTILE, HOSTILE))
    console.table(["name", "value"], [[HOSTILE, 1]])
    said = "".join(capsys.readouterr())
    assert not CONTROL.search(said)
    assert "[bold]cat[/bold]" in said  # shown, not taken for markup
    assert "\\x1b[31m" in said


def test_hostile_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    console.table(["name", "value"], [[HOSTILE, 1]], title=HOSTILE)
    assert not CONTROL.search(screen.getvalue())
    assert "[bold]cat[/bold]" in screen.getvalue()


def test_hostile_events_on_a_live_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with console.TrainingDisplay() as display:
        display.show(StageStarted(HOSTILE, 1, 4, 0.0))
        display.show(Report({**ROW, "stage": HOSTILE, "losses": {HOSTILE: 1.0}}))
        display.show(Advice(HOSTILE, HOSTILE))
        display.show(Message(HOSTILE))
        display.show(Saved(Path("r\x1b]0;x\x07"), 1))
    drawn = screen.getvalue()
    assert "\x1b[31mred" not in drawn and "\x07" not in drawn and "\x1b]0" not in drawn
    assert "\u202e" not in drawn and "\x9b" not in drawn
    assert "[bold]cat[/bold]" in drawn


def test_colours_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32m" in console.mark("✓", "fine", Terminal())
    assert console.mark("✓", "fine", io.StringIO()) == "✓ fine"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[31m" in console.mark("✗", "bad", io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.mark("✗", "bad", Terminal()) == "✗ bad"


def test_table_in_a_pipe_is_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["metric", "value"], [["kid", 0.05], ["fid", 12.5]])
    assert capsys.readouterr().out == "metric\tvalue\nkid\t0.05\nfid\t12.5\n"


def test_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console.table(["metric", "value"], [["kid", 0.05]], title="scores")
    assert "scores" in screen.getvalue()
    assert re.search(r"kid\s+0\.05", screen.getvalue())


def test_training_in_a_pipe_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.TrainingDisplay() as display:
        display.show(Message("24 pairs"))
        display.show(StageStarted("flow", 2, 3, 0.25))
        for _ in range(61):  # a report a second, for a minute: at 0, 30 and 60 s
            display.show(Report(ROW))
            now[0] += 1
        display.show(Saved(Path("runs/a"), 1200))  # with -v only
        display.show(Sampled(Path("runs/a/samples/1200.png"), 1200))
        display.show(Advice("text ignored", "train longer"))
        end = Finished(
            Path("runs/a"),
            Path("runs/a/model.safetensors"),
            2400,
            754.0,
            (Advice("small set", "add pictures"),),
            {"retrieval_at_1": 0.31},
        )
        display.show(end)
    out, err = capsys.readouterr()
    assert out == "runs/a/model.safetensors\n"
    lines = err.splitlines()
    line = "flow: step 1,200 · 50% done · 171 images/s · 812 MB · 12 min 34 s left · flow 0.251"
    assert lines == [
        "24 pairs",
        "stage 2 of 3: flow, from 25%",
        *[line] * 3,
        "! train longer",
        "done: 2,400 steps in 12 min 34 s, retrieval at 1 0.31",
        "! add pictures",
    ]
    assert "\x1b" not in err


def test_training_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with console.TrainingDisplay(json_rows=True) as display:
        display.show(Report(ROW))
        display.show(Advice("nan", "lower --lr"))
        display.show(Finished(Path("r"), Path("r/model.safetensors"), 5, 1.0))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == ["report", "advice", "finished"]
    assert rows[0] == {"event": "report", **ROW}
    assert rows[2]["model"] == "r/model.safetensors"


def test_training_on_a_terminal_draws_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with console.TrainingDisplay() as display:
        display.show(StageStarted("contrastive", 1, 2, 0.0))
        display.show(StageStarted("flow", 2, 2, 0.0))
        display.show(Report(ROW))
        display.show(Advice("gap", "D runs away"))
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for part in (
        "stage 2 of 2: flow",
        "contrastive",
        "100%",
        "25%",
        "171 images/s",
        "812 MB",
        "flow 0.251",
        "D runs away",
    ):
        assert part in drawn, part


def test_progress_in_a_pipe_speaks_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("decoding", "pictures") as update:
        for done in range(100):
            update(done, 100)
            now[0] += 1
    assert capsys.readouterr().err.splitlines() == [
        "decoding: 30 of 100 pictures, 1 min 10 s left",
        "decoding: 60 of 100 pictures, 40 s left",
        "decoding: 90 of 100 pictures, 10 s left",
    ]


def test_progress_on_a_terminal_draws_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with console.progress("[red]decoding") as update:
        update(5, 10)
    assert "[red]decoding" in screen.getvalue() and "5/10" in screen.getvalue()


def in_python(code: str, **pipes: object) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        **pipes,  # type: ignore[call-overload]
    )


def test_a_label_of_a_stranger_is_drawn_visibly(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(f"reading {HOSTILE}") as update:
        update(1, 2)
    drawn = re.sub(r"\x1b\[[0-9;?]*[mlhAKG]|\r", "", terminal.getvalue())
    assert not CONTROL.search(drawn)
    assert r"\u202e" in drawn


def test_a_closed_pipe_is_quiet_and_noticed() -> None:
    code = (
        "import sys; from t2i_cli import console\n"
        "n = 0\n"
        "while console.result('x' * 1000): n += 1\n"
        "assert console.reader_is_gone() and not console.result('more')\n"
        "sys.exit(7 if n >= 1 else 8)"
    )
    with in_python(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from t2i_cli import console, errors\n"
        "try: console.result('x')\n"
        "except errors.OutputError as error: console.fail(error); raise SystemExit(9)"
    )
    with (
        Path("/dev/full").open("wb") as full,
        in_python(code, stdout=full, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        assert process.stderr.read() == b"t2i: error: standard output: No space left on device\n"
        assert process.wait(30) == 9


def test_output_error_is_a_failure() -> None:
    assert OutputError("x").exit_code == 1
