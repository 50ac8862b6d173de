"""The stages of training, in their order; each is a file, and `base.Stage` says what it has to offer."""

from __future__ import annotations

from t2i_cli.training.stages.autoencoder import Autoencoder
from t2i_cli.training.stages.base import Material, Stage
from t2i_cli.training.stages.contrastive import Contrastive
from t2i_cli.training.stages.flow import Flow
from t2i_cli.training.stages.gan import Gan

__all__ = ["STAGES", "Material", "Stage"]

STAGES: dict[str, type[Stage]] = {one.name: one for one in (Contrastive, Autoencoder, Flow, Gan)}
