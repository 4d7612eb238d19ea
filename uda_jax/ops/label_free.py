"""What can be said of predictions without labels: the functions behind the criteria of model selection.

Each is pure and of one frame or of means over frames; `inference.criteria` lists the criteria that are made of them,
`training.metrics.kappa` is that of agreement.
Probabilities are softmax outputs, p(x, c) of pixel x and class c, C classes.
"""

import jax
import jax.numpy as jnp

from uda_jax.ops.self_information import self_information

# Of soft neighbourhood density; the paper's.
TEMPERATURE = 0.05


def mean_entropy(probabilities: jax.Array) -> jax.Array:
    r"""Mean normalised entropy, :math:`\frac{1}{|x| \log C} \sum_x \sum_c -p(x, c) \log p(x, c)`; lower is surer.

    Grandvalet and Bengio (NeurIPS 2004) and ADVENT (Vu et al., CVPR 2019, section 3.1) minimise it.

    Args:
      probabilities: `[..., h, w, C]`.

    Returns:
      float32 `[...]` in [0, 1].
    """
    return jnp.mean(jnp.sum(self_information(probabilities), axis=-1), axis=(-2, -1))


def mean_prediction(probabilities: jax.Array) -> jax.Array:
    r"""Mean prediction :math:`\bar p(c) = \frac{1}{|x|} \sum_x p(x, c)`, float32 `[..., C]` of `[..., h, w, C]`."""
    return jnp.mean(probabilities.astype(jnp.float32), axis=(-3, -2))


def information(entropy: jax.Array, mean: jax.Array) -> jax.Array:
    r"""Mean entropy minus entropy of the mean prediction, :math:`\overline{H(p)} - H(\bar p)`; lower is better.

    It is minus the mutual information of pixels and classes, over log C: low where predictions are sure and yet differ,
    0 where all are one class. RIM (Krause et al., NeurIPS 2010) and SHOT (Liang et al., ICML 2020) train with it.

    Args:
      entropy: mean normalised entropy of all pixels, from `mean_entropy`.
      mean: mean prediction of all pixels `[C]`.

    Returns:
      A float32 scalar in [-1, 0], up to rounding.
    """
    return entropy - jnp.sum(self_information(mean), axis=-1)


def neighbourhood_density(probabilities: jax.Array, *, temperature: float = TEMPERATURE) -> jax.Array:
    r"""Soft neighbourhood density (Saito et al., ICCV 2021, arXiv 2108.10860); higher is better.

    With f_i the prediction of pixel i at length 1, similarities become a distribution over the other pixels, whose
    entropy is high where a pixel has many near ones:

    .. math:: P_{ij} = \frac{\exp(f_i \cdot f_j / \tau)}{\sum_{k \ne i} \exp(f_i \cdot f_k / \tau)}, \quad
              \mathrm{SND} = -\frac{1}{N} \sum_i \sum_{j \ne i} P_{ij} \log P_{ij}

    Args:
      probabilities: of N > 1 pixels `[..., N, C]`.
      temperature: tau.

    Returns:
      float32 `[...]` in [0, log(N - 1)], natural logarithm.
    """
    p = probabilities.astype(jnp.float32)
    unit = p / jnp.linalg.norm(p, axis=-1, keepdims=True)
    similar = jnp.einsum("...ic,...jc->...ij", unit, unit, precision="highest") / temperature
    itself = jnp.eye(p.shape[-2], dtype=bool)
    logs = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, similar), axis=-1)
    logs = jnp.where(itself, 0.0, logs)
    return -jnp.mean(jnp.sum(jnp.where(itself, 0.0, jnp.exp(logs) * logs), axis=-1), axis=-1)


def class_shares(labels: jax.Array, num_classes: int) -> jax.Array:
    """Share of each class among the pixels of a frame, float32 `[..., C]` of integer classes `[..., h, w]`."""
    # One class at a time: a one-hot map would be C times the labels.
    shares = [jnp.mean((labels == k).astype(jnp.float32), axis=(-2, -1)) for k in range(num_classes)]
    return jnp.stack(shares, axis=-1)


def jensen_shannon(one: jax.Array, other: jax.Array) -> jax.Array:
    r"""Jensen-Shannon divergence of two class distributions in bits (Lin, 1991); lower is nearer.

    .. math:: \mathrm{JS}(p, q) = H_2\left(\frac{p + q}{2}\right) - \frac{H_2(p) + H_2(q)}{2}

    Shares of predicted classes that leave the source's are what ADVENT's class-ratio prior (section 3.3) counters.

    Args:
      one, other: `[C]`, each summing to 1.

    Returns:
      A float32 scalar in [0, 1].
    """
    bits = lambda p: -jnp.sum(p * jnp.log2(p + 1e-30), axis=-1)  # noqa: E731
    p, q = one.astype(jnp.float32), other.astype(jnp.float32)
    return jnp.maximum(bits((p + q) / 2) - (bits(p) + bits(q)) / 2, 0.0)
