"""What is done to the colours of images, with draws of its own for every image: jitter, grey, blur.

Source: the augmentations of VFM-UDA and VFM-UDA++ (arXiv 2406.09896, 2503.10685), which are torchvision's.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uda_jax import ops
from uda_jax.errors import UserError
from uda_jax.schema import config_field

_SPANS = ("brightness", "contrast", "saturation", "hue")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Section: changes of colour. Each happens to each image with its own probability."""

    jitter: float = config_field(0.8, "Probability of the colour jitter.", low=0.0, high=1.0)
    brightness: float = config_field(0.2, "Largest deviation of the brightness's factor from 1.", low=0.0)
    contrast: float = config_field(0.2, "Largest deviation of the contrast's factor from 1.", low=0.0)
    saturation: float = config_field(0.2, "Largest deviation of the saturation's factor from 1.", low=0.0)
    hue: float = config_field(0.2, "Largest turn of the hue, in full turns.", low=0.0, high=0.5)
    grey: float = config_field(0.0, "Probability that an image loses its colours.", low=0.0, high=1.0)
    blur: float = config_field(0.5, "Probability of the Gaussian blur.", low=0.0, high=1.0)
    blur_sigma: tuple[float, float] = config_field(
        (0.15, 1.15), "Bounds of the Gaussian's standard deviation, in pixels.", low=0.01
    )

    def check(self, path: str) -> None:
        """Raises a UserError if the bounds are in the wrong order."""
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise UserError(f"{path}.blur_sigma: expected (low, high), got {self.blur_sigma!r}")

    def apply(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Returns float32 images on the scale of 0 to 255 for RGB images `[B, H, W, 3]` on the same scale."""
        images, count = images.astype(jnp.float32), images.shape[0]
        keys = dict(zip(("jitter", "jitters", "grey", "blur", "sigma"), jax.random.split(key, 5), strict=True))

        def chosen(switch: str, probability: float, change, images: jax.Array) -> jax.Array:
            """Changes some of the images; nothing is computed where no image is, or ever can be, changed."""
            if probability == 0:
                return images
            on = jax.random.bernoulli(keys[switch], probability, (count,))
            changed = lambda x: jnp.where(on[:, None, None, None], change(x), x)  # noqa: E731
            return jax.lax.cond(jnp.any(on), changed, lambda x: x, images)

        def jittered(x: jax.Array) -> jax.Array:
            drawn = ops.draw_photometric(keys["jitters"], count, **{name: getattr(self, name) for name in _SPANS})
            return 255.0 * ops.photometric_jitter(x / 255.0, *drawn)

        def blurred(x: jax.Array) -> jax.Array:
            sigmas = jax.random.uniform(keys["sigma"], (count,), minval=self.blur_sigma[0], maxval=self.blur_sigma[1])
            return ops.gaussian_blur(x, sigmas, ops.blur_kernel_size(x.shape[1:3]))

        images = chosen("jitter", self.jitter, jittered, images)
        images = chosen("grey", self.grey, lambda x: jnp.broadcast_to(ops.grey(x), x.shape), images)
        return chosen("blur", self.blur, blurred, images)


def weak(probability: float = 0.9) -> Augmentation:
    """Returns VFM-UDA's weak augmentation; with a probability of 0 it changes nothing."""
    spans = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}
    return Augmentation(jitter=probability, **spans, blur=0.0)


def strong() -> Augmentation:
    """Returns VFM-UDA++'s augmentation of source images."""
    spans = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.4}
    return Augmentation(jitter=0.8, **spans, grey=0.1, blur=0.5, blur_sigma=(0.15, 3.0))
