"""The section of the segmentation network."""

import dataclasses
from typing import Any

import flax.linen as nn

from uda_jax import networks
from uda_jax.schema import config_field
from uda_jax.training.precision import compute_dtype


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Section: the segmentation network and how its images are normalised. None = the network's own default."""

    name: str = config_field("deeplab_v2_resnet101", "Name for networks.build.")
    input_norm: str = config_field(
        "caffe_bgr", "Normalisation of images, for ops.normalise.", choices=("caffe_bgr", "imagenet_rgb", "tanh")
    )
    multi_level: bool | None = config_field(None, "Second head on the stage before the last.")
    aspp_branches: int | None = config_field(None, "Dilated branches that are summed in a head.", choices=(2, 4, None))
    bn_mode: str | None = config_field(None, "Batch norm while training.", choices=("batch", "frozen", None))
    head_init: str | None = config_field(None, "Initialisation of the heads: normal, he or uniform.")
    encoder_init: str | None = config_field(None, "Initialisation of the encoder: normal, he or uniform.")
    encoder_style: str | None = config_field(
        None, "Structure of the ResNet: that of the papers' weights (caffe) or torchvision's."
    )
    aspp_bias: bool | None = config_field(None, "Whether the heads' convolutions have a bias.")
    width: int | None = config_field(None, "Channels of the stem.", low=1)
    output_stride: int | None = config_field(None, "Image pixels per pixel of the maps.", choices=(4, 8, None))
    initial_head: str | None = config_field(
        None,
        "What predicts first in CorDA's networks: aspp (GTA5) or linear (SYNTHIA).",
        choices=("aspp", "linear", None),
    )
    remat: bool | None = config_field(None, "Recompute activations in the backward pass to save memory.")

    def build(self, num_classes: int, precision: str, **decided: Any) -> nn.Module:
        """Returns the Flax module; `decided` are options that the method decides rather than this section."""
        options = self._given() | decided
        return networks.build(self.name, num_classes, dtype=compute_dtype(precision), **options)

    @property
    def options(self) -> Any:
        """The network's options, with its own defaults where this section leaves them."""
        return networks.resolve(self.name, **self._given())

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that no optimiser may touch: the branches that two-branch heads leave unused."""
        return (r"head/branch_[23]/",) if getattr(self.options, "aspp_branches", None) == 2 else ()

    def _given(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self).items()
        return {name: value for name, value in fields if name not in ("name", "input_norm") and value is not None}
