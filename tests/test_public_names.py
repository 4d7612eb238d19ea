"""The names that other programs import, with their signatures: changing one breaks somebody's script."""

import importlib
import inspect

import pytest

SIGNATURES = {
    "ops.normalise": "(images, convention)",
    "ops.resize_bilinear": "(x, size, *, align_corners)",
    "ops.resize_nearest_legacy": "(labels, size)",
    "ops.confusion_matrix": "(labels, predictions, num_classes, *, ignore_label=255)",
    "ops.class_means": "(features, labels, num_classes)",
    "ops.classmix_mask": "(labels, chosen)",
    "ops.rigid_motion": "(axis_angle, translation, *, inverse=False)",
    "ops.synthesise_view": "(view, depth, intrinsics, motion, *, view_intrinsics=None)",
    "losses.cross_entropy": "(logits, labels, *, ignore_label=255, class_weights=None, pixel_weights=None)",
    "losses.self_information": "(probabilities)",
    "losses.entropy": "(probabilities)",
    "losses.adversarial": "(logits, label, *, kind='bce')",
    "losses.berhu": "(prediction, target, mask)",
    "losses.lovasz_softmax": "(probabilities, labels)",
    "losses.adaptive_label_smoothing": "(logits, *, strength=10.0)",
    "losses.cycle_association": "(source, target, source_labels, *, similarity='cosine', aggregation=0.5, "
    "block_size='auto', contrast=True)",
    "losses.association_diagnostics": "(source, target, source_labels, *, similarity='cosine', aggregation=0.5, "
    "block_size='auto', contrast=True, target_labels=None)",
    "losses.view_synthesis_loss": "(disparities, frame, views, intrinsics, motions, *, key=None, auto_mask=True, "
    "smoothness=0.001, nearest=0.1, farthest=100.0)",
    "training.metrics.iou": "(confusion)",
    "training.metrics.mean_iou": "(confusion, classes=None)",
    "training.metrics.dice": "(confusion)",
    "networks.build": "(name, num_classes, **options)",
    "weights.from_torch": "(state_dict, dialect)",
    "weights.to_torch": "(variables, dialect)",
    "methods.get": "(name)",
    "methods.names": "()",
    "load": "(path, step='last')",
    "data.get_dataset": "(name, root, split, label_space='19', **options)",
    "data.label_spaces.lookup_table": "(dataset, protocol)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    room, attribute = f"uda_jax.{name}".rsplit(".", 1)
    function = getattr(importlib.import_module(room), attribute)
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]
