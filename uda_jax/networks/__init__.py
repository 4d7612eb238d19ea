"""Flax networks, built by name.

    network = networks.build("deeplab_v2_resnet101", 19, multi_level=True)
    variables = network.init(key, images)
    outputs, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])

Maps are `[B, H, W, C]` and parameters float32. Parameter paths follow the published PyTorch checkpoints
(`encoder/layer3_22/conv2/kernel`, `head/branch_0/bias`), so that optimiser masks and weight conversion are rules on
names.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn

from uda_jax import sections
from uda_jax.errors import UserError
from uda_jax.networks.deeplab import DeepLabOptions, DeepLabV2
from uda_jax.networks.discriminators import DiscriminatorOptions, PixelDiscriminator


class _Entry(NamedTuple):
    """One row of the registry: how to make the module, its options and the defaults that differ from theirs."""

    make: Callable[[int, Any], nn.Module]
    options: type
    defaults: dict[str, Any] = {}


def _deeplab(blocks: tuple[int, ...], **defaults: Any) -> _Entry:
    return _Entry(functools.partial(_make_deeplab, blocks), DeepLabOptions, defaults)


def _make_deeplab(blocks: tuple[int, ...], num_classes: int, options: DeepLabOptions) -> DeepLabV2:
    return DeepLabV2(num_classes, blocks, options)


_NETWORKS = {
    "deeplab_v2_resnet101": _deeplab((3, 4, 23, 3)),
    "deeplab_v2_resnet50": _deeplab((3, 4, 6, 3)),
    # Small enough to train from scratch on a CPU; it has no published weights, hence the He start.
    "deeplab_v2_resnet14": _deeplab((1, 1, 1, 1), width=16, encoder_init="he"),
    # Reads its input channels from the map it is given, so the number of classes plays no part.
    "pixel_discriminator": _Entry(lambda _, options: PixelDiscriminator(options), DiscriminatorOptions),
}


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Builds a network by name.

    Args:
      name: one of `names()`.
      num_classes: channels of a segmenter's logits; a discriminator takes its channels from its input.
      **options: fields of the network's options, such as `DeepLabOptions`; those left out take the network's default.

    Returns:
      A Flax module.

    Raises:
      UserError: an unknown name or option (with the closest known one), or a value that is not allowed.
    """
    if name not in _NETWORKS:
        raise UserError(f"network '{name}' is unknown{sections.closest(name, _NETWORKS)}")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"network '{name}': expected num_classes as an integer >= 1, got {num_classes!r}")
    entry = _NETWORKS[name]
    return entry.make(num_classes, sections.build(entry.options, {**entry.defaults, **options}, f"network.{name}"))


def names() -> list[str]:
    """Returns the names that `build` knows, sorted."""
    return sorted(_NETWORKS)
