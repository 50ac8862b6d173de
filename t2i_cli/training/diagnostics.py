"""Rows of a run's log -> plain sentences of advice. Pure: no torch, no files.

Each signal of MODEL has a threshold here, a sentence that says what it means, and one that says what
to do. A signal is told at most once a stage, and only when it has held for some reports in a row.
`docs/evaluation.md` lists them with their thresholds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from t2i_cli.config import TrainConfig
from t2i_cli.training.events import Advice
from t2i_cli.wording import plain

__all__ = ["SIGNALS", "Doctor", "Remedies", "examine"]

_LONG = 20  # rows, where what is judged is a small difference of noisy numbers
_RECENT = 5  # rows whose median is judged; one bad row is no sign
_HOLDS = 3  # rows in a row in which a sign has to stand before it is told


@dataclass(frozen=True)
class Signal:
    """One thing that goes wrong: when it is said and what is said."""

    name: str
    stages: tuple[str, ...]  # where it can happen; empty: everywhere
    when: str  # the threshold in words, for the docs
    text: str  # what it means and what to do; `Remedies.filled` fills its braces
    trips: Callable[[_Stage], bool]
    holds: int = _HOLDS  # rows in a row in which it has to trip


@dataclass(frozen=True)
class Remedies:
    """What the user of a run can still do: nothing else is proposed."""

    init: bool = True  # start from trained weights: not where the run did
    fp32: bool = True  # compute in fp32: not where the run does
    contrastive: bool = True  # give the contrastive stage more time: not where the run has none
    flow: bool = True  # learn by flow instead of against D: not where the run does
    lr: float = 2e-3  # the generator's learning rate

    @classmethod
    def of(cls, config: TrainConfig, *, init: bool, fp32: bool) -> Remedies:
        """Those of a run.

        Args:
            config: of the run.
            init: whether it started from trained weights.
            fp32: whether it computes in fp32.
        """
        by_flow = config.objective == "flow"
        return cls(not init, not fp32, config.contrastive > 0, not by_flow, config.flow_lr)

    def filled(self, text: str) -> str:
        """A sentence with its braces filled by what can be done, or by nothing."""
        return text.format(
            init=", or start from a trained model with --init" if self.init else "",
            fp32=", or with --precision fp32" if self.fp32 else "",
            contrastive=", or give the contrastive stage more time" if self.contrastive else "",
            flow=", or use --objective flow" if self.flow else "",
            lower_lr=f"--lr {_rate(self.lr / 3)}",
            tenth_lr=f"--lr {_rate(self.lr / 10)}",
        )


class Doctor:
    """Reads a run's log as it is written.

    `feed` takes each row of `log.jsonl`. Every key is optional; a row without a key says nothing about
    its signals. The keys that are read:

    | key | what it is |
    |---|---|
    | `stage`, `stage_progress`, `step` | contrastive, autoencoder, flow or gan; 0 to 1; optimizer steps |
    | `contrastive_loss`, `flow_loss` | the stage's own loss |
    | `contrastive_chance` | log(batch size): what features that say nothing reach |
    | `retrieval`, `retrieval_chance` | R@1 on held-out pictures; what guessing gives (default 0.01) |
    | `d_real`, `d_fake` | mean logit of D on training and generated pictures, as it was trained on them |
    | `gap` | d_real - d_fake |
    | `d_seen`, `d_val` | mean logit on training and on held-out pictures, neither augmented |
    | `d_spread` | deviation of the logits of `d_seen` from picture to picture |
    | `mismatch_gap` | mean of D(x, t) - D(x, t'), t' another picture's caption |
    | `r1`, `r2` | mean squared gradient of D, before gamma |
    | `penalty_ratio` | gamma / 2 (r1 + r2) over D's adversarial loss; else `penalty` over `d_loss` |
    | `diversity` | distance between pictures of one prompt over that between prompts, about 0 to 1 |
    | `nearest` | distance to the nearest training picture over that of held-out pictures, 0: copies |
    | `grad_norm`, `grad_norm_g`, `grad_norm_d` | norm of all gradients of a network |
    | `update`, `update_g`, `update_d` | how far a step moves the median matrix, as a share of its norm |
    | `skipped` | steps left out so far because a number was not finite |
    | `dead` | share of features that are the same for every picture, 0 to 1 |

    Args:
        pictures: training pictures of the run, 0 where it is not known.
        warm: whether the run began with trained weights (--init), whose loss has little left to fall.
        can: what its user can still do.
    """

    def __init__(
        self, pictures: int = 0, *, warm: bool = False, can: Remedies | None = None
    ) -> None:
        self.can = can or Remedies()
        self._stage = _Stage("", pictures, warm)
        self._pictures, self._warm = pictures, warm
        self._told: set[tuple[str, str]] = set()
        self._standing: dict[str, int] = {}  # rows in a row that a sign has stood in this stage

    def feed(self, row: Mapping[str, Any]) -> list[Advice]:
        """What this row newly shows; mostly nothing."""
        name = str(row.get("stage", ""))
        if name != self._stage.name:
            skipped = self._stage.now("skipped", 1)
            before = 0.0 if math.isnan(skipped) else skipped
            self._stage = _Stage(name, self._pictures, self._warm, before)
            self._standing.clear()
        self._stage.add(row)
        advice: list[Advice] = []
        for signal in SIGNALS:
            if signal.stages and name not in signal.stages:
                continue
            # what the data is does not change from stage to stage
            key = (signal.name, name if signal.name != "few_pictures" else "")
            standing = self._standing.get(signal.name, 0) + 1 if signal.trips(self._stage) else 0
            self._standing[signal.name] = standing
            if key not in self._told and standing >= signal.holds:
                self._told.add(key)
                advice.append(Advice(signal.name, self.can.filled(signal.text)))
        return advice


def examine(rows: Iterable[Mapping[str, Any]], pictures: int = 0) -> list[Advice]:
    """The verdict on a whole log: every signal that tripped, once, in the order of time."""
    doctor = Doctor(pictures)
    found = {advice.signal: advice for row in rows for advice in reversed(doctor.feed(row))}
    return list(found.values())


class _Stage:
    """The numbers of the stage that is under way."""

    def __init__(
        self, name: str, pictures: int, warm: bool = False, skipped_before: float = 0.0
    ) -> None:
        self.name = name
        self.pictures = pictures
        self.warm = warm
        self.skipped_before = skipped_before  # steps left out in the stages before
        self.progress = 0.0
        self.steps = 0  # since the stage's first row
        self._first_step: int | None = None
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, deque[float]] = {}
        self._lowest: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.progress = _number(row.get("stage_progress")) or 0.0
        step = int(_number(row.get("step")) or 0)
        if self._first_step is None:
            self._first_step = step
        self.steps = step - self._first_step
        for key, value in row.items():
            number = _number(value)
            if number is None:
                continue
            first = self._first.setdefault(key, [])
            if len(first) < _RECENT:
                first.append(number)
            self._last.setdefault(key, deque(maxlen=_LONG)).append(number)
            self._count[key] = self._count.get(key, 0) + 1
            if self._count[key] >= _RECENT:
                lowest = self._lowest.get(key, math.inf)
                self._lowest[key] = min(lowest, self.now(key))

    def count(self, key: str) -> int:
        """Rows that had the key."""
        return self._count.get(key, 0)

    def start(self, key: str) -> float:
        """The first value, nan where there is none."""
        return self._first[key][0] if key in self._first else math.nan

    def usual(self, key: str) -> float:
        """Median of the first rows, nan before there are that many."""
        first = self._first.get(key, [])
        return median(first) if len(first) == _RECENT else math.nan

    def now(self, key: str, rows: int = _RECENT) -> float:
        """Median of the last rows, nan before there are that many."""
        last = list(self._last.get(key, ()))[-rows:]
        return median(last) if len(last) == rows else math.nan

    def largest(self, key: str) -> float:
        """The largest size among the last rows, nan before there are enough of them."""
        last = list(self._last.get(key, ()))[-_RECENT:]
        return max(map(abs, last)) if len(last) == _RECENT else math.nan

    def lowest(self, key: str) -> float:
        """The lowest that `now` has been, nan before there are enough rows."""
        return self._lowest.get(key, math.nan)


def _rate(value: float) -> str:
    """A learning rate to one digit, without an exponent."""
    return plain(float(f"{value:.1g}"))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


# --- when each signal trips; every comparison is false for nan --------------------------------------

_LOSS = {"contrastive": "contrastive_loss", "flow": "flow_loss"}
_NORMS = ("grad_norm", "grad_norm_g", "grad_norm_d")
_UPDATES = ("update", "update_g", "update_d")


def _not_finite(stage: _Stage) -> bool:
    return stage.now("skipped", 1) - stage.skipped_before >= 3


def _large_steps(stage: _Stage) -> bool:
    return any(stage.now(key) > 0.04 for key in _UPDATES)


def _not_falling(stage: _Stage) -> bool:
    key = _LOSS[stage.name]
    if stage.progress < 0.3 or stage.steps < 50:
        return False
    limit = math.inf if stage.warm else 0.95 * stage.start(key)
    if stage.count("contrastive_chance"):
        # an untrained pair of encoders is worse than guessing, and is soon as good: that is no progress
        limit = min(limit, 0.98 * stage.now("contrastive_chance", 1))
    return stage.now(key) > limit


def _rising(stage: _Stage) -> bool:
    key = _LOSS[stage.name]
    if stage.count(key) < 2 * _RECENT or stage.steps < 50:
        return False
    return stage.now(key) > 1.3 * stage.lowest(key) + 0.1


def _near_chance(stage: _Stage) -> bool:
    chance = stage.now("retrieval_chance", 1)
    chance = 0.01 if math.isnan(chance) else chance
    late = stage.progress >= 0.5 and stage.steps >= 100
    return late and stage.now("retrieval", 1) < 2.5 * chance


def _learnt_by_heart(stage: _Stage) -> bool:
    """The share of the gap of Karras et al. 2020 (ADA, eq. 1), and of how much pictures differ at all."""
    gap, spread = stage.now("gap", _LONG), stage.now("d_spread", _LONG)
    known = stage.now("d_seen", _LONG) - stage.now("d_val", _LONG)
    late = stage.progress > 0.05 and stage.steps >= 100
    return late and gap > 0.1 and known > 0.6 * gap and known > spread


def _runs_away(stage: _Stage) -> bool:
    return stage.now("gap") > 8


def _sees_nothing(stage: _Stage) -> bool:
    # early on the gap swings around zero: only five in a row that are nothing say something
    return stage.steps >= 100 and stage.progress > 0.05 and stage.largest("gap") < 0.01


def _penalty_ratio(stage: _Stage) -> float:
    if stage.count("penalty_ratio"):
        return stage.now("penalty_ratio")
    return stage.now("penalty") / max(stage.now("d_loss"), 1e-6)


def _weak_penalty(stage: _Stage) -> bool:
    return stage.steps >= 10 and _penalty_ratio(stage) < 1e-4


def _strong_penalty(stage: _Stage) -> bool:
    return stage.steps >= 10 and _penalty_ratio(stage) > 10


def _ignores_text(stage: _Stage) -> bool:
    if stage.progress > 0.05 and stage.steps >= 50 and stage.largest("mismatch_gap") < 0.01:
        return True
    return stage.progress > 0.2 and stage.steps >= 200 and stage.now("mismatch_gap") < 0.02


def _one_picture(stage: _Stage) -> bool:
    # one step of a flow draws the mean, the same for every seed; the game has to have had time to mend that
    return stage.progress > 0.5 and stage.now("diversity", 2) < 0.05


def _copies(stage: _Stage) -> bool:
    return stage.now("nearest", 2) < 0.5


def _explodes(stage: _Stage) -> bool:
    return any(
        stage.count(key) >= 2 * _RECENT and stage.now(key) > 50 * max(stage.usual(key), 1e-3)
        for key in _NORMS
    )


def _vanishes(stage: _Stage) -> bool:
    return any(stage.now(key) < 1e-6 for key in _NORMS)


def _dead_features(stage: _Stage) -> bool:
    return stage.progress > 0.05 and stage.now("dead", 2) > 0.5


def _few_pictures(stage: _Stage) -> bool:
    return 0 < stage.pictures < 500


_GAN = ("gan",)

SIGNALS: tuple[Signal, ...] = (
    Signal(
        "few_pictures", (), "fewer than 500 training pictures",
        "There are few pictures, so they will be learnt by heart: add more (thousands are "
        "better){init}.",
        _few_pictures, holds=1,
    ),
    Signal(
        "not_finite", (), "3 steps or more of a stage were left out",
        "Several steps gave numbers that are not finite and were left out: start again "
        "with {lower_lr}{fp32}.",
        _not_finite, holds=1,
    ),
    Signal(
        "steps_too_large", (), "a step moves the median weight matrix by more than 4% of its norm",
        "Each step moves the weights so far that nothing can be learnt: the learning rate is far too "
        "high; start again with {tenth_lr}.",
        _large_steps, holds=1,  # weights that have been blown up soon move less again
    ),
    Signal(
        "loss_not_falling", ("contrastive", "flow"),
        "after 30% and 50 steps of the stage the loss is above 98% of chance, or without --init 95% of its first value",
        "The loss does not fall: the captions say nothing about their pictures (look at some of "
        "them), or the learning rate is too high; start again with {lower_lr}.",
        _not_falling,
    ),
    Signal(
        "loss_rising", ("contrastive", "flow"),
        "the loss is above 1.3 times its lowest, plus 0.1",
        "The loss rises again: the learning rate is too high; start again with {lower_lr}.",
        _rising,
    ),
    Signal(
        "retrieval_near_chance", ("contrastive",),
        "after half of the stage and 100 steps, R@1 on held-out pictures is below 2.5 times chance",
        "Held-out pictures cannot be told by their captions: look whether captions belong to their "
        "pictures (t2i check){contrastive}.",
        _near_chance,
    ),
    Signal(
        "learnt_by_heart", _GAN,
        "after 5% and 100 steps of the stage, over 20 reports, d_seen - d_val is above 0.6 of the gap and above "
        "d_spread, for 20 reports: to D, held-out pictures are nearer to generated ones than to those it trained on",
        "The discriminator learns the training pictures by heart: add pictures, raise augment or "
        "gamma, or stop here and keep best.safetensors.",
        _learnt_by_heart, holds=20,
    ),
    Signal(
        "discriminator_runs_away", _GAN, "the gap between real and generated logits is above 8",
        "The discriminator runs away from the generator: raise gamma (3 times), or start "
        "again with {lower_lr}.",
        _runs_away,
    ),
    Signal(
        "discriminator_sees_nothing", _GAN,
        "after 5% and 100 steps of the stage, the last five gaps are all within 0.01 of zero",
        "The discriminator cannot tell real from generated pictures, so nothing is learnt: lower "
        "gamma (to a third), or train longer.",
        _sees_nothing,
    ),
    Signal(
        "penalty_too_weak", _GAN, "the penalty is below 0.0001 of the discriminator's loss",
        "The gradient penalty does next to nothing, so training can blow up: raise gamma (0 takes "
        "the default of the resolution).",
        _weak_penalty,
    ),
    Signal(
        "penalty_too_strong", _GAN, "the penalty is above 10 times the discriminator's loss",
        "The gradient penalty drowns the discriminator's loss: lower gamma (to a third).",
        _strong_penalty,
    ),
    Signal(
        "text_ignored", _GAN,
        "D(x, t) - D(x, t') is five times within 0.01 of zero after 5% and 50 steps of the stage, "
        "or below 0.02 after 20% and 200 steps",
        "The discriminator does not look at the text, so pictures will not follow their prompts: "
        "raise mismatch_weight, or look at the captions{contrastive}.",
        _ignores_text,
    ),
    Signal(
        "one_picture_per_prompt", _GAN,
        "after half of the stage, pictures of one prompt differ less than 0.05 of what prompts differ",
        "Every seed gives nearly the same picture: lower alignment_weight{flow}.",
        _one_picture,
    ),
    Signal(
        "copies", ("flow", "gan"),
        "pictures are less than half as far from the nearest training picture as held-out ones are",
        "Pictures are near copies of training pictures: add pictures, raise augment, or train for "
        "less long.",
        _copies,
    ),
    Signal(
        "gradients_explode", (), "a gradient norm is above 50 times its first rows of the stage",
        "Gradients explode: start again with {lower_lr}, or raise gamma.",
        _explodes,
    ),
    Signal(
        "gradients_vanish", (), "a gradient norm is below 0.000001",
        "A network gets no gradient any more and has stopped learning: start again from the last "
        "good checkpoint, with {lower_lr}.",
        _vanishes,
    ),
    Signal(
        "dead_features", (), "after 5% of the stage, over half of the features never change",
        "Most features of a network are dead: start again with {lower_lr}.",
        _dead_features,
    ),
)  # fmt: skip
