"""Colour jitter by torchvision's rules, with constants made by hand."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import ops

IMAGES = jax.random.uniform(jax.random.key(0), (2, 3, 4, 3))
NONE = np.array([1.0, 1.0, 1.0, 0.0], np.float32)
ORDER = jnp.array([[0, 1, 2, 3], [3, 2, 1, 0]])


def changed(**factors):
    rows = np.tile(NONE, (2, 1))
    for name, value in factors.items():
        rows[0, ("brightness", "contrast", "saturation", "hue").index(name)] = value
    return jax.jit(ops.photometric_jitter)(IMAGES, rows, ORDER)


def grey(x):
    return x @ np.array([0.2989, 0.587, 0.114])


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({"brightness": 1.5}, lambda x: 1.5 * x),
        ({"contrast": 0.25}, lambda x: 0.25 * x + 0.75 * grey(x).mean()),
        ({"saturation": 1.5}, lambda x: 1.5 * x - 0.5 * grey(x)[..., None]),
        # In this order: brightness, then contrast.
        ({"brightness": 0.5, "contrast": 0.5}, lambda x: 0.25 * x + 0.25 * grey(x).mean()),
    ],
)
def test_each_change(factors, expected):
    found = changed(**factors)
    np.testing.assert_allclose(found[0], np.clip(expected(np.asarray(IMAGES[0])), 0, 1), rtol=0, atol=1e-5)
    # Nothing happens to the other image, whatever its order.
    np.testing.assert_allclose(found[1], IMAGES[1], rtol=0, atol=1e-6)


def test_hue():
    found = changed(hue=0.3)[0]
    for before, after in zip(np.asarray(IMAGES[0]).reshape(-1, 3), np.asarray(found).reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value), atol=1e-5)


def test_draws():
    spans = {"brightness": 0.2, "contrast": 1.5, "saturation": 0.0, "hue": 0.4}
    factors, orders = ops.draw_photometric(jax.random.key(1), 400, **spans)
    assert (np.sort(orders, axis=1) == np.arange(4)).all() and len(np.unique(orders, axis=0)) == 24
    low, high = factors.min(0), factors.max(0)
    np.testing.assert_allclose(low, [0.8, 0.0, 1.0, -0.4], atol=0.02)
    np.testing.assert_allclose(high, [1.2, 2.5, 1.0, 0.4], atol=0.02)
