"""What the segmenters on foundation encoders share: their table, and images made to fit the patches.

A head's file gives its module and options to `segmenters`, which offers it on every DINOv2 and DINOv3.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
from flax import linen as nn

from uda_jax.errors import UserError
from uda_jax.networks import dinov2, dinov3, vit
from uda_jax.networks.base import Entry, Options
from uda_jax.networks.dinov2 import DINOv2Options
from uda_jax.networks.encoder_adapters import Adapters
from uda_jax.networks.vit import VisionTransformer, ViTOptions
from uda_jax.ops.resize import resize_bilinear
from uda_jax.schema import config_field


@dataclasses.dataclass(frozen=True)
class InputOptions(Options):
    """What a segmenter does to images before its encoder, and what of the encoder learns."""

    input_scale: float = config_field(
        1.0,
        "Factor on the sides of the images before the encoder, which are rounded down to whole patches (VFM-UDA with "
        "patches of 14 pixels: 1.1).",
        low=0.1,
    )
    adapters: Adapters = config_field(Adapters(), "What learns in place of the whole encoder.")

    def learns(self, path: str) -> bool:
        """Whether a parameter of the segmenter, by its path, learns; the others are frozen."""
        return self.adapters.learns(path, self.depth)


def fitting(size: tuple[int, int], multiple: int, scale: float) -> tuple[int, int]:
    """Returns `scale` times the sides of an image, rounded down to multiples of `multiple`, which are the least."""
    return tuple(multiple * max(1, int(scale * side / multiple)) for side in size)


def fitted(images: jax.Array, patch: int, scale: float) -> jax.Array:
    """Returns images `[B, H, W, 3]` resized to the sides of `fitting`."""
    return resize_bilinear(images, fitting(images.shape[1:3], patch, scale), align_corners=False)


def patch_of(options: ViTOptions) -> int:
    """Returns the sides of the encoder's patches in pixels."""
    return _family(options).PATCH


def patches_of(options: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of the patches of images of a size, for the options of a segmenter."""
    patch = patch_of(options)
    return tuple(side // patch for side in fitting(size, patch, options.input_scale))


def _family(options: ViTOptions) -> ModuleType:
    return dinov2 if isinstance(options, DINOv2Options) else dinov3


def build_encoder(options: Any, *, maskable: bool = True) -> VisionTransformer:
    """Returns the encoder that the options of a segmenter belong to.

    Raises:
      UserError: adapters that do not fit the encoder.
    """
    adapters, depth, width = options.adapters, options.depth, options.width
    if adapters.name == "soma" and adapters.first_of(depth) >= depth:
        raise UserError(
            f"network.adapters.first_block: expected a block below depth = {depth}, got {adapters.first_block}"
        )
    if adapters.name == "soma" and adapters.rank > width:
        raise UserError(f"network.adapters.rank: expected at most width = {width}, got {adapters.rank}")
    return _family(options).build(options, maskable=maskable, adapters=adapters)


class PatchSegmenter(nn.Module):
    """What segmenters share whose heads read the patches of an encoder, which their `setup` names `encoder`.

    Attributes:
      num_classes: channels of the logits.
      options: those of the encoder and the head.
    """

    num_classes: int
    options: Options

    def encode(
        self,
        images: jax.Array,
        train: bool = False,
        collect: Sequence[str] | None = None,
        mask: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps by name, as `VisionTransformer` does; apply with `method="encode"`."""
        images = fitted(images, self.encoder.patch, self.options.input_scale)
        return self.encoder(images, train, collect, mask)

    def mask_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the patches that a `mask` has, for images of a size."""
        return patches_of(self.options, size)


def segmenters(
    prefix: str,
    module: Callable[..., nn.Module],
    head: type[Options],
    defaults: Callable[[int, int], Mapping[str, Any]] = lambda width, depth: {},
) -> dict[str, Entry]:
    """Returns the table NETWORKS of a head on each of the encoders.

    Args:
      prefix: of the networks' names.
      module: (number of classes, options) -> the segmenter.
      head: the class of the head's options.
      defaults: (width, depth) of an encoder -> defaults of the head's options that depend on it.
    """
    entries = {}
    for family in (dinov2, dinov3):
        for name, encoder in family.ENCODERS.items():
            own = {**encoder.defaults, **defaults(encoder.defaults["width"], encoder.defaults["depth"])}
            entries[f"{prefix}_{name}"] = Entry(module, _joined(head, encoder.options), own, vit.layers("encoder/"))
    return entries


@functools.cache
def _joined(head: type[Options], encoder: type[Options]) -> type[Options]:
    """Returns the class of the options of a head and an encoder together."""
    name = head.__name__.removesuffix("Options") + encoder.__name__
    text = f"Options of {head.__name__} and {encoder.__name__}."
    return dataclasses.make_dataclass(name, [], bases=(head, encoder), frozen=True, namespace={"__doc__": text})
