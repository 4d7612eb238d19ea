"""Loss functions: arrays in, one float32 scalar out."""

from uda_jax.losses.adversarial import adversarial
from uda_jax.losses.association import aggregate, association_diagnostics, cycle_association
from uda_jax.losses.consistency import confident_cross_entropy, frozen_feature_distance, ohem_cross_entropy
from uda_jax.losses.depth import absolute_depth, berhu
from uda_jax.losses.entropy import class_ratio_prior, entropy, entropy_map, hard_entropy
from uda_jax.losses.feature_distance import feature_distance
from uda_jax.losses.label_smoothing import adaptive_label_smoothing
from uda_jax.losses.lovasz import grouped_lovasz_softmax, lovasz_softmax
from uda_jax.losses.photometric import (
    edge_aware_smoothness,
    minimum_error,
    photometric_error,
    ssim_loss,
    view_synthesis_loss,
)
from uda_jax.losses.segmentation import cross_entropy, cross_entropy_map
from uda_jax.losses.semantic import semantic_adversarial, semantic_adversarial_map
from uda_jax.ops import self_information

__all__ = [
    "absolute_depth",
    "adaptive_label_smoothing",
    "adversarial",
    "aggregate",
    "association_diagnostics",
    "berhu",
    "class_ratio_prior",
    "confident_cross_entropy",
    "cross_entropy",
    "cross_entropy_map",
    "cycle_association",
    "edge_aware_smoothness",
    "entropy",
    "entropy_map",
    "feature_distance",
    "frozen_feature_distance",
    "grouped_lovasz_softmax",
    "hard_entropy",
    "lovasz_softmax",
    "minimum_error",
    "ohem_cross_entropy",
    "photometric_error",
    "self_information",
    "semantic_adversarial",
    "semantic_adversarial_map",
    "ssim_loss",
    "view_synthesis_loss",
]
