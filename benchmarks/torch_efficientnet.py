"""EfficientNet-Lite0 as a PyTorch module, to compare the library's with.

Names are those of the published file, maps are `[B, C, H, W]`. Padding is TensorFlow's
"same": as much as the windows need, the odd pixel at the end.
"""

from torch import nn
from torch.nn import functional

# Blocks, channels, kernel and stride by stage.
STAGES = ((1, 16, 3, 1), (2, 24, 3, 2), (2, 40, 5, 2), (3, 80, 3, 2), (3, 112, 5, 1), (4, 192, 5, 2), (1, 320, 3, 1))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class SameConv(nn.Conv2d):
    """A convolution without bias whose result has ceil(side / stride) rows and columns."""

    def forward(self, x):
        (size, _), (stride, _) = self.kernel_size, self.stride
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


class Block(nn.Module):
    """An inverted bottleneck."""

    def __init__(self, into: int, out: int, size: int, stride: int, expansion: int):
        super().__init__()
        wide = into * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(into, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv(wide, wide, size, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = _norm(out)

    def forward(self, x):
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """The classifier; its forward gives the maps at the ends of stem and stages, and the scores of the classes."""

    def __init__(self):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, into, self.ends = [], 32, []
        for stage, (count, out, size, stride) in enumerate(STAGES):
            for block in range(count):
                blocks.append(Block(into, out, size, stride if block == 0 else 1, 6 if stage else 1))
                into = out
            self.ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        maps = {"stem": (x := functional.relu6(self._bn0(self._conv_stem(x))))}
        for i, block in enumerate(self._blocks, 1):
            x = block(x)
            if i in self.ends:
                maps[f"stage{self.ends.index(i) + 1}"] = x
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return maps | {"scores": self._fc(x.mean((2, 3)))}
