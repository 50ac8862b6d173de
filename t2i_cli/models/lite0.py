"""Pictures -> features that ImageNet taught: EfficientNet-Lite0, frozen, with batch norm folded in.

The network of Tan & Le 2019 (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as TensorFlow
publishes it. It is used to measure pictures, and as a perceptual loss; gradients reach the pictures, never
the weights. `examples/lite0/convert.py` makes its file, `checkpoint.load_lite0` reads it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FEATURE_DIM", "MAP_CHANNELS", "Lite0"]

FEATURE_DIM = 1280
MAP_CHANNELS = (16, 24, 40, 112, 320)  # of the maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side
_STEM = 32
# blocks, kernel, stride of the first block, expansion, channels out (the paper's table 1, stages 2 to 8)
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
_MAP_STAGES = (0, 1, 2, 4, 6)  # the last stage of each resolution


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, 3.4 million parameters that take no gradient.

    Args:
        size: px, the side to which pictures are resized (bilinear); ImageNet's is 224.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        self.size = size
        self.stem = _SameConv(3, _STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        self._map_blocks: list[int] = []
        narrow = _STEM
        for stage, (count, kernel, stride, expansion, wide) in enumerate(_STAGES):
            for i in range(count):
                blocks.append(_Block(narrow, wide, kernel, 1 if i else stride, expansion))
                narrow = wide
            if stage in _MAP_STAGES:
                self._map_blocks.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.head = _SameConv(narrow, FEATURE_DIM, 1)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Five maps, coarser and more abstract each.

        Args:
            images: RGB in [-1, 1], (b, 3, h, w), any float dtype.

        Returns:
            (b, c, size / s, size / s), rounded up, for c of `MAP_CHANNELS` and s of 2, 4, 8, 16, 32; in the
            parameters' dtype.
        """
        x = F.relu6(self.stem(self._inputs(images)))
        maps: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._map_blocks:
                maps.append(x)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Images as for `feature_maps` -> pooled features, float32 (b, 1280), 0 to 6."""
        return F.relu6(self.head(self.feature_maps(images)[-1])).float().mean(dim=(2, 3))

    def _inputs(self, images: Tensor) -> Tensor:
        """[-1, 1] at any size -> what the network was trained on: (pixel - 127) / 128 at its size."""
        side = (self.size, self.size)
        if images.shape[-2:] != side:
            smaller = min(images.shape[-2:]) > self.size
            images = F.interpolate(
                images, side, mode="bilinear", antialias=smaller, align_corners=False
            )
        images = images * (127.5 / 128) + 0.5 / 128
        return images.to(self.stem.weight.dtype, memory_format=torch.channels_last)


class _Block(nn.Module):
    """Expand, filter each channel, project; the inverted residual of Sandler et al. 2018, figure 3b."""

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = narrow * expansion
        self.expand = _SameConv(narrow, inner, 1) if expansion > 1 else None
        self.depthwise = _SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _SameConv(inner, wide, 1)
        self.residual = stride == 1 and narrow == wide

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: what is odd of the padding goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(input, self.weight, self.bias, 1, kernel // 2, groups=self.groups)
        # pad = (ceil(n / stride) - 1) stride + kernel - n
        down, right = (
            max(-(-n // stride) * stride - stride + kernel - n, 0) for n in input.shape[-2:]
        )
        x = F.pad(input, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, stride, groups=self.groups)
