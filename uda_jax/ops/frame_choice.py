"""Which frames to label next, from what a network makes of them; on the host, in NumPy.

Each criterion returns positions, the frame to label first at the beginning.
"""

import numpy as np


def most_uncertain(scores: np.ndarray) -> np.ndarray:
    """Orders frames by falling entropy: what IntraDA calls the hardest comes first (Pan et al., CVPR 2020).

    Args:
      scores: finite numbers `[N]`, such as `entropy_score` of each frame; equal ones keep their order.

    Returns:
      int64 `[N]`.
    """
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def k_centre_greedy(features: np.ndarray, count: int, centres: np.ndarray | None = None) -> np.ndarray:
    """Chooses frames so that every other one is near to a chosen one (Sener & Savarese, ICLR 2018, algorithm 1).

    Each choice is the frame that is furthest, in Euclidean distance, from all that are chosen or labelled. The largest
    distance that remains is at most twice that of the best choice of as many frames.

    Args:
      features: `[N, D]`, one vector for each frame.
      count: how many to choose, 1 to N.
      centres: `[M, D]`, those of the frames that are labelled; without any the first choice is the frame that is
        nearest to the mean of all.

    Returns:
      int64 `[count]`; a smaller count gives the beginning of it.

    Raises:
      ValueError: a count outside [1, N].
    """
    features = np.asarray(features, np.float64)
    if not 1 <= count <= len(features):
        raise ValueError(f"count: expected 1 to {len(features)}, got {count}")
    chosen: list[int] = []
    if centres is None or not len(centres):
        chosen.append(int(np.argmin(_squared(features, features.mean(axis=0)))))
        nearest = _squared(features, features[chosen[0]])
    else:
        nearest = np.min([_squared(features, centre) for centre in np.asarray(centres, np.float64)], axis=0)
    while len(chosen) < count:
        nearest[chosen] = -1.0  # Of frames that are all alike, too, each is chosen once.
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, _squared(features, features[chosen[-1]]))
    return np.array(chosen, np.int64)


def uncertain_and_diverse(
    scores: np.ndarray, features: np.ndarray, count: int, centres: np.ndarray | None = None, *, share: float = 2.0
) -> np.ndarray:
    """Chooses among the most uncertain frames those that cover them, in two steps as Suggestive Annotation.

    Yang et al. (MICCAI 2017, arXiv 1706.04737) take twice as many uncertain images as they annotate, and of these the
    ones that represent the rest. Here `k_centre_greedy` covers the uncertain ones themselves.

    Args:
      scores, features, centres: as in `most_uncertain` and `k_centre_greedy`.
      count: how many to choose, 1 to N.
      share: how many uncertain frames there are for each that is chosen, at least 1.

    Returns:
      int64 `[count]`.

    Raises:
      ValueError: a count outside [1, N], a share below 1.
    """
    if share < 1:
        raise ValueError(f"share: expected at least 1, got {share}")
    candidates = most_uncertain(scores)[: max(count, round(share * count))]
    return candidates[k_centre_greedy(np.asarray(features)[candidates], count, centres)]


def _squared(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.sum((features - centre) ** 2, axis=1)
