"""What a stage is: `prepare`, `step`, `state_dict`, `load_state_dict`, `report`. One stage a file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from t2i_cli.config import TrainConfig
from t2i_cli.models import Networks
from t2i_cli.references import ReferenceStore
from t2i_cli.training.batches import Batches, seed_for
from t2i_cli.training.ema import ema_decay, ema_update
from t2i_cli.training.events import Event
from t2i_cli.training.step import StepResult

__all__ = ["Material", "Stage"]

MEASURE_EVERY = 4  # steps between two looks at how far a step moves the weights


@dataclass
class Material:
    """What a run gives to its stages."""

    config: TrainConfig
    networks: Networks  # on the device
    batches: Batches  # of the training pictures
    digest: str  # of the data and of which of it is trained on
    device: torch.device
    cache: Path  # folder for what is computed once
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    references: ReferenceStore | None = None  # of the training pictures, once they are encoded
    warm: bool = False  # whether the networks come of a trained model

    @property
    def reads_as_trained(self) -> bool:
        """Whether texts are read as the trained model reads them, so that its generator is told what it knows."""
        return self.warm and not self.config.contrastive


class Stage(ABC):
    """A part of training with networks, optimizers and a step of its own.

    Args:
        material: of the run.
    """

    name = ""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.config, self.networks = material.config, material.networks
        self.device = material.device
        self.images = 0  # that the stage has learned from
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.averages: dict[str, nn.Module] = {}  # network's name -> its running average
        self.helpers: dict[str, nn.Module] = {}  # networks that only this stage has

    @property
    def batch_size(self) -> int:
        """Pictures a step, over all processes."""
        return self.config.batch_size

    def prepare(self) -> Iterator[Event]:
        """What is done before the first step, also after a resume; nothing that is learned."""
        yield from ()

    def rehearse(self) -> Callable[[int], object]:
        """A function that makes steps of the usual cost, to be timed; what it changes is thrown away."""
        return lambda turn: self.step(turn, 0.5)

    @abstractmethod
    def step(self, position: int, progress: float) -> StepResult:
        """One step.

        Args:
            position: number of the step, which fixes its pictures and its noise.
            progress: of the stage, 0 to 1, for the schedules.
        """

    def report(self, held_out: np.ndarray) -> dict[str, float]:
        """Figures for a row of the log that take time to compute; none by default.

        Args:
            held_out: int64 (m,), pictures that nothing was learned from.
        """
        return {}

    def random(self, position: int) -> torch.Generator:
        """The random numbers of a step."""
        seed = seed_for(self.config.seed, self.name, "noise", position)
        return torch.Generator(self.device).manual_seed(seed)

    def finish(self) -> None:
        """Let the networks go on as their averages."""
        for name, average in self.averages.items():
            getattr(self.networks, name).load_state_dict(average.state_dict())

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The networks to save and to draw with: averaged where there is an average."""
        return {
            name: dict(self.averages.get(name, network).state_dict())
            for name, network in self.networks.named_children()
        }

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything that the stage changes, by group."""
        groups: dict[str, dict[str, Tensor]] = {"networks": dict(self.networks.state_dict())}
        groups[f"stage-{self.name}"] = {"images": torch.tensor([self.images])}
        for kind, modules in (("average", self.averages), ("helper", self.helpers)):
            for name, module in modules.items():
                groups[f"{kind}-{name}"] = dict(module.state_dict())
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()["state"]
            groups[f"optimizer-{name}"] = {
                f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()
            }
        return groups

    def load_state_dict(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """The inverse of `state_dict`.

        Raises:
            KeyError, RuntimeError: the state is another stage's, or of other networks.
        """
        self.images = int(groups[f"stage-{self.name}"]["images"])
        self.networks.load_state_dict(groups["networks"])
        for kind, modules in (("average", self.averages), ("helper", self.helpers)):
            for name, module in modules.items():
                module.load_state_dict(groups[f"{kind}-{name}"])
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in groups.get(f"optimizer-{name}", {}).items():
                index, field_name = key.split(".", 1)
                state.setdefault(int(index), {})[field_name] = value
            groups_now = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups_now})

    def averaged(self, rows: int, half_life: float, share: float) -> None:
        """Count a step's pictures and move the averages."""
        self.images += rows
        decay = ema_decay(rows, self.images, half_life, share)
        for name, average in self.averages.items():
            ema_update(average, getattr(self.networks, name), decay)
