"""Pure array functions: arrays in, arrays out, no state, no gradient tricks."""

from uda_jax.ops.augment import blur_kernel_size, colour_jitter, draw_jitter, gaussian_blur
from uda_jax.ops.block_masks import block_grid, block_mask
from uda_jax.ops.class_means import class_means
from uda_jax.ops.classmix import choose_classes, classmix_mask, mix
from uda_jax.ops.confusion import confusion_matrix
from uda_jax.ops.depth import NO_SUPERVISION, inverse_depth, relative_inverse_depth
from uda_jax.ops.entropy_ranking import entropy_score, rare_class_count, rare_class_normaliser, split_by_score
from uda_jax.ops.frame_choice import k_centre_greedy, most_uncertain, uncertain_and_diverse
from uda_jax.ops.image_pool import empty_pool, exchange_with_pool
from uda_jax.ops.label_cells import majority_labels
from uda_jax.ops.label_free import (
    class_shares,
    information,
    jensen_shannon,
    mean_entropy,
    mean_prediction,
    neighbourhood_density,
)
from uda_jax.ops.mix_masks import bounded_boxes, box_masks, cow_masks
from uda_jax.ops.normalise import CONVENTIONS, denormalise, from_tanh, mean_colour, normalise, to_pixels
from uda_jax.ops.paired_dropout import complementary_dropout, draw_complementary
from uda_jax.ops.photometric import draw_photometric, grey, photometric_jitter
from uda_jax.ops.resize import resize_bilinear, resize_nearest_legacy
from uda_jax.ops.self_information import self_information
from uda_jax.ops.view_synthesis import (
    back_project,
    camera_matrix,
    depth_from_disparity,
    in_view,
    project,
    rigid_motion,
    sample_bilinear,
    synthesise_view,
)

__all__ = [
    "CONVENTIONS",
    "NO_SUPERVISION",
    "back_project",
    "block_grid",
    "block_mask",
    "blur_kernel_size",
    "bounded_boxes",
    "box_masks",
    "camera_matrix",
    "choose_classes",
    "class_means",
    "class_shares",
    "classmix_mask",
    "colour_jitter",
    "complementary_dropout",
    "confusion_matrix",
    "cow_masks",
    "denormalise",
    "depth_from_disparity",
    "draw_complementary",
    "draw_jitter",
    "draw_photometric",
    "empty_pool",
    "entropy_score",
    "exchange_with_pool",
    "from_tanh",
    "gaussian_blur",
    "grey",
    "in_view",
    "information",
    "inverse_depth",
    "jensen_shannon",
    "k_centre_greedy",
    "majority_labels",
    "mean_colour",
    "mean_entropy",
    "mean_prediction",
    "mix",
    "most_uncertain",
    "neighbourhood_density",
    "normalise",
    "photometric_jitter",
    "project",
    "rare_class_count",
    "rare_class_normaliser",
    "relative_inverse_depth",
    "resize_bilinear",
    "resize_nearest_legacy",
    "rigid_motion",
    "sample_bilinear",
    "self_information",
    "split_by_score",
    "synthesise_view",
    "to_pixels",
    "uncertain_and_diverse",
]
