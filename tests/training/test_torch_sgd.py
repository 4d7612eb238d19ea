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


def old_torch_sgd(params, gradients, occurrences, rate, momentum, decay):
    """SGD up to PyTorch 1.4 on one tensor that its list of parameters names several times, after each step.

    For every occurrence in the list: `d_p = p.grad.data; d_p.add_(decay, p.data)`, so that the decay stays in the
    gradient; the buffer is `clone(d_p)` the first time and `buf.mul_(momentum).add_(d_p)` from then on;
    `p.data.add_(-rate, buf)`.
    """
    params, buffer, trajectory = params.copy(), None, []
    for gradient in gradients:
        stored = gradient.copy()
        for _ in range(occurrences):
            stored += decay * params
            if buffer is None:
                buffer = stored.copy()
            else:
                buffer *= momentum
                buffer += stored
            params -= rate * buffer
        trajectory.append(params.copy())
    return trajectory


@pytest.mark.parametrize("occurrences", [1, 3, 4])
def test_decay_accumulates_as_in_old_pytorch(occurrences):
    params = np.array([2.0, -1.5, 0.25])
    gradients = [np.array([0.5, 0.0, -1.0]), np.array([-0.25, 1.0, 0.125])]
    expected = old_torch_sgd(params, gradients, occurrences, rate=0.1, momentum=0.9, decay=0.2)
    options = {"momentum": 0.9, "weight_decay": 0.2, "repeats": occurrences}
    given = jnp.asarray(params, jnp.float32), [jnp.asarray(g, jnp.float32) for g in gradients]
    accumulating, fixed = (
        train(torch_sgd(lambda _: 0.1, accumulate_decay=form, **options), *given) for form in (True, False)
    )
    for got, other, want in zip(accumulating, fixed, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        # Which form it is does not matter to what is listed once.
        assert np.allclose(got, other, rtol=1e-5) == (occurrences == 1)


def test_accumulated_decay_by_hand():
    """Two occurrences, two steps, no gradient: the second time of each step decays twice, by 0.5 p each time."""
    ours = torch_sgd(lambda _: 0.5, momentum=0.0, weight_decay=0.5, repeats=2, accumulate_decay=True)
    found = train(ours, jnp.array(16.0), [jnp.array(0.0)] * 2)
    # g = 8, p = 12; g = 8 + 6, p = 5. Then g = 2.5, p = 3.75; g = 2.5 + 1.875, p = 1.5625.
    np.testing.assert_array_equal(found, [5.0, 1.5625])
