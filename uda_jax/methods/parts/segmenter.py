"""The section of the segmentation network."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from uda_jax import networks, ops
from uda_jax.errors import UserError
from uda_jax.networks.batch_norm import BatchNorm
from uda_jax.ops.normalise import CONVENTIONS
from uda_jax.schema import Named, config_field
from uda_jax.training.precision import compute_dtype

# The network's name in the state, which begins the paths of its parameters.
_NAME = "segmenter"


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

    freeze: tuple[str, ...] = config_field(
        (),
        "Parts that do not learn: regular expressions, searched in paths such as segmenter/encoder/conv1/kernel, as in "
        "'encoder/(conv1|bn1|layer1)'. Their batch norms still normalise with, and follow, the batches.",
    )
    freeze_statistics: bool = config_field(
        False,
        "Whether batch norms of which freeze holds a parameter normalise with their running statistics in training, "
        "too, and leave these as they are.",
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

    def check(self, path: str) -> None:
        """Raises a UserError for a pattern that is no regular expression, or statistics of parts that there are not."""
        for i, pattern in enumerate(self.freeze):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"{path}.freeze[{i}]: expected a regular expression, got {pattern!r}: {error}"
                ) from error
        if self.freeze_statistics and not self.freeze:
            raise UserError(
                f"{path}.freeze_statistics: has no effect without freeze; name the parts there, or leave it"
            )

    def check_frozen(self, params: Any) -> None:
        """Raises a UserError for a pattern that no parameter of the network matches; their shapes will do."""
        leaves = jax.tree.leaves_with_path({_NAME: params})
        paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        for pattern in self.freeze:
            if not any(re.search(pattern, path) for path in paths):
                raise UserError(
                    f"config.method.segmenter.freeze: no parameter of {self.name} matches {pattern!r}; they are such "
                    f"as {paths[0]} and {paths[-1]}"
                )

    @contextlib.contextmanager
    def statistics_kept(self) -> Iterator[None]:
        """Has the batch norms that `freeze_statistics` is about normalise as in evaluation, within the block."""
        if not self.freeze_statistics:
            yield
            return

        def called(function: Callable, arguments: tuple, options: dict[str, Any], context: Any) -> Any:
            if isinstance(context.module, BatchNorm) and self._keeps_statistics(context.module.path):
                return function(arguments[0], train=False)
            return function(*arguments, **options)

        with nn.intercept_methods(called):
            yield

    def _keeps_statistics(self, module: Sequence[str]) -> bool:
        names = ["/".join((_NAME, *module, parameter)) for parameter in ("scale", "bias")]
        return any(re.search(pattern, name) for pattern in self.freeze for name in names)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that no optimiser may touch: what the network does not use, and what is to stay."""
        return (*self.options.unused, *(f"^(?={_NAME}/).*?(?:{pattern})" for pattern in self.freeze))

    @property
    def layer_depth(self) -> Callable[[str], int]:
        """The network's order of depth, for layer-wise decay: from a parameter's path to its layer."""
        return networks.layer_depth(self.name)

    def _options(self) -> dict[str, Any]:
        shared = {field.name for field in dataclasses.fields(Segmenter)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in shared}
