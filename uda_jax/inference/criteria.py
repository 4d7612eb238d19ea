"""The criteria by which runs and checkpoints are chosen without labels of the target: their names, and which way is up.

Without JAX, since configs name them. `ops.label_free` has the formulas, `inference.label_free` measures them.
"""

from typing import NamedTuple

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

# Raised whenever a criterion changes its value; scores that another version stored are computed again.
VERSION = 1


class Criterion(NamedTuple):
    """What a criterion is, without its value.

    Attributes:
      higher_is_better: whether more is better.
      heading: of its column in tables.
      text: what it is, in a line.
      needs: what has to be there: "target" frames, a "teacher", or labels of the "source".
    """

    higher_is_better: bool
    heading: str
    text: str
    needs: str = "target"

    def better(self, one: float, other: float) -> float:
        """Returns the better one of two values."""
        return max(one, other) if self.higher_is_better else min(one, other)


CRITERIA: dict[str, Criterion] = {
    "entropy": Criterion(False, "entropy", "mean normalised entropy (Grandvalet and Bengio 2004; ADVENT)"),
    "information": Criterion(False, "inform.", "mean entropy minus entropy of the mean prediction (RIM, SHOT)"),
    "neighbourhood_density": Criterion(True, "density", "soft neighbourhood density (Saito et al. 2021)"),
    "flip_agreement": Criterion(True, "flip", "kappa of the predictions on the image and on the mirrored one"),
    "scale_agreement": Criterion(True, "scale", "kappa of the predictions on the image and on a smaller one"),
    "mask_agreement": Criterion(True, "mask", "kappa of the predictions on the image and under MIC's masks"),
    "teacher_agreement": Criterion(True, "teacher", "kappa of student and teacher", "teacher"),
    "prior_distance": Criterion(
        False, "prior", "Jensen-Shannon divergence of predicted class shares and the source's labels", "source"
    ),
    "source_score": Criterion(True, "source", "mean IoU on labelled source frames, a guard", "source"),
}

# What the default choice is the mean rank of. Fixed before any target score was looked at: what a network says of one
# frame under four changes or in its neighbourhood, none of which another class prior or an over-confident head decides
# alone. Entropy by itself rewards over-confidence, the prior assumes that both domains show the same, the source score
# knows nothing of the target: these are shown, and two of them guard.
DEFAULT = ("information", "neighbourhood_density", "flip_agreement", "scale_agreement", "mask_agreement")


def criterion(name: str, path: str) -> Criterion:
    """Returns what is known of a criterion; raises a UserError that names `path` for an unknown one."""
    if name not in CRITERIA:
        raise UserError(f"{path}: unknown criterion '{name}'{did_you_mean(name, CRITERIA)}")
    return CRITERIA[name]
