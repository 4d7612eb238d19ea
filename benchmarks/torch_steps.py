"""One whole training iteration of each method, written plainly in PyTorch, to time the library's steps against.

    step = TorchStep("advent", batch, 19, device="cuda", precision="tf32")
    losses = step()

The work is that of the method's packaged setting of its benchmark (gta5_cityscapes; DADA and GIO-Ada
synthia_cityscapes, ADDA and CyCADA digits:mnist_usps): the same networks, weights of losses, batch statistics,
optimisers and repeated updates, on whatever batch there is. PLCA updates after every batch, and takes its means over
the whole of it. As careful PyTorch code does, each domain has a backward of its own, so that activations of one domain
alone are held at a time; PLCA's loss reads both domains at once.

Written for these benchmarks, from the papers' equations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import torch_alignment, torch_self_training, torch_translation
from benchmarks.torch_workbench import Workbench

METHODS = {**torch_alignment.METHODS, **torch_self_training.METHODS, **torch_translation.METHODS}


class TorchStep:
    """A method with its networks and optimisers on one batch, which stays on the device.

    Attributes:
      networks: name to module, of all networks that learn; a method with a teacher has `teacher`, too.
      parameters: number of parameters of `networks`, those that are held constant included.

    Args:
      method: one of `METHODS`.
      batch: domain to maps in the library's layout: "image" `[B, H, W, 3]` in 0 to 255, "label" `[B, H, W]`, and for
        methods that read depth "depth" in metres or "disparity" `[B, H, W]`.
      classes: of the segmenter.
      device: a PyTorch device or its name.
      precision: "fp32", "tf32" or "bf16" (autocast of the networks). The switches of TF32 are those of the whole
        process, so that steps of different precisions need processes of their own.
      channels_last: whether maps and weights lie in memory as `[B, H, W, C]`.
      compiled: whether torch.compile gets, per domain, the forward of the networks with its losses (their backward
        with it), the teacher's labelling, and the discriminators' forward with their losses. Mixing, augmentation,
        optimisers and the teacher's average stay as they are.
      network_options: of the segmenter, such as {"name": "deeplab_v2_resnet14", "width": 4}; those of others begin with
        their names, as in {"pixel_discriminator.width": 16}.

    Raises:
      ValueError: an unknown method or precision.
      KeyError: a domain or map that the method reads is not in the batch.
    """

    def __init__(
        self,
        method: str,
        batch: Mapping[str, Mapping[str, np.ndarray]],
        classes: int,
        *,
        device: Any = "cpu",
        precision: str = "fp32",
        channels_last: bool = False,
        compiled: bool = False,
        network_options: Mapping[str, Any] | None = None,
    ):
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        bench = Workbench(batch, classes, device, precision, channels_last, compiled, network_options or {})
        torch.manual_seed(0)
        self.device, self.iteration = bench.device, 0
        self.method = METHODS[method](bench)
        self.networks, self.teacher = self.method.networks, getattr(self.method, "teacher", None)
        self.parameters = sum(p.numel() for network in self.networks.values() for p in network.parameters())

    def __call__(self) -> dict[str, torch.Tensor]:
        """Runs one iteration and returns its weighted losses by name, which may still be on their way."""
        losses = self.method.iterate(self.iteration)
        self.iteration += 1
        if self.iteration == 1 and self.device.type == "cuda":
            # cuDNN has tried its algorithms, some of which take memory that is never needed again.
            torch.cuda.reset_peak_memory_stats(self.device)
        return losses

    def synchronise(self) -> None:
        """Waits until the device has done all work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_bytes(self) -> int | None:
        """Returns the most bytes of tensors on a GPU since the first iteration; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
