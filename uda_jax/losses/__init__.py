"""Loss functions: arrays in, one float32 scalar out."""

from uda_jax.losses.adversarial import adversarial
from uda_jax.losses.entropy import class_ratio_prior, entropy, hard_entropy, self_information
from uda_jax.losses.segmentation import cross_entropy

__all__ = ["adversarial", "class_ratio_prior", "cross_entropy", "entropy", "hard_entropy", "self_information"]
