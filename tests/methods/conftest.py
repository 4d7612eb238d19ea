"""A batch for tests of methods, and what they compare states with."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest

from uda_jax.training.initialisation import initialise


def _flat(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.fixture(scope="session")
def batch() -> dict[str, dict[str, np.ndarray]]:
    """Two dark labelled source images and two bright target images of 32x64 pixels, three classes."""
    generator = np.random.default_rng(0)
    image = lambda low, high: generator.integers(low, high, (2, 32, 64, 3), dtype=np.uint8)  # noqa: E731
    label = generator.integers(0, 3, (2, 32, 64), dtype=np.uint8)
    return {"source": {"image": image(0, 120), "label": label}, "target": {"image": image(100, 256)}}


@pytest.fixture(scope="session")
def flat() -> Callable[[Any], dict[str, np.ndarray]]:
    """A function from a tree to {path: leaf on the host}."""
    return _flat


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """A function that tells whether two trees of the same structure are equal bit for bit."""

    def compare(left: Any, right: Any) -> bool:
        left, right = _flat(left), _flat(right)
        assert left.keys() == right.keys()
        return all(np.array_equal(leaf, right[path]) for path, leaf in left.items())

    return compare


@pytest.fixture(scope="session")
def check_one_trace() -> Callable[[Any, Mapping], None]:
    """A function that runs three donated steps of a method and checks that they were compiled once."""

    def check(method: Any, batch: Mapping) -> None:
        state = initialise(lambda key: method.init(key, batch), jax.random.key(0))
        step = jax.jit(method.train_step, donate_argnums=0)
        with jax.transfer_guard("disallow"):
            arrays = jax.device_put(batch)
            for _ in range(3):
                old, (state, _) = state, step(state, arrays)
                assert jax.tree.leaves(old.params)[0].is_deleted()
        assert step._cache_size() == 1

    return check
