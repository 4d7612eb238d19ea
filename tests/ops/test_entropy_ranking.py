"""Ranking by entropy: the golden file, hand constants, and what a split into easy and hard must fulfil."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors

from uda_jax import losses, ops

GOLDEN = vectors.load("advent-intrada/entropy_rank.npz")
# wall, fence, pole, light, sign, terrain, rider, truck, bus, train, motorcycle
RARE = (3, 4, 5, 6, 7, 9, 12, 14, 15, 16, 17)
PREFIX = "n_easy_"


@pytest.fixture(scope="module")
def ranked():
    """Scores, rare classes and predictions of the golden images, one image at a time as the reference does."""

    @jax.jit
    def rank(logits):
        probabilities = jax.nn.softmax(logits)
        predictions = jnp.argmax(probabilities, axis=-1)
        rare = ops.rare_class_count(predictions, RARE, logits.shape[-1])
        return ops.entropy_score(probabilities), rare, predictions

    parts = [rank(np.moveaxis(image, 0, -1)[None]) for image in GOLDEN["logits"]]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def test_golden_scores(ranked):
    scores, rare, predictions = ranked
    np.testing.assert_allclose(scores, GOLDEN["score"], rtol=1e-5)
    np.testing.assert_array_equal(rare, GOLDEN["num_rare"])
    np.testing.assert_array_equal(predictions, GOLDEN["pseudo_label"])
    factors = ops.rare_class_normaliser(rare, len(RARE))
    np.testing.assert_allclose(factors, GOLDEN["normalizer"], rtol=1e-6)
    np.testing.assert_allclose(scores * factors, GOLDEN["score_normalized"], rtol=1e-5)


@pytest.mark.parametrize("name", sorted(name for name in GOLDEN.files if name.startswith(PREFIX)))
def test_golden_splits(ranked, name):
    kind, fraction = name.removeprefix(PREFIX).rsplit("_", 1)
    scores, rare, _ = ranked
    if kind == "normalized":
        scores = scores * ops.rare_class_normaliser(rare, len(RARE))
    easy, hard = ops.split_by_score(scores, float(fraction))
    assert len(easy) == GOLDEN[name]
    np.testing.assert_array_equal(np.concatenate([easy, hard]), GOLDEN[f"order_{kind}"])


def test_golden_splits_are_compared():
    assert sum(name.startswith(PREFIX) for name in GOLDEN.files) >= 2


def probabilities(seed, *shape):
    x = np.random.RandomState(seed).rand(*shape).astype(np.float32)
    return x / x.sum(axis=-1, keepdims=True)


def test_score_by_hand():
    # Two equal classes of four: one bit of two, so half the entropy, a quarter of it per class.
    certain, half, uniform = [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4
    images = np.array([[certain, half], [uniform, half], [uniform, uniform]], np.float32)[:, None]
    expected = [0.5 / 2 / 4, 1.5 / 2 / 4, 1 / 4]
    scores = ops.entropy_score(images)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(ops.entropy_score)(images), expected, rtol=1e-6)
    # The mean over images is the MinEnt loss divided by the number of classes.
    np.testing.assert_allclose(scores.mean(), losses.entropy(images) / 4, rtol=1e-6)


def test_bfloat16_is_scored_in_float32():
    images = jnp.asarray(probabilities(2, 2, 3, 4, 5), jnp.bfloat16)
    scores = ops.entropy_score(images)
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(scores, ops.entropy_score(images.astype(jnp.float32)))


def test_sharper_predictions_never_rank_higher():
    logits = np.random.RandomState(3).normal(size=(6, 4, 5, 7)) * np.linspace(0.5, 2, 6).reshape(6, 1, 1, 1)
    score = jax.jit(lambda logits: ops.entropy_score(jax.nn.softmax(logits)))

    def rank(image, sharpness):
        factors = np.where(np.arange(6) == image, sharpness, 1.0).reshape(6, 1, 1, 1)
        return np.concatenate(ops.split_by_score(score(logits * factors), 0.5)).tolist().index(image)

    first = []
    for image in range(6):
        ranks = [rank(image, sharpness) for sharpness in (1.0, 1.5, 3.0, 100.0)]
        assert ranks == sorted(ranks, reverse=True) and ranks[-1] == 0
        first.append(ranks[0])
    assert sorted(first) == list(range(6))


def test_rare_classes_by_hand():
    predictions = np.array([[[3, 3], [4, 0]], [[0, 1], [2, 8]], [[9, 0], [0, 0]]])
    for run in (ops.rare_class_count, jax.jit(ops.rare_class_count, static_argnums=(1, 2))):
        counts = run(predictions, (3, 4, 9), 10)
        np.testing.assert_array_equal(counts, [2, 0, 1])
        assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(ops.rare_class_count(predictions.astype(np.uint8), (9, 3, 3, 4), 10), [2, 0, 1])
    np.testing.assert_array_equal(ops.rare_class_count(predictions, (), 10), [0, 0, 0])
    for rare in ((3, 10), (-1, 3)):
        with pytest.raises(ValueError, match=r"rare: expected classes in \[0, 10\), got"):
            ops.rare_class_count(predictions, rare, 10)


def test_normaliser_by_hand():
    factors = ops.rare_class_normaliser(np.arange(12), 11)
    assert factors[0] == 1.5 and factors[11] == 0.5 and (np.diff(factors) < 0).all()
    np.testing.assert_allclose(ops.rare_class_normaliser(jnp.array([2, 8]), 8), [1.25, 0.5])
    with pytest.raises(ValueError, match="total: expected at least one rare class, got 0"):
        ops.rare_class_normaliser(np.zeros(3), 0)


def test_split_by_hand():
    easy, hard = ops.split_by_score(np.array([0.3, 0.1, 0.2, 0.1]), 0.5)
    assert easy.tolist() == [1, 3] and hard.tolist() == [2, 0]
    # Among equals the earlier image is the easier one.
    easy, hard = ops.split_by_score(np.arange(300) % 2, 0.5)
    assert easy.tolist() == list(range(0, 300, 2)) and hard.tolist() == list(range(1, 300, 2))
    assert [len(part) for part in ops.split_by_score(jnp.arange(3.0), 1.0)] == [3, 0]
    assert [len(part) for part in ops.split_by_score([2.0, 1.0], 0.0)] == [0, 2]


# Cut down, not rounded, and after the floating-point product: 100 * 0.29 is 28.999999999999996.
@pytest.mark.parametrize(("count", "fraction", "easy"), [(2975, 0.67, 1993), (100, 0.29, 28), (100, 0.57, 56)])
def test_size_of_the_easy_part(count, fraction, easy):
    parts = ops.split_by_score(np.random.RandomState(0).rand(count), fraction)
    assert [len(part) for part in parts] == [easy, count - easy]


def test_split_is_a_partition_that_does_not_depend_on_the_order():
    rng = np.random.RandomState(1)
    scores = rng.rand(41)
    easy, hard = ops.split_by_score(scores, 0.67)
    assert sorted([*easy, *hard]) == list(range(41))
    assert scores[easy].max() <= scores[hard].min()
    order = rng.permutation(41)
    again = ops.split_by_score(scores[order], 0.67)
    np.testing.assert_array_equal(order[again[0]], easy)
    np.testing.assert_array_equal(order[again[1]], hard)


def test_split_refuses_what_has_no_order():
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"fraction: expected a number in \[0, 1\]"):
            ops.split_by_score(np.zeros(2), fraction)
    with pytest.raises(ValueError, match="scores: expected finite numbers, got nan at position 1"):
        ops.split_by_score(np.array([0.0, np.nan]), 0.5)
