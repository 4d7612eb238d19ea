"""Variables for tests of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def fill_network(network, images):
    """Variables from NumPy, with statistics unlike those of any batch."""
    generator = np.random.default_rng(0)

    def fill(path, leaf):
        match path[-1].key:
            case "kernel":
                return generator.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape)
            case "var" | "scale":
                return generator.uniform(0.5, 1.5, leaf.shape)
            case _:
                return generator.normal(0, 0.1, leaf.shape)

    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    return jax.tree.map_with_path(lambda path, leaf: jnp.asarray(fill(path, leaf), jnp.float32), shapes)


@pytest.fixture(scope="session")
def filled():
    """Function of a network and images that returns variables with statistics unlike those of any batch."""
    return fill_network
