"""Cycle association, as whole matrices and tile by tile: golden files, properties, what passes no gradient, memory."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import losses
from uda_jax.losses import association_blockwise

GOLDEN = vectors.FOLDER / "plca"
FILES = sorted(path.name for path in GOLDEN.glob("assoc_*.npz"))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _run(source, target, labels, similarity, aggregation, block_size, target_labels):
    options = {"similarity": similarity, "aggregation": aggregation, "block_size": block_size}

    def loss(source, target):
        found = losses.association_diagnostics(source, target, labels, target_labels=target_labels, **options)
        if aggregation:
            found["mixed_target"] = losses.aggregate(
                target, similarity=similarity, alpha=aggregation, block_size=block_size
            )
        return losses.cycle_association(source, target, labels, **options), found

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(source, target)


def run(source, target, labels, similarity="cosine", aggregation=0.5, block_size=None, target_labels=None):
    """Returns the loss, its gradients to the features or logits of source and target, and the diagnostics."""
    found = _run(source, target, labels, similarity, aggregation, block_size, target_labels)
    # On the host, where comparing results compiles nothing.
    (value, found), gradients = jax.device_get(found)
    found["raw_gradients"] = gradients
    if similarity == "kl":
        gradients = [
            p * (slope - np.sum(p * slope, axis=-1, keepdims=True))
            for p, slope in zip((source, target), gradients, strict=True)
        ]
    return value, *gradients, found


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def close(actual, expected, tolerance=1e-4):
    """Compares relative to the largest value expected."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def blocks(pixels):
    """None, a number of pixels that divides all of them, and one that does not."""
    divisor = next(n for n in range(2, pixels + 1) if pixels % n == 0)
    return None, divisor, next((n for n in range(max(2, pixels // 4), pixels) if pixels % n), 1)


@pytest.mark.parametrize("name", FILES)
def test_golden(name):
    file = np.load(GOLDEN / name)
    similarity, kind = ("cosine", "feat") if "feat_source" in file else ("kl", "probs")
    inputs = [nhwc(file[f"{kind}_{domain}"]) for domain in ("source", "target")]
    options = similarity, 0.5 if "agg_weights" in file else None
    results = []
    dense, divisor, other = blocks(inputs[1].shape[1] * inputs[1].shape[2])
    unequal = inputs[0].shape != inputs[1].shape
    for block_size in (dense, divisor, other) if unequal else (dense, other):
        value, *gradients, found = run(*inputs, file["label_source"], *options, block_size, file["label_target"])
        np.testing.assert_allclose(value, file["loss"], rtol=1e-5)
        for gradient, domain in zip(gradients, ("source", "target"), strict=True):
            close(gradient, nhwc(file[f"grad_{'feat' if similarity == 'cosine' else 'logits'}_{domain}"]))
        for gradient, domain in zip(found["raw_gradients"], ("source", "target"), strict=True):
            close(gradient, nhwc(file[f"grad_{kind}_{domain}"]))
        for key in ("target_index", "return_index", "cycle_mask", "selected_mask"):
            np.testing.assert_array_equal(found[key], file[key], err_msg=key)
        for key, expected in (("cover", "cover"), ("positive", "pos"), ("correct", "correct")):
            np.testing.assert_allclose(found[f"{key}_ratio"], file[f"{expected}_ratio"], rtol=1e-6, err_msg=key)
        if "mixed_target" in found:
            np.testing.assert_allclose(found["mixed_target"], nhwc(file["mixed_target"]), rtol=1e-4, atol=1e-6)
        results.append((value, *gradients))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            close(actual, expected, 1e-5)


@pytest.mark.parametrize("name", ["assoc_cos_unequal.npz", "assoc_kl_noagg.npz"])
def test_golden_deviations_and_probabilities(name):
    file = np.load(GOLDEN / name)
    kind = "feat" if "cos" in name else "probs"
    names = f"{kind}_source", "mixed_target" if "mixed_target" in file else f"{kind}_target"
    source, target = (np.reshape(nhwc(file[key])[0], (-1, file[key].shape[1])) for key in names)
    if "cos" in name:
        source, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, target))
        there = back = source, target
    else:
        there, back = (source, np.log(target + 1e-10)), (np.log(source + 1e-10), target)

    @jax.jit
    def find(there, back):
        temperatures = association_blockwise.deviations(*there), association_blockwise.deviations(*back[::-1])
        return temperatures, association_blockwise.blockwise_argmax(there, back, *temperatures, 8)

    temperatures, (index, log, source_index, source_log) = find(there, back)
    for deviation, key in zip(temperatures, ("std_st", "std_ts"), strict=True):
        np.testing.assert_allclose(deviation, file[key][0], rtol=1e-4)
    for i, logs, key in ((index, log, "prob_st"), (source_index, source_log, "prob_ts")):
        np.testing.assert_array_equal(i, file[key][0].argmax(axis=1))
        np.testing.assert_allclose(np.exp(logs), file[key][0].max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(np.exp(log + source_log[index]), file["pair_score"][0], rtol=1e-4)


def test_golden_files_are_found():
    assert sum("cos" in name for name in FILES) >= 2 and sum("kl" in name for name in FILES) >= 2


SHAPES = (2, 4, 5, 6), (2, 3, 6, 6)
# Similarity, aggregation, block size: each similarity in both forms, 7 and 18 pixels without a common divisor.
FORMS = [("cosine", 0.5, None), ("cosine", 0.5, 7), ("kl", 0.5, None), ("kl", 0.5, 7)]


def maps(similarity, seed=0):
    """Features after a ReLU, or probabilities, and labels of which some are ignored."""
    random = np.random.RandomState(seed)
    x, y = (random.normal(size=shape).astype(np.float32) for shape in SHAPES)
    labels = random.choice([0, 1, 255], SHAPES[0][:3], p=[0.45, 0.45, 0.1])
    return (
        (np.maximum(x, 0), np.maximum(y, 0), labels)
        if similarity == "cosine"
        else (softmax(2 * x), softmax(2 * y), labels)
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_properties(form):
    source, target, labels = maps(form[0])
    value, source_gradient, target_gradient, found = run(source, target, labels, *form)
    assert value > 0 and found["selected_mask"].any() and not found["selected_mask"].all()

    # Pixels are a set, and classes are names.
    random = np.random.RandomState(1)
    rows, columns = random.permutation(4), random.permutation(5)
    mixed = lambda x: x[:, rows][:, :, columns]  # noqa: E731
    other = run(mixed(source), target, np.where(mixed(labels) == 255, 255, 1 - mixed(labels)), *form)
    for actual, expected in zip(other, (value, mixed(source_gradient), target_gradient), strict=False):
        close(actual, expected, 1e-5)
    columns = random.permutation(6)
    other = run(source, target[:, ::-1, columns], labels, *form)
    for actual, expected in zip(other, (value, source_gradient, target_gradient[:, ::-1][:, :, columns]), strict=False):
        close(actual, expected, 1e-5)

    # A batch is the mean over its selected pixels, not over its images.
    singles = [run(*(np.stack([x[i], x[i]]) for x in (source, target, labels)), *form)[0] for i in range(2)]
    counts = np.sum(np.asarray(found["selected_mask"]), axis=(1, 2))
    np.testing.assert_allclose(value, np.dot(counts, singles) / counts.sum(), rtol=1e-5)
    one, one_gradient, other_gradient, _ = run(source, target, np.stack([labels[0], np.full((4, 5), 255)]), *form)
    np.testing.assert_allclose(one, singles[0], rtol=1e-5)
    assert not one_gradient[1].any() and not other_gradient[1].any() and other_gradient[0].any()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nothing_to_associate(form):
    source, target, labels = maps(form[0])
    value, *gradients, found = run(source, target, np.full_like(labels, 255), *form)
    assert value == 0 and not any(gradient.any() for gradient in gradients)
    assert found["cycle_mask"].all() and found["positive_ratio"] == -1 and found["correct_ratio"] == -1
    # The label is unique at every start whose cycle ends elsewhere, and ignored where it ends at its start.
    ends = run(source, target, labels, *form)[3]["return_index"].reshape(labels.shape)
    own = np.arange(20).reshape(1, 4, 5)
    value, *gradients, found = run(source, target, np.where(ends == own, 255, own), *form)
    assert value == 0 and not any(gradient.any() for gradient in gradients) and found["positive_ratio"] == 0


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_degenerate_maps_stay_finite(form):
    source, target, labels = maps(form[0])
    source, target, labels = source.copy(), target.copy(), np.zeros_like(labels)
    # No feature at all, and certainty.
    source[0, 1, 2] = target[0, 0] = 0 if form[0] == "cosine" else np.eye(6)[0]
    # All pixels of the second pair are equally similar.
    source[1], target[1] = (0.7, 0.3) if form[0] == "cosine" else (source[1, 0, 0], target[1, 0, 0])
    value, *gradients, found = run(source, target, labels, *form)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
    if form[0] == "cosine":
        assert max(np.abs(gradient).max() for gradient in gradients) < 10 and not gradients[0][0, 1, 2].any()
    labels[0] = 255
    value, *gradients, found = run(source, target, labels, *form)
    np.testing.assert_allclose(value, np.log(18) + np.log(20), rtol=0.05)
    if form[0] == "cosine":
        value, *gradients, _ = run(0 * source, 0 * target, labels, *form)
        np.testing.assert_allclose(value, np.log(18) + np.log(20), rtol=1e-5)
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("block_size", [None, 7])
def test_features_count_by_direction(block_size):
    source, target, labels = maps("cosine")
    random = np.random.RandomState(2)
    value, *gradients, _ = run(source, target, labels, "cosine", None, block_size)
    for x, gradient in zip((source, target), gradients, strict=True):
        np.testing.assert_allclose(np.sum(x * gradient, axis=-1), 0, atol=1e-6)
    scaled = [(x * random.uniform(0.1, 10, (*x.shape[:3], 1))).astype(np.float32) for x in (source, target)]
    np.testing.assert_allclose(run(*scaled, labels, "cosine", None, block_size)[0], value, rtol=1e-5)
    # With aggregation one factor per target image is free, one per pixel is not.
    value = run(source, target, labels, "cosine", 0.5, block_size)[0]
    scaled = scaled[0], (target * np.array([0.2, 5], np.float32)[:, None, None, None])
    np.testing.assert_allclose(run(*scaled, labels, "cosine", 0.5, block_size)[0], value, rtol=1e-5)


def test_an_image_is_associated_with_itself():
    source = np.eye(20, 20, dtype=np.float32).reshape(1, 4, 5, 20) + 0.1
    labels = np.arange(20).reshape(1, 4, 5)
    for block_size in (None, 6):
        value, _, _, found = run(source, source, labels, "cosine", None, block_size, labels)
        for key in ("target_index", "return_index"):
            np.testing.assert_array_equal(found[key][0], np.arange(20))
        assert [found[f"{name}_ratio"] for name in ("cover", "positive", "correct")] == [1, 1, 1]
        # By hand: a row has one 1 and 19 equal entries c; its deviation is (1 - c) / sqrt(20).
        probability = np.exp(np.sqrt(20)) / (np.exp(np.sqrt(20)) + 19)
        np.testing.assert_allclose(value, -2 * np.log(probability), rtol=1e-5)
        # Of the first label alone is unknown whether it is right.
        unknown = np.where(labels == 0, 255, np.where(labels == 1, 0, labels))
        found = run(source, source, labels, "cosine", None, block_size, unknown)[3]
        np.testing.assert_allclose(found["correct_ratio"], 18 / 19, rtol=1e-6)


def frozen_loss(source, target, selected, index, source_index, deviations=None):
    """The cosine loss in float64 without aggregation, for given cycles and, unless they may move, deviations."""
    total = 0.0
    moved = []
    for n in range(len(source)):
        a, b = (x[n].reshape(-1, x.shape[-1]) for x in (source, target))
        similarities = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
        moved.append((similarities.std(axis=1, ddof=1), similarities.std(axis=0, ddof=1)))
        rows, columns = moved[n] if deviations is None else deviations[n]
        there, back = similarities / rows[:, None], similarities / columns
        there = there - np.log(np.exp(there).sum(axis=1, keepdims=True))
        back = back - np.log(np.exp(back).sum(axis=0))
        starts = np.flatnonzero(selected[n])
        ends = index[n][starts]
        total -= there[starts, ends].sum() + back[source_index[n][starts], ends].sum()
    return total / selected.sum(), moved


@pytest.mark.parametrize("block_size", [None, 7])
def test_deviations_and_cycles_pass_no_gradient(block_size):
    source, target, labels = maps("cosine")
    source, target = source + 0.1, target + 0.1
    value, *gradients, found = run(source, target, labels, "cosine", None, block_size)
    cycles = [np.asarray(found[key]) for key in ("selected_mask", "target_index", "return_index")]
    cycles[0] = cycles[0].reshape(len(labels), -1)
    expected, deviations = frozen_loss(source.astype(float), target.astype(float), *cycles)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    random = np.random.RandomState(3)
    slopes = []
    for _ in range(4):
        steps = [random.normal(size=x.shape) for x in (source, target)]
        own = sum(np.sum(step * gradient) for step, gradient in zip(steps, gradients, strict=True))
        moved = [[x + sign * 1e-5 * step for x, step in zip((source, target), steps, strict=True)] for sign in (1, -1)]
        frozen, free = (
            (frozen_loss(*moved[0], *cycles, given)[0] - frozen_loss(*moved[1], *cycles, given)[0]) / 2e-5
            for given in (deviations, None)
        )
        slopes.append((own, frozen, free))
    own, frozen, free = np.transpose(slopes)
    np.testing.assert_allclose(own, frozen, rtol=1e-3, atol=1e-4)
    assert np.abs(own - free).max() > 0.05 * np.abs(own).max()


@pytest.mark.parametrize("form", [(similarity, block) for similarity, _, block in FORMS], ids=str)
def test_aggregation(form):
    similarity, block_size = form
    x = maps(similarity)[1]
    constant = np.broadcast_to(x[:, :1, :1], x.shape)

    @jax.jit
    def mix(x, constant):
        aggregate = functools.partial(losses.aggregate, similarity=similarity, block_size=block_size)
        gradient = jax.grad(lambda x: aggregate(x)[0, 1, 2, 3])(x)
        return aggregate(x), aggregate(x, alpha=1e-7), aggregate(constant), gradient

    mixed, unmixed, same, gradient = mix(x, constant)
    if similarity == "kl":
        np.testing.assert_allclose(np.sum(mixed, axis=-1), 1, rtol=1e-5)
    assert np.abs(mixed - x).max() > 0.1
    np.testing.assert_allclose(unmixed, x, atol=1e-5)
    # The weights of a pixel sum to 1, so what is the same everywhere stays as it is.
    np.testing.assert_allclose(same, constant, rtol=1e-5)
    # One mixed pixel draws on every pixel of its image.
    gradient = np.asarray(gradient)
    assert gradient[0].any(axis=-1).all() and not gradient[1].any()


def test_labels_of_the_target_only_tell_how_good_cycles_are():
    source, target, labels = maps("cosine")
    plain, garbage = (
        run(source, target, labels, "cosine", 0.5, None, np.full(SHAPES[1][:3], label)) for label in (255, 7)
    )
    for actual, expected in zip(garbage[:3], plain[:3], strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert plain[3]["correct_ratio"] == -1 and garbage[3]["correct_ratio"] == 0


def shapes_of(jaxpr):
    """The shapes of all values in a jaxpr and in those nested in it."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in (*equation.invars, *equation.outvars))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_of(inner)


@pytest.mark.parametrize(("similarity", "channels"), [("cosine", 2048), ("kl", 19)])
def test_blockwise_holds_no_matrix(similarity, channels):
    pixels = jax.ShapeDtypeStruct((1, 92, 92, channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, 92, 92), jnp.int32)

    def largest(block_size):
        """The second largest dimension of any value."""

        def loss(source, target, labels):
            options = {"similarity": similarity, "block_size": block_size}
            found = losses.association_diagnostics(source, target, labels, **options)
            return losses.cycle_association(source, target, labels, **options), found

        jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1), has_aux=True))(pixels, pixels, labels)
        return max(sorted(shape)[-2] for shape in shapes_of(jaxpr.jaxpr) if len(shape) > 1)

    assert largest("auto") == largest(512) == max(512, channels)
    assert largest(None) == 92 * 92


def test_blockwise_memory_is_linear():
    def temporaries(rows, block_size):
        x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, rows, 32, 8), (1, rows, 32)))
        function = jax.grad(functools.partial(losses.cycle_association, block_size=block_size), (0, 1))
        return jax.jit(function).lower(x, x, y).compile().memory_analysis().temp_size_in_bytes

    small, large = (temporaries(rows, 64) for rows in (32, 64))
    assert large < 2.2 * small < 0.5 * temporaries(32, None)


def test_arguments_are_checked():
    source, target, labels = maps("cosine")
    with pytest.raises(ValueError, match="similarity: expected one of cosine, kl, got 'l2'"):
        losses.cycle_association(source, target, labels, similarity="l2")
    for alpha in (0, 1.0):
        with pytest.raises(ValueError, match=r"alpha of the aggregation: expected a number in \(0, 1\), got"):
            losses.cycle_association(source, target, labels, aggregation=alpha)
    for block_size in (0, "dense", 2.5):
        with pytest.raises(ValueError, match="block_size: expected 'auto', None or a positive number of pixels"):
            losses.aggregate(target, block_size=block_size)
    with pytest.raises(ValueError, match=r"source_labels: expected shape \(2, 4, 5\) of the maps, got \(2, 5, 4\)"):
        losses.cycle_association(source, target, labels.swapaxes(1, 2))
    with pytest.raises(ValueError, match=r"target: expected shape \[B, h, w, C\] of source \(2, 4, 5, 6\), got"):
        losses.cycle_association(source, target[..., :5], labels)
    with pytest.raises(ValueError, match=r"target_labels: expected shape \(2, 3, 6\) of the maps, got \(2, 4, 5\)"):
        losses.association_diagnostics(source, target, labels, target_labels=labels)


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("block_size", [None, 2])
def test_without_contrast_similarities_are_taken_as_they_are(similarity, block_size):
    """An independent computation in float64; cosine aggregates with the softmax of plain similarities, too."""
    generator = np.random.default_rng(3)
    source, target = (softmax(2 * generator.normal(size=(6, 4))) for _ in "st")
    labels = np.array([0, 1, 0, 1, 1, 255])

    def compared(x, z):
        if similarity == "cosine":
            return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (z / np.linalg.norm(z, axis=1, keepdims=True)).T
        return x @ np.log(z + 1e-10).T

    mixed = 0.5 * target + 0.5 * softmax(compared(target, target)) @ target
    p, q = softmax(compared(source, mixed)), softmax(compared(mixed, source))
    middle, back = p.argmax(axis=1), q.argmax(axis=1)
    chosen = [i for i in range(5) if labels[back[middle[i]]] == labels[i]]
    assert chosen
    expected = -np.mean([np.log(p[i].max() * q[middle[i]].max()) for i in chosen])
    maps = [jnp.asarray(x.reshape(1, 2, 3, 4), jnp.float32) for x in (source, target)]
    options = {"similarity": similarity, "block_size": block_size}
    compute = jax.jit(functools.partial(losses.cycle_association, **options), static_argnames="contrast")
    plain, scaled = (compute(*maps, labels.reshape(1, 2, 3), contrast=contrast) for contrast in (False, True))
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    assert abs(float(plain) - float(scaled)) > 0.05
