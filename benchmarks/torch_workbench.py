"""Where and how a step of `benchmarks.torch_steps` runs: its batch, device, precision, layout and compilation."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import torch_losses, torch_networks, torch_updates

PRECISIONS = ("fp32", "tf32", "bf16")
CAFFE_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


class Workbench:
    """The batch on the device, and networks that fit it.

    Attributes:
      batch: domain to maps: "image" `[B, 3, H, W]` in 0 to 255, "label" int64 `[B, H, W]`, "depth" and "disparity"
        `[B, 1, H, W]`.
      classes, device: as given.

    Args:
      batch: domain to maps in the library's layout.
      classes: labels outside [0, classes) become 255.
      device: a PyTorch device or its name.
      precision: "fp32", "tf32" or "bf16". The switches of TF32 are the whole process's.
      channels_last: layout of maps and weights in memory.
      compiled: whether functions are compiled.
      options: of networks, see `TorchStep`.
    """

    def __init__(
        self,
        batch: Mapping[str, Mapping[str, np.ndarray]],
        classes: int,
        device: Any,
        precision: str,
        channels_last: bool,
        compiled: bool,
        options: Mapping[str, Any],
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.classes, self.device, self.options = classes, torch.device(device), dict(options)
        self._bf16, self._compiled = precision == "bf16", compiled
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        # Sizes are fixed, so that the fastest kernels need to be looked for only once.
        torch.backends.cudnn.benchmark = True
        self._mean = torch.tensor(CAFFE_MEAN_BGR, device=self.device)[:, None, None]
        self.batch = {
            domain: {name: self._placed(name, array) for name, array in maps.items() if name in _PLACED}
            for domain, maps in batch.items()
        }

    def _placed(self, name: str, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array))
        if name == "label":
            labels = tensor.to(self.device, torch.int64)
            return torch.where((labels >= 0) & (labels < self.classes), labels, torch_losses.IGNORED)
        tensor = tensor.to(self.device, torch.float32)
        if name == "image":
            return tensor.permute(0, 3, 1, 2).contiguous(memory_format=self._layout)
        return tensor[:, None]

    def segmenter(self, name: str, *, frozen_norms: bool = True, **shape: Any) -> nn.Module:
        """Returns a segmenter, `name` unless the options name another, in training mode.

        Args:
          name: for `torch_networks.build`.
          frozen_norms: whether scale and shift of the encoder's batch norms stay as they are.
          **shape: options of the network, under those that were asked for.
        """
        own = {option: value for option, value in self.options.items() if "." not in option}
        name = own.pop("name", name)
        module = self._build(name, shape.pop("channels", 3), {**shape, **own})
        if frozen_norms:
            torch_updates.freeze_norms(module)
        return module

    def network(self, name: str, channels: int, **shape: Any) -> nn.Module:
        """Returns another network, of so many input channels, in training mode."""
        prefix = f"{name}."
        own = {
            option.removeprefix(prefix): value for option, value in self.options.items() if option.startswith(prefix)
        }
        return self._build(name, channels, {**shape, **own})

    def _build(self, name: str, channels: int, shape: Mapping[str, Any]) -> nn.Module:
        module = torch_networks.build(name, self.classes, channels, **shape)
        return module.to(self.device, memory_format=self._layout).train()

    def run(self, module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns a network's outputs, float32 whatever it computes in."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            outputs = module(x)
        return {name: output.float() for name, output in outputs.items()}

    def segment(self, module: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the outputs of a network with Caffe's normalisation on images of 0 to 255."""
        return self.run(module, images.flip(1) - self._mean)

    def decide(self, discriminator: nn.Module, maps: torch.Tensor) -> torch.Tensor:
        """Returns a discriminator's decisions."""
        return self.run(discriminator, maps)["map"]

    def compile(self, function: Callable) -> Callable:
        """Returns the function, compiled for its fixed sizes if that was asked for."""
        return torch.compile(function, dynamic=False) if self._compiled else function


_PLACED = ("image", "label", "depth", "disparity")
