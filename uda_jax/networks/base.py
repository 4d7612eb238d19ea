"""What a file of networks declares, and what all networks' options share."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks.convolution import COMPUTE_DTYPES, FLOAT32
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of every network's options, each a `config_field`."""

    dtype: Any = config_field(
        FLOAT32,
        "Type of the computation; parameters, statistics and outputs stay float32.",
        choices=COMPUTE_DTYPES,
        decided=True,
    )

    @property
    def unused(self) -> tuple[str, ...]:
        """Patterns of the parameters that the network has and does not use: no optimiser may touch them."""
        return ()

    def learns(self, path: str) -> bool:
        """Whether a parameter, by its path such as "encoder/conv1/kernel", may learn; the others are kept once."""
        del path
        return True


# What an encoder's field `remat` may hold; runs of earlier versions have False or True, for none or all.
Remat = tuple[str | bool, ...] | str | bool
_ALL = "all"


def remat_field(stages: Sequence[str]) -> Any:
    """Declares which of an encoder's stages recompute their activations; an unknown one is refused by its name.

    Args:
      stages: the names of all of them, as the encoder's maps have them.
    """
    return config_field(
        (),
        "Stages of the encoder that recompute their activations in the backward pass to save memory, such as "
        f"('{stages[-2]}', '{stages[-1]}'), or 'all'; the results are the same.",
        choices=(_ALL, *stages, True, False),
    )


def rematted(remat: Remat, stages: Sequence[str]) -> tuple[str, ...]:
    """Returns the stages, of all of an encoder's, that a field declared by `remat_field` names."""
    named = remat if isinstance(remat, (tuple, list)) else (remat,)
    return tuple(stage for stage in stages if any(name in named for name in (stage, _ALL, True)))


class Entry(NamedTuple):
    """One network that a file offers, in its table NETWORKS or, for an encoder, ENCODERS.

    Attributes:
      make: a function of the number of classes and the options that returns the module; an encoder's takes the options
        alone.
      options: the class of its options, a subclass of `Options`.
      defaults: defaults that differ from those of the class.
      layers: patterns of parameter paths from the stem on, in the order of depth; see `depth_of`.
    """

    make: Callable[..., nn.Module]
    options: type[Options]
    defaults: Mapping[str, Any] = {}
    layers: Sequence[str] = ()


class Trunk(NamedTuple):
    """What the heads of a segmenter stand on: an encoder, and a neck where its maps of several sizes are joined.

    Attributes:
      encoder: function of the options that returns the encoder.
      last: name of the encoder's map that the heads read if there is no neck.
      earlier: name of the map that the second head of a network of two levels reads.
      width: function of the options that returns the unit in which a network counts the channels of further branches.
      neck: function of the options that returns the module from the encoder's maps to the one that the heads read.
    """

    encoder: Callable[[Any], nn.Module]
    last: str
    earlier: str
    width: Callable[[Any], int]
    neck: Callable[[Any], nn.Module] | None = None

    def set_up(self, segmenter: nn.Module) -> None:
        """Names the parts `encoder` and, if there is one, `neck` in a segmenter's `setup`."""
        segmenter.encoder = self.encoder(segmenter.options)
        if self.neck:
            segmenter.neck = self.neck(segmenter.options)

    def features(self, segmenter: nn.Module, maps: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """Returns the map `[B, h, w, D]` that a segmenter's heads read, of its encoder's maps."""
        return segmenter.neck(maps, train) if self.neck else maps[self.last]


def patterns(layers: Sequence[str], within: str = "") -> tuple[str, ...]:
    """Returns `Entry.layers` from the starts of the modules' names, such as "layer1_", inside the module `within`."""
    return tuple(f"(^|/){within}({layer})" for layer in layers)


def depth_of(layers: Sequence[str], path: str) -> int:
    """Returns the index of the pattern that a parameter's path contains, the first for the stem.

    Of several, the one that matches furthest out decides: a block's "conv1" is no stem. What none matches, such as a
    head, is deepest.
    """
    matches = [(match.start(), depth) for depth, layer in enumerate(layers) if (match := re.search(layer, path))]
    return min(matches)[1] if matches else len(layers)


def collected(maps: Mapping[str, jax.Array], names: Sequence[str] | None, encoder: str) -> dict[str, jax.Array]:
    """Returns the maps of these names, or all for None; raises UserError for one that the encoder does not have."""
    for name in names or ():
        if name not in maps:
            raise UserError(f"{encoder}: unknown map {name!r}; known: {', '.join(maps)}")
    return {name: maps[name] for name in (maps if names is None else names)}
