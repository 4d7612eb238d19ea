"""Flax networks, built by name and found by file.

    network = networks.build("deeplab_v2_resnet101", 19, multi_level=True)
    variables = network.init(key, images)
    outputs, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])

A file of this folder declares what it offers in the tables NETWORKS and ENCODERS, name -> `base.Entry`; nothing else
has to change when one is added.

Maps are `[B, H, W, C]` and parameters float32. Parameter paths follow the published PyTorch checkpoints
(`encoder/layer3_22/conv2/kernel`, `head/branch_0/bias`), so that optimiser masks and weight conversion are rules on
names.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from uda_jax import schema
from uda_jax.errors import UserError
from uda_jax.networks.base import Entry, Options, depth_of


def _offered(table: str) -> dict[str, Entry]:
    """Returns one table of all files of this folder together."""
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(__path__):
        entries = vars(importlib.import_module(f"{__name__}.{module.name}")).get(table, {})
        if twice := found.keys() & entries.keys():
            raise ValueError(f"networks/{module.name}.py: another file offers {sorted(twice)}, too")
        found |= entries
    return found


_NETWORKS, _ENCODERS = _offered("NETWORKS"), _offered("ENCODERS")


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Builds a network by name.

    Args:
      name: one of `names()`.
      num_classes: channels of a segmenter's or classifier's logits, half the outputs of a semantic discriminator; the
        other discriminators, the translator and the refiner take their channels from their input.
      **options: fields of the network's options, such as `DeepLabOptions`; those left out take the network's default.

    Returns:
      A Flax module. A segmenter has, beside its forward, the methods `classify`, features -> logits, and, if it has an
      encoder, `encode`, images -> the encoder's maps by name.

    Raises:
      UserError: an unknown name or option (with the closest known one), or a value that is not allowed.
    """
    section = resolve(name, **options)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"network '{name}': expected num_classes as an integer >= 1, got {num_classes!r}")
    return _NETWORKS[name].make(num_classes, section)


def resolve(name: str, **options: Any) -> Options:
    """Returns all options of a network, those left out at its defaults, as its dataclass; raises as `build` does."""
    entry = find(name)
    return schema.from_mapping(entry.options, {**entry.defaults, **options}, f"network.{name}")


def find(name: str) -> Entry:
    """Returns what a network's file declares of it; raises UserError for an unknown name."""
    return _entry(_NETWORKS, "network", name)


def names() -> list[str]:
    """Returns the names that `build` knows, sorted."""
    return sorted(_NETWORKS)


def build_encoder(name: str, **options: Any) -> nn.Module:
    """Builds an encoder, which hands out its intermediate maps by name.

        maps = encoder.apply(variables, images, train=False, collect=("layer3", "layer4"))

    Args:
      name: one of `encoder_names()`.
      **options: fields of the encoder's options, such as `ResNetOptions`; those left out take its default.

    Returns:
      A Flax module. Its forward takes normalised images `[B, H, W, 3]` and gives a dict of maps `[B, h, w, D]`, those
      that `collect` names or all of them; the module's docstring says which there are.

    Raises:
      UserError: an unknown name or option (with the closest known one), or a value that is not allowed.
    """
    entry = _entry(_ENCODERS, "encoder", name)
    return entry.make(schema.from_mapping(entry.options, {**entry.defaults, **options}, f"encoder.{name}"))


def find_encoder(name: str) -> Entry:
    """Returns what an encoder's file declares of it; raises UserError for an unknown name."""
    return _entry(_ENCODERS, "encoder", name)


def encoder_names() -> list[str]:
    """Returns the names that `build_encoder` knows, sorted."""
    return sorted(_ENCODERS)


def layer_depth(name: str) -> Callable[[str], int]:
    """Returns a network's or encoder's own order of depth, for layer-wise decay of the learning rate.

    Args:
      name: one of `names()` or `encoder_names()`.

    Returns:
      A function from the "/"-joined path of a parameter, which may start with further names, to its depth: 0 for the
      stem, then a number per stage, and for all else, such as heads, one more than for the last stage.

    Raises:
      UserError: an unknown name.
    """
    return functools.partial(depth_of, tuple(_entry(_ENCODERS | _NETWORKS, "network", name).layers))


def _entry(table: Mapping[str, Entry], kind: str, name: str) -> Entry:
    if name not in table:
        raise UserError(f"{kind} '{name}' is unknown{schema.did_you_mean(name, table)}")
    return table[name]
