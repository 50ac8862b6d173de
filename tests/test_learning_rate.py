"""``--lr`` is the generator's learning rate: what it looks like, refused where it cannot be meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from t2i_cli import config
from t2i_cli.config import TrainConfig, learning_rates, with_rates
from t2i_cli.errors import UsageError
from tests.conftest import Cli

RATES = ("contrastive_lr", "flow_lr", "adversarial_lr")


def rates(settings: TrainConfig) -> tuple[float, ...]:
    return tuple(getattr(settings, name) for name in RATES)


def test_it_sets_the_generators_rate_and_the_others_in_proportion() -> None:
    usual = TrainConfig()
    assert rates(TrainConfig.from_dict({"lr": usual.flow_lr})) == rates(usual)
    asked = TrainConfig.from_dict({"lr": 3e-4})
    assert asked.flow_lr == pytest.approx(3e-4)
    for one, other in zip(rates(asked), rates(usual), strict=True):
        assert one == pytest.approx(other / 3)
    given = TrainConfig.from_dict({"lr": 3e-4, "adversarial_lr": 1e-5})
    assert (given.adversarial_lr, given.flow_lr) == (1e-5, pytest.approx(3e-4))
    assert not hasattr(usual, "lr")  # one way to say it


@pytest.mark.parametrize("lr", [0.0, -1e-3, 1.0, 30.0, 1e-9, float("nan"), float("inf")])
def test_a_rate_that_would_train_nothing_is_refused(lr: float) -> None:
    with pytest.raises(UsageError, match="out of range") as told:
        learning_rates(lr)
    assert "0.0009 by default" in told.value.hint


@pytest.mark.parametrize("lr", ["fast", True, [1]])
def test_what_is_no_number_is_refused(lr: object) -> None:
    with pytest.raises(UsageError):
        with_rates({"lr": lr})


def test_the_settings_of_an_older_run_keep_their_meaning() -> None:
    old = {"lr": 0.5, "contrastive_lr": 1e-3, "flow_lr": 9e-4, "adversarial_lr": 2e-4}
    assert rates(TrainConfig.from_dict(old)) == (5e-4, 4.5e-4, 1e-4)


def test_the_command_line(captioned_folder: Path, tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    line = ("train", captioned_folder, "-o", run, "--steps", 4, "--resolution", 32)
    done = cli(*line, "--batch-size", 4, "--lr", "1e-4")
    assert done.returncode == 0, done.stderr
    kept = config.TrainConfig.from_dict(tomllib.loads((run / "config.toml").read_text()))
    assert kept.flow_lr == pytest.approx(1e-4)
    assert kept.adversarial_lr == pytest.approx(2e-4 / 9)
    assert cli(*line, "--batch-size", 4, "--resume").returncode == 0
    refused = cli(*line, "-f", "--lr", "1")
    assert refused.returncode == 2
    assert "it is the generator's learning rate, 0.0009 by default" in refused.stderr
    assert "[default: 0.0009]" in " ".join(cli("train", "-h").stdout.split())
