import inspect

import pytest

from t2i_cli.cli import sample
from t2i_cli.quick import FLAGS, SampleSettings, settings_of


def declared():
    """Flag -> parameter name and type, as typer is told of them."""
    hints = inspect.get_annotations(sample, eval_str=True)
    found = {}
    for name, hint in hints.items():
        if name in ("return", "prompt"):
            continue
        option = hint.__metadata__[0]
        given = (
            [option.default, *option.param_decls]
            if isinstance(option.default, str)
            else list(option.param_decls or ())
        )
        flags = [flag for flag in given if str(flag).startswith("-")] or [
            "--" + name.replace("_", "-")
        ]
        if not any(flag.startswith("--") for flag in flags):
            flags.append("--" + name.replace("_", "-"))
        found.update(dict.fromkeys(flags, name))
    return found


def test_both_readers_know_the_same_options_and_defaults():
    assert declared() == FLAGS
    parameters = inspect.signature(sample).parameters
    for name, default in (
        (field, getattr(SampleSettings(), field)) for field in parameters if field != "prompt"
    ):
        assert parameters[name].default == default, name


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        (["a cat"], SampleSettings(prompt=("a cat",))),
        (
            ["a", "b", "-n", "3", "--seed", "random"],
            SampleSettings(prompt=("a", "b"), n=3, seed="random"),
        ),
        (
            ["-", "-o", "x/{i}.png", "--json", "-f"],
            SampleSettings(prompt=("-",), out="x/{i}.png", json_rows=True, force=True),
        ),
        (["a", "--guidance=1.5", "-o", "-"], SampleSettings(prompt=("a",), guidance=1.5, out="-")),
        (["a", "-q", "--verbose"], SampleSettings(prompt=("a",), quiet=True, verbose=True)),
        (["--seed", "-1", "a"], SampleSettings(prompt=("a",), seed="-1")),
        (
            ["a", "--style", "bold", "--steps=4", "--references", "0", "--attributes", "x=y"],
            SampleSettings(prompt=("a",), style="bold", steps="4", references=0, attributes="x=y"),
        ),
        (["a", "--like", "pictures/"], SampleSettings(prompt=("a",), like="pictures/")),
    ],
)
def test_plain_lines(line, settings):
    assert settings_of(line) == settings


@pytest.mark.parametrize(
    "line",
    [
        ["-h"],
        ["a", "--help"],
        ["a", "--nope"],
        ["a", "-n"],
        ["a", "-n", "x"],
        ["a", "-n4"],
        ["a", "-fq"],
        ["a", "--", "-b"],
        ["a", "--json=1"],
        ["a", "-o=x"],
        ["a", "--guidance", "much"],
        ["a", "--references", "many"],
        ["a", "--like"],
    ],
)
def test_other_lines_are_left_to_typer(line):
    assert settings_of(line) is None


def test_the_environment_counts(monkeypatch):
    monkeypatch.setenv("T2I_DEVICE", "cpu")
    assert settings_of(["a"]).device == "cpu"
    monkeypatch.setenv("T2I_SEED", "5")
    monkeypatch.setenv("T2I_BACKGROUND", "white")
    assert settings_of(["a"]) == SampleSettings(("a",), device="cpu", seed="5", background="white")
    assert settings_of(["a", "--seed", "7"]).seed == "7"
    monkeypatch.setenv("T2I_SEED", "")
    assert settings_of(["a"]).seed == "0"
    for value, bare in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("T2I_NO_METADATA", value)
        assert settings_of(["a"]).no_metadata is bare
    monkeypatch.setenv("T2I_NO_METADATA", "perhaps")
    assert settings_of(["a"]) is None
