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

from uda_jax import schema
from uda_jax.errors import UserError
from uda_jax.networks.corda import CorDA, CorDAOptions
from uda_jax.networks.dada import DADA, DADAOptions
from uda_jax.networks.deeplab import DeepLabOptions, DeepLabV2
from uda_jax.networks.discriminators import (
    DiscriminatorOptions,
    PatchDiscriminator,
    PixelDiscriminator,
    ScoreDiscriminator,
    ScoreDiscriminatorOptions,
    SemanticDiscriminator,
    SemanticDiscriminatorOptions,
)
from uda_jax.networks.lenet import DTN, DigitOptions, LeNet
from uda_jax.networks.refiner import Refiner
from uda_jax.networks.translators import Translator, TranslatorOptions
from uda_jax.networks.vgg import DeepLabVGG16, VGG16Options


class _Entry(NamedTuple):
    """One row of the registry: how to make the module, its options and the defaults that differ from theirs."""

    make: Callable[[int, Any], nn.Module]
    options: type
    defaults: dict[str, Any] = {}


_BLOCKS = {"resnet101": (3, 4, 23, 3), "resnet50": (3, 4, 6, 3), "resnet14": (1, 1, 1, 1)}


def _segmenter(module: type[nn.Module], options: type, encoder: str) -> _Entry:
    """The row of a network on a ResNet."""
    # The small one trains from scratch on a CPU; it has no published weights, hence the He start.
    defaults = {"width": 16, "encoder_init": "he"} if encoder == "resnet14" else {}
    return _Entry(functools.partial(_make_segmenter, module, _BLOCKS[encoder]), options, defaults)


def _make_segmenter(module: type[nn.Module], blocks: tuple[int, ...], num_classes: int, options: Any) -> nn.Module:
    return module(num_classes, blocks, options)


_NETWORKS = {
    "deeplab_v2_resnet101": _segmenter(DeepLabV2, DeepLabOptions, "resnet101"),
    "deeplab_v2_resnet50": _segmenter(DeepLabV2, DeepLabOptions, "resnet50"),
    "deeplab_v2_resnet14": _segmenter(DeepLabV2, DeepLabOptions, "resnet14"),
    "deeplab_v2_vgg16": _Entry(DeepLabVGG16, VGG16Options),
    "dada_resnet101": _segmenter(DADA, DADAOptions, "resnet101"),
    "dada_resnet50": _segmenter(DADA, DADAOptions, "resnet50"),
    "dada_resnet14": _segmenter(DADA, DADAOptions, "resnet14"),
    "corda_resnet101": _segmenter(CorDA, CorDAOptions, "resnet101"),
    "corda_resnet50": _segmenter(CorDA, CorDAOptions, "resnet50"),
    "corda_resnet14": _segmenter(CorDA, CorDAOptions, "resnet14"),
    # These five read their input channels from the map they are given, so the number of classes plays no part.
    "pixel_discriminator": _Entry(lambda _, options: PixelDiscriminator(options), DiscriminatorOptions),
    "patch_discriminator": _Entry(lambda _, options: PatchDiscriminator(options), DiscriminatorOptions),
    "score_discriminator": _Entry(lambda _, options: ScoreDiscriminator(options), ScoreDiscriminatorOptions),
    "translator": _Entry(lambda _, options: Translator(options), TranslatorOptions),
    "refiner": _Entry(lambda _, options: Refiner(options), TranslatorOptions, {"blocks": 4}),
    "semantic_discriminator": _Entry(SemanticDiscriminator, SemanticDiscriminatorOptions),
    "lenet": _Entry(LeNet, DigitOptions),
    "dtn": _Entry(DTN, DigitOptions),
}


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Builds a network by name.

    Args:
      name: one of `names()`.
      num_classes: channels of a segmenter's or classifier's logits, half the outputs of a semantic discriminator; the
        other discriminators, the translator and the refiner take their channels from their input.
      **options: fields of the network's options, such as `DeepLabOptions`; those left out take the network's default.

    Returns:
      A Flax module.

    Raises:
      UserError: an unknown name or option (with the closest known one), or a value that is not allowed.
    """
    section = resolve(name, **options)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"network '{name}': expected num_classes as an integer >= 1, got {num_classes!r}")
    return _NETWORKS[name].make(num_classes, section)


def resolve(name: str, **options: Any) -> Any:
    """Returns all options of a network, those left out at its defaults, as its dataclass; raises as `build` does."""
    if name not in _NETWORKS:
        raise UserError(f"network '{name}' is unknown{schema.did_you_mean(name, _NETWORKS)}")
    entry = _NETWORKS[name]
    return schema.from_mapping(entry.options, {**entry.defaults, **options}, f"network.{name}")


def names() -> list[str]:
    """Returns the names that `build` knows, sorted."""
    return sorted(_NETWORKS)
