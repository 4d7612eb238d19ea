"""Pixel normalisation: the first thing a step does with its uint8 images, on the device."""

import jax
import jax.numpy as jnp
import numpy as np

# Means of the Caffe ImageNet models, in their BGR order, on the 0..255 scale.
_CAFFE_MEAN_BGR = np.array([104.00698793, 116.66876762, 122.67891434], np.float32)
# Mean and standard deviation of the torchvision ImageNet models, RGB, on the 0..1 scale.
_IMAGENET_MEAN_RGB = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD_RGB = np.array([0.229, 0.224, 0.225], np.float32)

CONVENTIONS = ("caffe_bgr", "imagenet_rgb", "tanh")


def normalise(images: jax.Array, convention: str) -> jax.Array:
    """Turns 8-bit RGB images into what a network was trained on.

    Args:
      images: RGB images `[B, H, W, 3]`, uint8, or float on the same scale of 0 to 255 (augmented on the device).
      convention: "caffe_bgr" reverses the channels to BGR and subtracts the Caffe mean, staying on the 0..255
        scale (DeepLab-v2 checkpoints: AdaptSegNet, ADVENT, DACS, PLCA); "imagenet_rgb" scales to 0..1 and
        standardises with the ImageNet mean and deviation (torchvision checkpoints); "tanh" maps 0..255 to -1..1
        (image translators, digits).

    Returns:
      float32 images `[B, H, W, 3]`.

    Raises:
      ValueError: an unknown convention.
    """
    pixels = images.astype(jnp.float32)
    if convention == "caffe_bgr":
        return pixels[..., ::-1] - _CAFFE_MEAN_BGR
    if convention == "imagenet_rgb":
        return (pixels / 255.0 - _IMAGENET_MEAN_RGB) / _IMAGENET_STD_RGB
    if convention == "tanh":
        return pixels / 127.5 - 1.0
    raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")


def mean_colour(convention: str) -> np.ndarray:
    """Returns the RGB colour `[3]` on the scale of 0 to 255 that `normalise` maps to 0; raises as it does."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
    colours = {"caffe_bgr": _CAFFE_MEAN_BGR[::-1], "imagenet_rgb": 255.0 * _IMAGENET_MEAN_RGB}
    return colours.get(convention, np.full(3, 127.5, np.float32))


def from_tanh(images: jax.Array) -> jax.Array:
    """Undoes `normalise` by "tanh": float images in -1..1, as a translator draws them, on the scale of 0 to 255."""
    return (images + 1.0) * 127.5


def to_pixels(images: jax.Array) -> jax.Array:
    """Returns what a translator drew, float RGB `[B, H, W, 3]` in -1..1, as uint8 images, rounded and clipped."""
    return jnp.clip(jnp.round(from_tanh(images)), 0, 255).astype(jnp.uint8)
