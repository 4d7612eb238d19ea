"""SGD in PyTorch's form beside optax's; its trajectories against PyTorch's are in test_optimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import train

from uda_jax.training import schedules
from uda_jax.training.schedules import Schedule
from uda_jax.training.torch_sgd import torch_sgd


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_repetition_equals_optax(nesterov):
    rate = schedules.make(Schedule(horizon=10), 0.1)
    ours = torch_sgd(rate, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    theirs = optax.chain(
        optax.add_decayed_weights(0.01), optax.trace(0.9, nesterov=nesterov), optax.scale_by_learning_rate(rate)
    )
    params = {"w": jnp.array([0.3, -1.0, 2.0])}
    gradients = [{"w": jax.random.normal(jax.random.key(i), (3,))} for i in range(5)]
    for a, b in zip(train(ours, params, gradients), train(theirs, params, gradients), strict=True):
        np.testing.assert_allclose(a["w"], b["w"], rtol=1e-6)


def test_repetitions_are_one_gradient_applied_again():
    """Parameters and buffer change between the repetitions, gradient and rate do not."""
    rate, momentum, decay, gradient = 0.5, 0.5, 0.25, 1.0
    params, buffer = 2.0, 0.0
    for _ in range(3):
        buffer = momentum * buffer + gradient + decay * params
        params -= rate * buffer
    ours = torch_sgd(lambda _: rate, momentum=momentum, weight_decay=decay, repeats=3)
    (found,) = train(ours, {"w": jnp.array(2.0)}, [{"w": jnp.array(gradient)}])
    np.testing.assert_allclose(found["w"], params, rtol=1e-6)
    with pytest.raises(ValueError, match="params"):
        ours.update({"w": jnp.array(1.0)}, ours.init({"w": jnp.array(2.0)}))
