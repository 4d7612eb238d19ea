"""Depths of unknown scale in metres, by the median of each frame; both forms of the figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.inference import depth
from uda_jax.training import metrics


def test_median_scale_of_each_frame():
    """Medians of 2, 4 and 8 over 1, 3 and 3, of an even number 3 over 2; the invalid pixel of 9 does not count."""
    true = jnp.array([[[2.0, 4.0, 8.0, 0.0]], [[2.0, 4.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    predicted = jnp.array([[[1.0, 3.0, 3.0, 9.0]], [[3.0, 1.0, 9.0, 9.0]], [[1.0, 2.0, 3.0, 4.0]]])
    for function in (depth.median_scale, jax.jit(depth.median_scale)):
        np.testing.assert_allclose(function(predicted, true), [4 / 3, 3 / 2, 1], rtol=1e-6)
    np.testing.assert_allclose(depth.median_scale(-predicted, true)[0], 4 / depth.MIN_DEPTH, rtol=1e-6)
    # Right but for the scale is right.
    scaled = 0.25 * true * depth.median_scale(0.25 * true, true)[:, None, None]
    assert not np.asarray(depth.row_sums(scaled, true)[..., 1:5]).any()
    with pytest.raises(ValueError, match="expected one shape"):
        depth.median_scale(true, true[:, :, :1])


def test_every_metric_of_depth_has_a_scaled_form():
    plain = [name for name, known in metrics.METRICS.items() if known.map == "depth" and not name.endswith("_scaled")]
    assert len(plain) == 7
    for name in plain:
        assert metrics.METRICS[f"{name}{metrics.SCALED}"] == metrics.METRICS[name]
    sums = dict.fromkeys(metrics.DEPTH_SUMS, 1.0)
    assert list(metrics.depth_metrics(sums)) == plain
