"""Two strong views of an image: boxes of other images in each, and channels that one drops and the other keeps.

Source: UniMatch V2 (Yang et al., arXiv 2410.10777) with its released code.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.networks.deeplab import DeepLabV2
from uda_jax.networks.foundation import PatchSegmenter
from uda_jax.schema import config_field


class View(NamedTuple):
    """Images and what a teacher says of them.

    Attributes:
      image: RGB `[B, H, W, 3]` on the scale of 0 to 255.
      label: int32 `[B, H, W]`.
      confidence: probability of the label `[B, H, W]`.
      padding: bool `[B, H, W]`, True where there is no image.
    """

    image: jax.Array
    label: jax.Array
    confidence: jax.Array
    padding: jax.Array


@dataclasses.dataclass(frozen=True)
class PastedBoxes:
    """Section: boxes of the images in reversed order of the batch, with all that is known of them (CutMix)."""

    probability: float = config_field(0.5, "Probability that an image gets one.", low=0.0, high=1.0)
    area: tuple[float, float] = config_field((0.02, 0.4), "Bounds of its share of the image.", low=0.0, high=1.0)
    aspect: tuple[float, float] = config_field((0.3, 1 / 0.3), "Bounds of its height by its width.", low=0.01)

    def check(self, path: str) -> None:
        """Raises a UserError if bounds are in the wrong order."""
        for name in ("area", "aspect"):
            low, high = bounds = getattr(self, name)
            if low > high:
                raise UserError(f"{path}.{name}: expected (low, high), got {bounds!r}")

    def paste(self, key: jax.Array, view: View) -> View:
        """Returns a view with boxes; of a batch of one the box is the image's own, and changes nothing."""
        box_key, switch_key = jax.random.split(key)
        count, size = len(view.image), view.image.shape[1:3]
        on = jax.random.bernoulli(switch_key, self.probability, (count,))
        boxes = on[:, None, None] & ops.bounded_boxes(box_key, count, size, self.area, self.aspect)
        return View(*(ops.mix(boxes, x[::-1], x) for x in view))


def drops_in_pairs(network: nn.Module) -> bool:
    """Whether `paired_dropout` knows what the head of a network reads."""
    return isinstance(network, (PatchSegmenter, DeepLabV2))


@contextlib.contextmanager
def paired_dropout(key: jax.Array | None) -> Iterator[None]:
    """Has forwards of two views, one half of the batch each, drop channels in pairs; None drops none.

    Those are channels of all of the encoder's maps that a head on patches reads, and of the one map that DeepLab's
    reads; an image drops the same channels of each.
    """

    def dropped(x: jax.Array) -> jax.Array:
        return ops.complementary_dropout(x, *ops.draw_complementary(key, len(x) // 2, x.shape[-1]))

    def called(function: Callable, arguments: tuple, options: dict[str, Any], context: Any) -> Any:
        module = context.module
        if isinstance(module, PatchSegmenter) and context.method_name == "encode":
            return {name: dropped(x) for name, x in function(*arguments, **options).items()}
        if isinstance(module.parent, DeepLabV2) and module.name == "head" and context.method_name == "__call__":
            return function(dropped(arguments[0]), *arguments[1:], **options)
        return function(*arguments, **options)

    if key is None:
        yield
        return
    with nn.intercept_methods(called):
        yield
