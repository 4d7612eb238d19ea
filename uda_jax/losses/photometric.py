"""Losses of self-supervised depth: how well other views rebuild a frame (Monodepth2, arXiv 1806.01260).

Images are RGB in [0, 1].
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from uda_jax import ops

_C1, _C2 = 0.01**2, 0.03**2
# Standard deviation of the noise that decides between equal errors of views that are not warped.
_NOISE = 1e-5


def ssim_loss(one: jax.Array, other: jax.Array) -> jax.Array:
    r"""Structural dissimilarity, :math:`(1 - SSIM) / 2` clipped to [0, 1].

    Means and variances are those of 3x3 pixels, the image being reflected at its border; the constants are
    0.01 squared and 0.03 squared.

    Args:
      one, other: images `[B, H, W, C]`, at least 2x2.

    Returns:
      float32 `[B, H, W, C]`; 0 where the images are equal.

    Raises:
      ValueError: the shapes differ, or the images are too small to be reflected.
    """
    one, other = _alike(one, other)
    if min(one.shape[1:3]) < 2:
        raise ValueError(f"ssim_loss: expected images of 2x2 pixels or more, got shape {one.shape}")
    # Variances as mean squares less squared means, but of the differences from the window's centre: those of the
    # colours themselves lose to rounding, in float32, what the small constants let count.
    around_one, around_other = _differences(one), _differences(other)
    mean_one, mean_other = _mean(around_one), _mean(around_other)
    variance_one = _mean(a**2 for a in around_one) - mean_one**2
    variance_other = _mean(b**2 for b in around_other) - mean_other**2
    covariance = _mean(a * b for a, b in zip(around_one, around_other, strict=True)) - mean_one * mean_other
    mean_one, mean_other = mean_one + one, mean_other + other
    similarity = (2.0 * mean_one * mean_other + _C1) * (2.0 * covariance + _C2)
    similarity /= (mean_one**2 + mean_other**2 + _C1) * (variance_one + variance_other + _C2)
    return jnp.clip(0.5 * (1.0 - similarity), 0.0, 1.0)


def photometric_error(one: jax.Array, other: jax.Array, *, ssim_share: float = 0.85) -> jax.Array:
    """Mixes the structural with the absolute difference of two images, each averaged over the channels.

    Args:
      one, other: images `[B, H, W, C]`.
      ssim_share: share of `ssim_loss`; the rest is the absolute difference.

    Returns:
      float32 `[B, H, W]`.

    Raises:
      ValueError: as `ssim_loss`.
    """
    one, other = _alike(one, other)
    absolute = jnp.mean(_magnitude(one - other), axis=-1)
    return ssim_share * jnp.mean(ssim_loss(one, other), axis=-1) + (1.0 - ssim_share) * absolute


def minimum_error(
    warped: Sequence[jax.Array], still: Sequence[jax.Array] = (), *, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Keeps each pixel's smallest error over all views, so that a pixel may be hidden in some of them.

    A pixel that the views match best as they are, without warping, moves with the camera or is blank: it gets that
    error, and no gradient ("auto-masking").

    Args:
      warped: errors `[B, H, W]` of at least one view that is warped to the frame.
      still: errors `[B, H, W]` of views as they are. None given = no auto-masking.
      key: PRNG key of the normal noise, 1e-5 strong, that is added to the errors of `still`, so that chance decides
        between equal ones. None = no noise; a view as it is then wins against an equal one that is warped.

    Returns:
      The smallest errors, float32 `[B, H, W]`, and where a warped view has it, bool `[B, H, W]`. A gradient reaches
      the winner alone.

    Raises:
      ValueError: no warped view.
    """
    if not warped:
        raise ValueError("warped: expected the errors of at least one view, got none")
    lowest = _lowest([error.astype(jnp.float32) for error in warped])
    if not still:
        return lowest, jnp.ones(lowest.shape, bool)
    unmoved = jnp.stack([jax.lax.stop_gradient(error).astype(jnp.float32) for error in still])
    if key is not None:
        unmoved += _NOISE * jax.random.normal(key, unmoved.shape)
    unmoved = jnp.min(unmoved, axis=0)
    moved = lowest < unmoved
    return jnp.where(moved, lowest, unmoved), moved


@jax.named_scope("edge_aware_smoothness")
def edge_aware_smoothness(disparity: jax.Array, image: jax.Array) -> jax.Array:
    r"""Mean slope of a disparity, which counts less where the image has edges.

    The disparity d is divided by its mean over each image, plus 1e-7, as it could otherwise be smoothed by making it
    smaller. Its slope :math:`|\partial_x d|` weighs :math:`\exp(-|\partial_x I|)`, with the mean slope of the image's
    channels; the same in y.

    Args:
      disparity: `[B, H, W]`, not negative, at least 2x2.
      image: `[B, H, W, C]`.

    Returns:
      A float32 scalar: the mean over x plus that over y; 0 with zero gradient where the disparity is constant.

    Raises:
      ValueError: the sizes differ, or are too small.
    """
    if disparity.shape != image.shape[:3] or min(disparity.shape[1:]) < 2:
        shapes = f"{disparity.shape} and {image.shape}"
        raise ValueError(f"disparity and image: expected one size, 2x2 or more, got shapes {shapes}")
    disparity, image = disparity.astype(jnp.float32), image.astype(jnp.float32)
    disparity = disparity / (jnp.mean(disparity, axis=(1, 2), keepdims=True) + 1e-7)
    total = jnp.float32(0.0)
    for axis in (1, 2):
        edges = jnp.mean(jnp.abs(jnp.diff(image, axis=axis)), axis=-1)
        total += jnp.mean(_magnitude(jnp.diff(disparity, axis=axis)) * jnp.exp(-edges))
    return total


@jax.named_scope("view_synthesis_loss")
def view_synthesis_loss(
    disparities: Sequence[jax.Array],
    frame: jax.Array,
    views: Sequence[jax.Array],
    intrinsics: jax.Array,
    motions: Sequence[jax.Array],
    *,
    key: jax.Array | None = None,
    auto_mask: bool = True,
    smoothness: float = 1e-3,
    nearest: float = 0.1,
    farthest: float = 100.0,
) -> jax.Array:
    """Self-supervision of depth at several scales: the frame's neighbours, warped by its depth, are to rebuild it.

    At every scale s = 0, 1, ... the disparity is enlarged to the frame's size, and costs the mean of `minimum_error`
    plus smoothness / 2^s times `edge_aware_smoothness` at its own size; the loss is the mean over the scales. The image
    of a scale is made of means over blocks of the frame.

    Args:
      disparities: sigmoid outputs `[B, h, w]` of the depth network, largest scale first; h and w divide H and W.
      frame: the image that they belong to `[B, H, W, 3]`.
      views: images of the same scene from other places `[B, H, W, 3]`, at least one.
      intrinsics: camera matrices of all images in pixels `[B, 3, 3]`, see `ops.back_project`.
      motions: for each view, matrices `[B, 4, 4]` from the frame's camera to the view's, see `ops.rigid_motion`.
      key: PRNG key of the noise, drawn anew at each scale; None = no noise. See `minimum_error`.
      auto_mask: whether the views as they are compete with the warped ones.
      smoothness: weight of the smoothness at the largest scale.
      nearest, farthest: the range of depths, see `ops.depth_from_disparity`.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: sizes or numbers of arrays that do not fit together.
    """
    if not disparities or not views or len(views) != len(motions):
        counts = f"{len(disparities)}, {len(views)} and {len(motions)}"
        raise ValueError(f"disparities, views and motions: expected some, and a motion for each view, got {counts}")
    full = frame.shape[1:3]
    enlarged = [ops.resize_bilinear(each[..., None], full, align_corners=False)[..., 0] for each in disparities]

    def error(depth: jax.Array, view: jax.Array, motion: jax.Array) -> jax.Array:
        return photometric_error(ops.synthesise_view(view, depth, intrinsics, motion)[0], frame)

    # One program for all views and scales; the batch stays as it is split over devices.
    depths = ops.depth_from_disparity(jnp.stack(enlarged), nearest=nearest, farthest=farthest)
    over_views = jax.vmap(error, (None, 0, 0))
    errors = jax.vmap(over_views, (0, None, None))(depths, jnp.stack(views), jnp.stack(motions))
    still = [photometric_error(view, frame) for view in views] if auto_mask else []
    total = jnp.float32(0.0)
    for scale, disparity in enumerate(disparities):
        scale_key = None if key is None else jax.random.fold_in(key, scale)
        lowest, _ = minimum_error(list(errors[scale]), still, key=scale_key)
        image = _block_means(frame, disparity.shape[1:3])
        total += jnp.mean(lowest) + smoothness / 2**scale * edge_aware_smoothness(disparity, image)
    return total / len(disparities)


def _alike(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    if one.shape != other.shape:
        raise ValueError(f"images: expected one shape, got {one.shape} and {other.shape}")
    return one.astype(jnp.float32), other.astype(jnp.float32)


def _differences(images: jax.Array) -> list[jax.Array]:
    """Returns how much the 3x3 pixels around each differ from it, nine images; the border is reflected."""
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return [padded[:, y : y + height, x : x + width] - images for y in range(3) for x in range(3)]


def _mean(images: Iterable[jax.Array]) -> jax.Array:
    return sum(images) / 9.0


def _magnitude(values: jax.Array) -> jax.Array:
    """Returns absolute values, with gradient 0 where they are 0; that of `jnp.abs` is 1 there."""
    return values * jax.lax.stop_gradient(jnp.sign(values))


def _lowest(errors: Sequence[jax.Array]) -> jax.Array:
    """Returns the smallest of several errors; of equal ones the first, which `jnp.minimum` would share a gradient."""
    lowest = errors[0]
    for error in errors[1:]:
        lowest = jnp.where(error < lowest, error, lowest)
    return lowest


def _block_means(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns images `[B, H, W, C]` at a size that divides theirs, each pixel the mean of a block."""
    batch, height, width, channels = images.shape
    if height % size[0] or width % size[1]:
        raise ValueError(f"disparities: expected sizes that divide the frame's, {(height, width)}, got {tuple(size)}")
    blocks = images.astype(jnp.float32).reshape(batch, size[0], height // size[0], size[1], width // size[1], channels)
    return jnp.mean(blocks, axis=(2, 4))
