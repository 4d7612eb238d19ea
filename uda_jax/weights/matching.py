"""Puts converted weights into a network's variables, strictly: what does not fit is an error."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean
from uda_jax.weights.rules import listed

# Parts of published files that only their training read: classifiers of ImageNet and of whatever else came before, and
# the earlier head of a two-level network, which a network of one level does without.
LEFTOVERS = (
    *("fc", "layer5", "classifier_0", "classifier_3", "classifier_6", "aux_classifier", "aux_head"),
    "imagenet_head",
    "local_cls_norm",
    # Of a foundation encoder that an adapter reads between its blocks.
    "encoder/mask_token",
    "encoder/norm",
)

# Parts that an option of a network leaves out: one file of weights, and its parts that start afresh, serve both forms.
OPTIONAL = ("aux_head", "depth_head")


class Report(NamedTuple):
    """What became of every array of the weights and of the network, by Flax path.

    Attributes:
      loaded: taken from the weights.
      skipped: in both, but kept as initialised since the part was to start afresh: path to (shape in the weights,
        shape in the network).
      missing: in the network only, and kept as initialised for the same reason.
      unused: in the weights only: of a part that starts afresh, or one of `LEFTOVERS`.
    """

    loaded: tuple[str, ...]
    skipped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Returns one line per kind, with the number of arrays of each part."""
        reshaped = next(((path, *shapes) for path, shapes in self.skipped.items() if shapes[0] != shapes[1]), None)
        example = "; '{}' has shape {} in the weights, {} in the network".format(*reshaped) if reshaped else ""
        lines = [
            f"loaded: {_parts(self.loaded)}",
            f"kept as initialised, though in the weights: {_parts(self.skipped)}{example}",
            f"kept as initialised, missing from the weights: {_parts(self.missing)}",
            f"unused: {_parts(self.unused)}",
        ]
        return "\n".join(lines)


def fit(
    variables: Mapping[str, Any], expected: Mapping[str, Any], *, fresh: Sequence[str] = (), where: str
) -> tuple[dict[str, Any], Report]:
    """Replaces a network's fresh variables by converted weights.

    Every array of the network must come from the weights with its own shape, except those of the parts in `fresh`,
    which keep their initial values whatever the weights hold (the head of an init file belongs to other classes).
    Every array of the weights must have a place, except those of `fresh` and of `LEFTOVERS`.

    Args:
      variables: from `from_torch`.
      expected: the network's variables as initialised; leaves need no more than a shape.
      fresh: parts that start afresh, as paths below "params" and "batch_stats": "head", "encoder/fc6"; one of
        `OPTIONAL` asks for nothing where the network does without it.
      where: the file, for messages.

    Returns:
      The merged variables (leaves of `variables`, or of `expected` for what starts afresh) and the report.

    Raises:
      UserError: an array with another shape, missing or without a place; or a name in `fresh` that fits nothing.
    """
    given, wanted = dict(flatten(variables)), dict(flatten(expected))
    _check_fresh(fresh, wanted, where)
    strict = [path for path in wanted if not _inside(path, fresh)]
    for path in strict:
        if path in given and np.shape(given[path]) != np.shape(wanted[path]):
            shapes = f"{np.shape(given[path])}, the network's {np.shape(wanted[path])}"
            classes = f"; for other classes, name '{path.split('/')[1]}' in fresh" if "head" in path else ""
            raise UserError(f"{where}: '{path}' has shape {shapes}; check the network's name and options{classes}")
    lost = [path for path in strict if path not in given]
    unused = [path for path in given if path not in wanted]
    stray = [path for path in unused if not _inside(path, (*fresh, *LEFTOVERS))]
    if lost or stray:
        problems = [(lost, "missing from the weights"), (stray, "not in the network")]
        problems = ", ".join(f"{listed(paths, 2)} {words}" for paths, words in problems if paths)
        raise UserError(f"{where}: {problems}; check the network's name and options, or name parts that start afresh")
    taken = {path: given[path] for path in strict}
    report = Report(
        loaded=tuple(taken),
        skipped={p: (np.shape(given[p]), np.shape(wanted[p])) for p in wanted if p in given and p not in taken},
        missing=tuple(path for path in wanted if path not in given),
        unused=tuple(unused),
    )
    return nest(wanted | taken), report


def for_several_images(variables: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns converted weights whose first kernel reads as many images as the network's, stacked as channels.

    The kernel `[h, w, 3, D]` of one image is repeated and divided by their number, so that of equal images the maps are
    those of one (Monodepth2's network of the motion between two frames). All else stays.

    Args:
      variables: from `from_torch`.
      expected: the network's variables; leaves need no more than a shape.
    """
    wanted = {path: np.shape(leaf) for path, leaf in flatten(expected)}
    found = {}
    for path, leaf in flatten(variables):
        have, want = np.shape(leaf), wanted.get(path, ())
        images = want[2] // have[2] if len(have) == len(want) == 4 and have[2] == 3 and not want[2] % 3 else 1
        found[path] = np.tile(leaf, (1, 1, images, 1)) / np.float32(images) if images > 1 else leaf
    return nest(found)


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) of nested mappings, the names of a path joined by "/"."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of leaves by path: the inverse of `flatten`."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _inside(path: str, parts: Sequence[str]) -> bool:
    """Whether a path such as "params/head/branch_0/bias" belongs to one of `parts`, such as "head"."""
    below = path.partition("/")[2]
    return any(f"{below}/".startswith(f"{part}/") for part in parts)


def _check_fresh(fresh: Sequence[str], wanted: Mapping[str, Any], where: str) -> None:
    for part in fresh:
        if part not in OPTIONAL and not any(_inside(path, [part]) for path in wanted):
            known = {path.split("/")[1] for path in wanted}
            raise UserError(f"{where}: the network has no part '{part}' to start afresh{did_you_mean(part, known)}")


def _parts(paths: Sequence[str] | Mapping[str, Any]) -> str:
    """Returns "530 arrays (encoder 522, head 8)" or "none"."""
    counts = collections.Counter(path.split("/")[1] for path in paths)
    inner = ", ".join(f"{part} {count}" for part, count in counts.items())
    return f"{len(paths)} arrays ({inner})" if paths else "none"
