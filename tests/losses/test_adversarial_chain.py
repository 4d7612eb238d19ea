"""Logits -> map -> discriminator -> adversarial loss, with gradients, against AdaptSegNet's and ADVENT's code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import networks, ops, weights
from uda_jax.losses import adversarial, self_information

GOLDEN = vectors.FOLDER


def discriminator(manifest, dialect):
    """Returns the discriminator as a function of its map, with the stand-in weights of the golden files."""
    variables = weights.from_torch(vectors.stand_in(manifest), dialect)
    network = networks.build("pixel_discriminator", variables["params"]["conv1"]["kernel"].shape[2])
    return lambda x: network.apply(variables, x)


@pytest.mark.parametrize(("kind", "short"), [("bce", "bce"), ("least_squares", "ls")])
def test_adaptsegnet_softmax_path(kind, short):
    golden = np.load(GOLDEN / "adaptsegnet-ass/adversarial_path.npz")
    judge = discriminator("adaptsegnet-ass/fc_discriminator_manifest.json", "adaptsegnet_discriminator")
    size = tuple(map(int, golden["size"]))

    @jax.jit
    def loss(logits):
        outputs = judge(jax.nn.softmax(ops.resize_bilinear(logits, size, align_corners=True)))
        return adversarial(outputs, 0, kind=kind), outputs

    with jax.default_matmul_precision("highest"):
        (value, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(nhwc(golden["logits"]))
    np.testing.assert_allclose(outputs, nhwc(golden["d_logit"]), rtol=1e-4)
    np.testing.assert_allclose(value, golden[f"{short}_label0"], rtol=1e-4)
    np.testing.assert_allclose(gradient, nhwc(golden[f"grad_logits_{short}_label0"]), rtol=1e-3, atol=1e-7)


def test_advent_entropy_chain():
    golden = np.load(GOLDEN / "advent-intrada/adversarial_chain.npz")
    judge = discriminator("advent-intrada/discriminator_manifest.json", "advent_discriminator")

    @jax.jit
    def loss(logits):
        outputs = judge(self_information(jax.nn.softmax(logits)))
        return adversarial(outputs, 0), outputs

    with jax.default_matmul_precision("highest"):
        (value, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(nhwc(golden["logits"]))
    np.testing.assert_allclose(outputs, nhwc(golden["d_out"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, golden["loss_label0"], rtol=1e-4)
    np.testing.assert_allclose(adversarial(outputs, 1), golden["loss_label1"], rtol=1e-4)
    expected = nhwc(golden["grad_logits_label0"])
    assert jnp.abs(gradient - expected).max() <= 1e-3 * np.abs(expected).max()
