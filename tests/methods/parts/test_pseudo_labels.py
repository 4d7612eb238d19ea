"""Pseudo-labels of an image and its mirror image, and augmentations of colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax.errors import UserError
from uda_jax.methods.parts.augmentation import Augmentation, strong, weak
from uda_jax.methods.parts.pseudo_labels import flip_averaged


def test_flip_averaged_pseudo_labels():
    golden = vectors.load("vfm-uda/pseudo_label_flip.npz")
    logits, mirrored = nhwc(golden["logits"]), nhwc(golden["logits_of_flipped_image"])
    found = flip_averaged(logits, mirrored, threshold=float(golden["threshold"]), distrust=golden["ignore_mask"] == 255)
    np.testing.assert_array_equal(found.label, golden["pseudo_label"])
    np.testing.assert_allclose(found.confidence, golden["probability"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.weight, golden["pseudo_weight"], rtol=0, atol=1e-6)
    everywhere = flip_averaged(logits, mirrored, threshold=float(golden["threshold"]))
    np.testing.assert_allclose(everywhere.weight, golden["pseudo_weight"].max(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("section", [weak(), strong(), Augmentation()])
def test_augmented_images_stay_images(section):
    images = jax.random.randint(jax.random.key(0), (6, 20, 24, 3), 0, 256).astype(jnp.uint8)
    apply = jax.jit(section.apply)
    once, again = apply(jax.random.key(1), images), apply(jax.random.key(1), images)
    np.testing.assert_array_equal(once, again)
    assert once.dtype == jnp.float32 and once.min() >= 0 and once.max() <= 255.001
    changed = np.abs(once - images).max((1, 2, 3)) > 0.01
    assert changed.any()


def test_each_image_has_its_own_draws():
    images = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (1, 40, 40, 3), maxval=255.0), (40, 40, 40, 3))
    found = jax.jit(Augmentation(jitter=0.5, grey=0.3, blur=0.5).apply)(jax.random.key(2), images)
    assert len(np.unique(np.asarray(found).reshape(40, -1).round(2), axis=0)) > 20
    untouched = np.abs(found - images).max((1, 2, 3)) < 1e-3
    assert 0 < untouched.sum() < 20
    np.testing.assert_array_equal(Augmentation(jitter=0, blur=0).apply(jax.random.key(0), images), images)


def test_bounds_in_order():
    with pytest.raises(UserError, match=r"a.blur_sigma: expected \(low, high\), got \(2.0, 1.0\)"):
        Augmentation(blur_sigma=(2.0, 1.0)).check("a")
