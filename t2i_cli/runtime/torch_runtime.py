"""The networks themselves, computed by torch in float32 on any device, in one fixed batch shape a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t2i_cli.checkpoint import empty_references, load_model
from t2i_cli.errors import UsageError
from t2i_cli.runtime.base import MAX_BATCH, Read, Runtime
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.words import Words

if TYPE_CHECKING:
    import torch

    from t2i_cli.models import Networks, ReadReferences
    from t2i_cli.references import ReferenceStore

__all__ = ["TorchRuntime"]


class TorchRuntime(Runtime):
    """Networks on a torch device.

    Args:
        networks: on the device, without gradients.
        tokenizer: of the prompts.
        words: as `sample.Model` reads prompts.
        store: of references.
        device: where the networks are.
        title: what the model is called.
        weights_hash: of its file.
    """

    def __init__(
        self,
        networks: Networks,
        tokenizer: Tokenizer,
        words: Words,
        store: ReferenceStore,
        device: torch.device,
        title: str = "",
        weights_hash: str = "",
    ) -> None:
        super().__init__(networks.config, tokenizer, words, store, title, weights_hash)
        self.networks = networks
        self.device = device
        self.name = f"torch-{device.type}"
        self.batch = 1 if device.type == "cpu" else MAX_BATCH

    @classmethod
    def of_training(
        cls,
        networks: Networks,
        tokenizer: Tokenizer,
        words: Words,
        store: ReferenceStore | None,
        device: torch.device,
        batch: int,
    ) -> TorchRuntime:
        """Networks that are being trained, in their own dtype and in batches: for a look, not for the same bytes."""
        found = store if store is not None else empty_references(networks.config)
        runtime = cls(networks, tokenizer, words, found, device)
        runtime.batch = batch
        return runtime

    @classmethod
    def open(cls, model: Path, device: str) -> TorchRuntime:
        """The model of a weights file.

        Args:
            model: the file.
            device: cpu, cuda, cuda:N or mps.

        Raises:
            WeightsError: the file is missing, broken or not one of ours.
            UsageError: this machine has no such device.
        """
        import torch

        if device.startswith("cuda"):
            if not torch.cuda.is_available():
                raise UsageError(
                    f"--device {device}: torch finds no CUDA device here", "use --device cpu"
                )
            if ":" in device and int(device[5:]) >= torch.cuda.device_count():
                raise UsageError(
                    f"--device {device}: there are only {torch.cuda.device_count()} CUDA devices"
                )
        if device == "mps" and not torch.backends.mps.is_available():
            raise UsageError("--device mps: torch finds no Metal device here", "use --device cpu")
        if device.startswith("cuda"):
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        loaded = load_model(model, device)
        tokenizer, words = Tokenizer(loaded.tokenizer), Words.from_bytes(loaded.words)
        title = loaded.info.title or model.stem
        where = torch.device(device)
        found = cls(
            loaded.networks, tokenizer, words, loaded.references, where, title, loaded.info.hash
        )
        found.stage = loaded.info.metadata.get("t2i.stage", "")
        return found

    def _encode(
        self, tokens: np.ndarray, mask: np.ndarray, attributes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import torch
        import torch.nn.functional as F

        generator = self.networks.generator
        rows: list[tuple[np.ndarray, ...]] = []
        with torch.inference_mode():
            for row in range(len(tokens)):  # one by one: no bit hangs on the others
                some = slice(row, row + 1)
                told = self._tensor(tokens[some])
                text = self.networks.text_encoder(told, self._tensor(mask[some]))
                query = F.normalize(generator.whitened(text.text_features), dim=1)
                condition = generator.condition(text, told, self._tensor(attributes[some]))
                values = (text.text_features, query, condition)
                rows.append(tuple(value.float().cpu().numpy() for value in values))
        features, query, condition = (np.concatenate(column) for column in zip(*rows, strict=True))
        return features, query, condition

    def _null_condition(self, attributes: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found = self.networks.generator.null_condition(self._tensor(attributes))
        return found.float().cpu().numpy()

    def _read(self, latents: np.ndarray, attributes: np.ndarray) -> Read:
        import torch

        with torch.inference_mode():
            read = self.networks.generator.read(self._filled(latents), self._filled(attributes))
        parts = (read.fine, read.coarse, read.mean)
        return Read(*(part[: len(latents)].float().cpu().numpy() for part in parts))

    def _velocity(
        self, latents: np.ndarray, level: np.ndarray, condition: np.ndarray, read: Read
    ) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found = self.networks.generator(
                self._filled(latents),
                self._filled(level),
                self._filled(condition),
                self._as_read(read),
            )
        return found[: len(latents)].float().cpu().numpy()

    def _as_read(self, read: Read) -> ReadReferences:
        from t2i_cli.models import ReadReferences

        return ReadReferences(*map(self._filled, (read.fine, read.coarse, read.mean)))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents, float32 (b, c, n, n) -> images, float32 (b, 4, r, r)."""
        import torch

        with torch.inference_mode():
            images = self.networks.decoder(self._filled(latents))
        return images[: len(latents)].float().cpu().numpy()

    def latents(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, 4, r, r) -> latents, float32 (b, c, n, n); one by one."""
        return self._one_by_one(self.networks.encoder, images)

    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, 4, r, r) -> float32 (b, d), unit norm; one by one."""
        return self._one_by_one(self.networks.image_encoder, images)

    def _one_by_one(self, network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            rows = [
                network(self._tensor(images[row : row + 1])).float().cpu().numpy()
                for row in range(len(images))
            ]
        return np.concatenate(rows)

    def _filled(self, values: np.ndarray) -> torch.Tensor:
        """Rows as a full batch, which a batch that is not full becomes by repeating its first row."""
        count = len(values)
        return self._tensor(values[[*range(count), *[0] * (self.batch - count)]])

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
