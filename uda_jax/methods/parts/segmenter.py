"""The section of the segmentation network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from uda_jax import networks, ops
from uda_jax.ops.normalise import CONVENTIONS
from uda_jax.schema import Named, config_field
from uda_jax.training.precision import compute_dtype


@dataclasses.dataclass(frozen=True)
class Segmenter(Named):
    """Section: the segmentation network, how its images are normalised and its maps interpolated.

    The other fields are the named network's own options, as its file in networks/ declares them.
    """

    name: str = config_field("deeplab_v2_resnet101", "Name of the network, for networks.build.")
    input_norm: str = config_field("caffe_bgr", "Normalisation of images, for ops.normalise.", choices=CONVENTIONS)
    align_corners: bool = config_field(
        True, "Whether interpolation of the network's maps lays the centres of the corner pixels onto each other."
    )

    # What methods ask of any network: only those with the option can have a second head on an earlier stage.
    multi_level = False

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the names of all networks."""
        return networks.names()

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns a network's options and their defaults."""
        entry = networks.find(name)
        return entry.options, entry.defaults

    def build(self, num_classes: int, precision: str, **decided: Any) -> nn.Module:
        """Returns the Flax module; `decided` are options that the method decides rather than this section."""
        options = self._options() | decided
        return networks.build(self.name, num_classes, dtype=compute_dtype(precision), **options)

    def upsample(self, maps: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Returns the network's maps `[B, h, w, C]` interpolated to `[B, *size, C]`."""
        return ops.resize_bilinear(maps, size, align_corners=self.align_corners)

    @property
    def options(self) -> networks.Options:
        """The network's options as its own dataclass."""
        return networks.resolve(self.name, **self._options())

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that no optimiser may touch, since the network does not use them."""
        return self.options.unused

    @property
    def depth(self) -> Callable[[str], int]:
        """The network's order of depth, for layer-wise decay: from a parameter's path to its layer."""
        return networks.layer_depth(self.name)

    def _options(self) -> dict[str, Any]:
        shared = {field.name for field in dataclasses.fields(Segmenter)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in shared}
