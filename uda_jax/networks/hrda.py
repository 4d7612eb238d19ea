"""HRDA's network: one encoder and head on a whole image at half its resolution and on details at full resolution.

A second head on the whole image says how far each class is better read off the details:

    context   l = H(E(x_c)),  a = sigmoid(A(E(x_c))),  x_c the image at half its size
    details   h = H(E(x[box])) of one box in training, averaged over windows that cover the image otherwise
    fusion    up2((1 - a) l) + up2(a) h,  a = 0 outside the box

Source: HRDA (arXiv 2204.13132), section 3, with its released code.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.networks import daformer, deeplab, mit, resnet
from uda_jax.networks.base import Options, Trunk
from uda_jax.networks.daformer import DAFormerOptions
from uda_jax.networks.deeplab import HeadOptions
from uda_jax.networks.mit import MixTransformer
from uda_jax.networks.resnet import ResNetOptions
from uda_jax.schema import config_field

# Of the image to the context.
SCALE = 2
# Boxes of details lie at multiples of so many pixels.
GRID = 8


@dataclasses.dataclass(frozen=True)
class DetailOptions(Options):
    """Options of the details, whatever the encoder."""

    detail_size: tuple[int, int] = config_field(
        (512, 512), "(height, width) in pixels of a window of details; the reference's is half the image.", low=32
    )
    detail_stride: int = config_field(
        256, "Pixels between the windows that cover an image whose labels are predicted.", low=GRID
    )

    def check(self, path: str) -> None:
        """Raises a UserError for windows that the maps' pixels do not divide."""
        for field, values in (("detail_size", self.detail_size), ("detail_stride", (self.detail_stride,))):
            if any(value % GRID for value in values):
                raise UserError(f"{path}.{field}: expected multiples of {GRID}, got {getattr(self, field)}")


@dataclasses.dataclass(frozen=True)
class HRDAOptions(DetailOptions, DAFormerOptions):
    """What `networks.build` accepts for HRDA on a Mix Transformer."""


@dataclasses.dataclass(frozen=True)
class HRDAResNetOptions(DetailOptions, HeadOptions, ResNetOptions):
    """What `networks.build` accepts for HRDA on a ResNet, with classifiers of DeepLab-v2."""

    # Caffe's stem rounds sizes up, so that maps of two resolutions would not lie on each other.
    encoder_style: str = config_field(
        "v1c",
        "Structure that the encoder's weights were trained with: torchvision's, or mmsegmentation's ('v1c').",
        choices=("torchvision", "v1c"),
    )


class HRDA(nn.Module):
    """The segmentation network: `encoder`, `head`, and `scale_attention` on the context.

    Attributes:
      num_classes: channels of the logits.
      trunk: a ResNet, on which the heads are classifiers of DeepLab-v2; None = a Mix Transformer, whose head is
        DAFormer's, the attention's with the plain fusion.
      options: the other choices.
    """

    num_classes: int
    trunk: Trunk | None
    options: HRDAOptions | HRDAResNetOptions

    def setup(self):
        """Names the parts; each creates its parameters when first called."""
        o = self.options
        if self.trunk:
            self.trunk.set_up(self)
            self.head, self.scale_attention = (deeplab.build_classifier(self.num_classes, o) for _ in range(2))
        else:
            self.encoder = MixTransformer(o)
            self.head = daformer.build_head(self.num_classes, o)
            self.scale_attention = daformer.build_head(self.num_classes, o, "linear")

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Segments normalised images, with details everywhere: what teachers and predictions do.

        Args:
          images: `[B, H, W, 3]`, normalised by the convention that the weights were trained with; H and W are multiples
            of the context's stride, 8 pixels with a Mix Transformer, 16 with a ResNet.
          train: whether batch norm runs in its training mode; then apply with `mutable=["batch_stats"]`. Nothing is
            dropped without an rng named "dropout".

        Returns:
          float32 maps: "logits" `[B, h, w, num_classes]` at half the context's stride and "encoder_features", the
          encoder's last map of the context.

        Raises:
          UserError: images that the strides do not divide.
        """
        context, attention, features = self._context(images, train)
        height, width = window(images.shape[1:3], self.options.detail_size)
        boxes = windows(images.shape[1:3], (height, width), self.options.detail_stride)
        crops = jnp.concatenate([images[:, y : y + height, x : x + width] for y, x in boxes])
        # One forward of all windows: in training they are normalised together.
        details = self._logits(self.head, self.encoder(crops, train), train)
        stride = images.shape[1] // (SCALE * context.shape[1])
        covered = average_windows(details, boxes, stride, [SCALE * n for n in context.shape[1:3]])
        return {"logits": fuse(context, attention, covered), "encoder_features": features}

    def with_detail(
        self, images: jax.Array, top: jax.Array, left: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Segments normalised images, with the details of one box: what the student learns by.

        Args:
          images, train: as in `__call__`.
          top, left: int32 scalars, the first row and column of the box of `detail_size`, multiples of 8.

        Returns:
          What `__call__` does, and "detail_logits" `[B, h, w, num_classes]` of the box.
        """
        context, attention, features = self._context(images, train)
        size = window(images.shape[1:3], self.options.detail_size)
        crop = detail(images, top, left, size)
        details = self._logits(self.head, self.encoder(crop, train), train)
        stride = images.shape[1] // (SCALE * context.shape[1])
        box = [edge // (SCALE * stride) for edge in (top, left, *size)]
        attention = inside(attention, *box)
        placed = jnp.zeros((len(images), *(SCALE * n for n in context.shape[1:3]), self.num_classes), jnp.float32)
        placed = jax.lax.dynamic_update_slice(placed, details, (0, top // stride, left // stride, 0))
        fused = fuse(context, attention, placed)
        return {"logits": fused, "detail_logits": details, "encoder_features": features}

    def encode(
        self, images: jax.Array, train: bool = False, collect: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Returns the encoder's maps of the images as they are, by name; apply with `method="encode"`."""
        return self.encoder(images, train, collect)

    def _context(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the logits, the attention and the last map of the context."""
        size = images.shape[1:3]
        maps = self.encoder(shrunk(images), train)
        logits = self._logits(self.head, maps, train)
        attention = nn.sigmoid(self._logits(self.scale_attention, maps, train))
        strides = [have / n for have, n in zip(size, logits.shape[1:3], strict=True)]
        if strides[0] != strides[1] or strides[0] % GRID:
            raise UserError(
                f"hrda: expected images whose sides are multiples of the context's stride, got {tuple(size)}"
            )
        return logits, attention, maps[self.trunk.last if self.trunk else mit.STAGES[-1]].astype(jnp.float32)

    def _logits(self, head: nn.Module, maps: Mapping[str, jax.Array], train: bool) -> jax.Array:
        return head(maps[self.trunk.last]) if self.trunk else head(maps, train)[0]


def shrunk(images: jax.Array) -> jax.Array:
    """Returns float images `[B, H, W, C]` at half their size, without antialiasing."""
    return ops.resize_bilinear(images, tuple(n // SCALE for n in images.shape[1:3]), align_corners=False)


def window(size: tuple[int, int], detail_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) of a window of details, which is cut to images of a size that is smaller."""
    return tuple(map(min, size, detail_size))


def draw_box(key: jax.Array, size: tuple[int, int], detail_size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Draws where in images of a size a box of details lies: its first row and column, uniform multiples of 8.

    The last position of all is never drawn, as in the released code, unless it is the only one.
    """
    tops = [max((have - side + 1) // GRID, 1) for have, side in zip(size, detail_size, strict=True)]
    keys = jax.random.split(key)
    top, left = (GRID * jax.random.randint(k, (), 0, count) for k, count in zip(keys, tops, strict=True))
    return top, left


def detail(maps: jax.Array, top: jax.Array, left: jax.Array, detail_size: tuple[int, int]) -> jax.Array:
    """Returns the box of images, labels or weights `[B, H, W, ...]`."""
    rest = maps.shape[3:]
    starts = (0, top, left, *(0 for _ in rest))
    return jax.lax.dynamic_slice(maps, starts, (len(maps), *detail_size, *rest))


def inside(maps: jax.Array, top: jax.Array, left: jax.Array, height: int, width: int) -> jax.Array:
    """Returns maps `[B, H, W, C]` that are 0 outside a box."""
    rows, columns = (jnp.arange(n) for n in maps.shape[1:3])
    within = ((rows >= top) & (rows < top + height))[:, None] & ((columns >= left) & (columns < left + width))
    return jnp.where(within[..., None], maps, 0.0)


def fuse(context: jax.Array, attention: jax.Array, details: jax.Array) -> jax.Array:
    """Blends two resolutions: where attention is 1 the details, where it is 0 the context.

    Args:
      context, attention: `[B, h, w, C]`.
      details: `[B, 2h, 2w, C]`.

    Returns:
      `[B, 2h, 2w, C]`.
    """
    size = details.shape[1:3]
    enlarged = ops.resize_bilinear(attention, size, align_corners=False)
    return enlarged * details + ops.resize_bilinear((1.0 - attention) * context, size, align_corners=False)


def windows(size: Sequence[int], window: Sequence[int], stride: int) -> list[tuple[int, int]]:
    """Returns the first row and column of the windows that cover a size; the last ones are moved back into it."""
    starts = []
    for have, side in zip(size, window, strict=True):
        count = max(have - side + stride - 1, 0) // stride + 1
        starts.append([min(i * stride, have - side) for i in range(count)])
    return list(itertools.product(*starts))


def average_windows(maps: jax.Array, boxes: Sequence[tuple[int, int]], stride: int, size: Sequence[int]) -> jax.Array:
    """Lays the maps of windows over each other and returns their mean.

    Args:
      maps: `[N * B, h, w, C]`: all images' first window, then their second ...
      boxes: first row and column of each window, in pixels of the image.
      stride: pixels of the image per pixel of a map.
      size: height and width of the result.

    Returns:
      `[B, *size, C]`.
    """
    height, width = maps.shape[1:3]
    total, count = 0.0, 0.0
    for part, (top, left) in zip(jnp.split(maps, len(boxes)), boxes, strict=True):
        y, x = top // stride, left // stride
        margins = ((0, 0), (y, size[0] - y - height), (x, size[1] - x - width), (0, 0))
        total, count = total + jnp.pad(part, margins), count + jnp.pad(jnp.ones((1, height, width, 1)), margins)
    return total / count


def _on_mit(num_classes: int, options: HRDAOptions) -> HRDA:
    return HRDA(num_classes, None, options)


NETWORKS = daformer.segmenters("hrda", _on_mit, HRDAOptions) | resnet.segmenters("hrda", HRDA, HRDAResNetOptions)
