"""Disparity and motion networks: sizes on every encoder, the decoder by hand, the motion's unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.networks.disparity import DisparityDecoder, ReflectedConv


@pytest.mark.parametrize("encoder", ["resnet14", "resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0"])
def test_scales_and_motion_on_every_encoder(encoder):
    """Of 40x72 pixels, whose maps at strides 16 and 32 are rounded up; every parameter is float32."""
    for dtype in (jnp.float32, jnp.bfloat16):
        network = networks.build(f"disparity_{encoder}", 1, width=8, decoder_width=2, dtype=jnp.dtype(dtype))
        images = jnp.zeros((2, 40, 72, 3))
        variables = jax.eval_shape(network.init, jax.random.key(0), images)
        maps = jax.eval_shape(network.apply, variables, images)
        assert {name: x.shape for name, x in maps.items()} == {
            f"disparity_{s}": (2, 40 >> s, 72 >> s, 1) for s in range(4)
        }
        assert {x.dtype for x in jax.tree.leaves((variables, maps))} == {jnp.dtype(jnp.float32)}
    assert set(variables["params"]) == {"encoder", "decoder"}
    motion = networks.build(f"motion_{encoder}", 1, width=8, motion_width=4)
    found = jax.eval_shape(lambda x: motion.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, 40, 72, 6)))
    assert {name: x.shape for name, x in found.items()} == {"axis_angle": (2, 3), "translation": (2, 3)}


def test_the_decoder_joins_what_belongs_together():
    """Channels of the second block of each level: those of the first, and the encoder's next larger map."""
    maps = [jnp.zeros((1, 8 >> s, 16 >> s, 3 + s)) for s in range(4)] + [jnp.zeros((1, 1, 1, 7))]
    params = jax.eval_shape(lambda: DisparityDecoder(2).init(jax.random.key(0), maps, (16, 32)))["params"]
    for level, features in enumerate((2, 4, 8, 16, 32)):
        beside = 2 + level if level else 0
        shape = params[f"up_{level}_1"]["conv"]["kernel"].shape
        assert shape == (3, 3, features + beside, features), level
    assert {name for name in params if name.startswith("disparity")} == {f"disparity_{s}" for s in range(4)}


def test_reflection_at_the_border():
    """All elements 1: sums over 3x3 pixels, of which those outside are the ones inside beside the border's."""
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    variables = jax.tree.map(jnp.zeros_like, ReflectedConv(1).init(jax.random.key(0), x))
    variables["params"]["conv"]["kernel"] += 1
    padded = np.pad(np.arange(6.0).reshape(2, 3), 1, mode="reflect")
    expected = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).sum(axis=(2, 3))
    np.testing.assert_allclose(ReflectedConv(1).apply(variables, x)[0, ..., 0], expected)
    # One row has nothing to reflect.
    np.testing.assert_allclose(ReflectedConv(1).apply(variables, x[:, :1])[0, ..., 0], [[6, 9, 12]])
