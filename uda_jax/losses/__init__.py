"""Loss functions: arrays in, one float32 scalar out; and the ranking of images by their entropy."""

from uda_jax.losses.adversarial import adversarial
from uda_jax.losses.depth import absolute_depth, berhu
from uda_jax.losses.entropy import class_ratio_prior, entropy, hard_entropy, self_information
from uda_jax.losses.ranking import entropy_score, rare_class_count, rare_class_normaliser, split
from uda_jax.losses.segmentation import cross_entropy
from uda_jax.losses.semantic import semantic_adversarial, semantic_adversarial_map

__all__ = [
    "absolute_depth",
    "adversarial",
    "berhu",
    "class_ratio_prior",
    "cross_entropy",
    "entropy",
    "entropy_score",
    "hard_entropy",
    "rare_class_count",
    "rare_class_normaliser",
    "self_information",
    "semantic_adversarial",
    "semantic_adversarial_map",
    "split",
]
