"""What an optimiser makes of given gradients."""

import jax
import optax


def train(optimiser, params, gradients):
    """Returns the parameters after each step, from a compiled step."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = optimiser.init(params), []
    for gradient in gradients:
        params, state = step(params, state, gradient)
        trajectory.append(params)
    return trajectory
