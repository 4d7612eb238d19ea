"""Pixel normalisation: the first thing a step does with its uint8 images, on the device."""

import jax
import jax.numpy as jnp
import numpy as np

# Means of the Caffe ImageNet models, in their BGR order, on the 0..255 scale.
_CAFFE_MEAN_BGR = np.array([104.00698793, 116.66876762, 122.67891434], np.float32)
# Mean and standard deviation of the torchvision ImageNet models, RGB, on the 0..1 scale.
_IMAGENET_MEAN_RGB = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD_RGB = np.array([0.229, 0.224, 0.225], np.float32)

# As TensorFlow's EfficientNet-Lite models take them, RGB, on the 0..255 scale.
_LITE_MEAN, _LITE_SCALE = 127.0, 128.0

CONVENTIONS = ("caffe_bgr", "imagenet_rgb", "lite_rgb", "tanh")


def normalise(images: jax.Array, convention: str) -> jax.Array:
    """Turns 8-bit RGB images into what a network was trained on.

    Args:
      images: RGB images `[B, H, W, 3]`, uint8, or float on the same scale of 0 to 255 (augmented on the device).
      convention: "caffe_bgr" reverses the channels to BGR and subtracts the Caffe mean, staying on the 0..255
        scale (DeepLab-v2 checkpoints: AdaptSegNet, ADVENT, DACS, PLCA); "imagenet_rgb" scales to 0..1 and
        standardises with the ImageNet mean and deviation (torchvision checkpoints); "lite_rgb"
        subtracts 127 and divides by 128 (EfficientNet-Lite); "tanh" maps 0..255 to -1..1
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
    if convention == "lite_rgb":
        return (pixels - _LITE_MEAN) / _LITE_SCALE
    if convention == "tanh":
        return pixels / 127.5 - 1.0
    raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")


def denormalise(images: jax.Array, convention: str) -> jax.Array:
    """Undoes `normalise`: float32 images `[B, H, W, 3]` on the scale of 0 to 255, neither rounded nor clipped.

    Raises:
      ValueError: an unknown convention.
    """
    if convention == "caffe_bgr":
        return (images + _CAFFE_MEAN_BGR)[..., ::-1]
    if convention == "imagenet_rgb":
        return (images * _IMAGENET_STD_RGB + _IMAGENET_MEAN_RGB) * 255.0
    if convention == "lite_rgb":
        return images * _LITE_SCALE + _LITE_MEAN
    if convention == "tanh":
        return from_tanh(images)
    raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")


def mean_colour(convention: str) -> np.ndarray:
    """Returns the RGB colour `[3]` on the scale of 0 to 255 that `normalise` maps to 0; raises as it does."""
    return np.asarray(denormalise(np.zeros(3, np.float32), convention))


def from_tanh(images: jax.Array) -> jax.Array:
    """Undoes `normalise` by "tanh": float images in -1..1, as a translator draws them, on the scale of 0 to 255."""
    return (images + 1.0) * 127.5


def to_pixels(images: jax.Array) -> jax.Array:
    """Returns what a translator drew, float RGB `[B, H, W, 3]` in -1..1, as uint8 images, rounded and clipped."""
    return jnp.clip(jnp.round(from_tanh(images)), 0, 255).astype(jnp.uint8)
