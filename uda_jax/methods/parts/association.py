"""PLCA's cycle association as a part that any method may have (Kang et al., NeurIPS 2020, arXiv 2011.00147)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uda_jax import losses, ops
from uda_jax.errors import UserError
from uda_jax.schema import config_field

# What the reductions draw, beside the two forwards of a step and the mixing that a method may have.
_SUB_GRID_SOURCE, _SUB_GRID_TARGET = 2, 3


@dataclasses.dataclass(frozen=True)
class Association:
    """Section: the cycle association, of features and of predictions."""

    feature_weight: float = config_field(0.1, "beta_F, weight of the feature level; 0 = off.", low=0.0)
    prediction_weight: float = config_field(0.1, "beta_P, weight of the prediction level; 0 = off.", low=0.0)
    aggregation: float = config_field(
        0.5, "alpha < 1, share of similar pixels in every target pixel; 0 = no aggregation.", low=0.0, high=1.0
    )
    contrast: bool = config_field(
        True, "Whether similarities are divided by their deviation before each softmax; False is an ablation."
    )
    # The released code can reduce the maps, but neither published config does; blockwise, memory is no reason to.
    reduction: str = config_field(
        "none",
        "What is associated: all pixels, those of random rows and columns, or bilinearly down-sampled maps.",
        choices=("none", "random", "bilinear"),
    )
    scale: float = config_field(1.0, "Share of rows and of columns that a reduction leaves.", low=0.0, high=1.0)
    reduction_group: int = config_field(
        0, "Image pairs whose cycles are averaged together, before the groups are; 0 = all of a batch.", low=0
    )
    block_size: int | None = config_field(
        None, "Pixels per tile of the similarity matrix; None = by its size, 0 = the whole matrix at once.", low=0
    )

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if self.aggregation == 1:
            raise UserError(f"{path}.aggregation: expected a number in [0, 1), got {self.aggregation!r}")
        if self.reduction == "none" and self.scale != 1:
            raise UserError(f"{path}.scale: expected 1 with reduction 'none', got {self.scale!r}; choose a reduction")
        if self.reduction != "none" and not 0 < self.scale < 1:
            raise UserError(
                f"{path}.scale: expected a number in (0, 1) with reduction '{self.reduction}', got {self.scale!r}"
            )

    @property
    def shared_options(self) -> dict[str, Any]:
        """How the losses compare pixels, whatever they compare."""
        return {"block_size": self.tiles, "contrast": self.contrast}

    @property
    def tiles(self) -> int | str | None:
        """The `block_size` of the losses."""
        return {None: "auto", 0: None}.get(self.block_size, self.block_size)

    def losses(
        self, source: Mapping[str, jax.Array], target: Mapping[str, jax.Array], labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns the weighted losses of both levels, each with cycles and aggregation of its own.

        Args:
          source, target: the network's "features" `[B, h, w, D]` and "logits" `[B, h, w, C]` of paired images.
          labels: the source's `[B, H, W]`.
          key: what the random reduction draws from.
        """
        source = self.reduced(source, jax.random.fold_in(key, _SUB_GRID_SOURCE), labels)
        target = self.reduced(target, jax.random.fold_in(key, _SUB_GRID_TARGET))
        terms = {}
        if self.feature_weight:
            maps = (source["features"], target["features"], source["labels"])
            terms["association_features"] = self.feature_weight * self._loss(*maps, similarity="cosine")
        if self.prediction_weight:
            maps = (jax.nn.softmax(source["logits"]), jax.nn.softmax(target["logits"]), source["labels"])
            terms["association_predictions"] = self.prediction_weight * self._loss(*maps, similarity="kl")
        return terms

    def _loss(self, *maps: jax.Array, similarity: str) -> jax.Array:
        """Returns L_asso of source maps, target maps and labels: 1/|M| is that of a group of image pairs."""
        options = {"similarity": similarity, "aggregation": self.aggregation or None, **self.shared_options}
        pairs, group = len(maps[0]), self.reduction_group or len(maps[0])
        if pairs % group:
            raise UserError(
                f"config.method.association.reduction_group: expected a divisor of the {pairs} image pairs of a batch, "
                f"got {group}; or 0 for all of them"
            )
        if pairs == group:
            return losses.cycle_association(*maps, **options)
        groups = [x.reshape(-1, group, *x.shape[1:]) for x in maps]
        return jnp.mean(jax.vmap(functools.partial(losses.cycle_association, **options))(*groups))

    def reduced(
        self, outputs: Mapping[str, jax.Array], key: jax.Array, labels: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Returns what is associated of one domain: "features", "logits" and, if given, "labels" of the same grid.

        Args:
          outputs: the network's maps `[B, h, w, ...]`.
          key: what random rows and columns are drawn from, for each image its own.
          labels: `[B, H, W]` at the image's size, read by the legacy nearest rule at the grid of the maps; a bilinear
            reduction reads them straight at the reduced one.
        """
        maps = {name: outputs[name] for name in ("features", "logits")}
        grid = outputs["logits"].shape[1:3]
        # At least one row and column is left, however small the map.
        left = tuple(max(1, int(self.scale * n)) for n in grid)
        if self.reduction == "bilinear":
            maps = {name: _downsampled(x, left, self.scale) for name, x in maps.items()}
            grid = left
        if labels is not None:
            maps["labels"] = ops.resize_nearest_legacy(labels.astype(jnp.int32), grid)
        return _sub_grid(maps, left, key) if self.reduction == "random" else maps


def _downsampled(x: jax.Array, size: tuple[int, int], scale: float) -> jax.Array:
    """Interpolates maps `[B, H, W, C]` at max((i + 0.5) / scale - 0.5, 0), whatever the ratio of the sizes.

    That is `torch.nn.functional.interpolate` with a scale factor, which is not the ratio where the size was rounded.
    """
    scales, nothing = jnp.full(2, scale, jnp.float32), jnp.zeros(2)
    return jax.image.scale_and_translate(
        x, (len(x), *size, x.shape[-1]), (1, 2), scales, nothing, method="linear", antialias=False
    )


def _sub_grid(maps: Mapping[str, jax.Array], size: tuple[int, int], key: jax.Array) -> dict[str, jax.Array]:
    """Returns maps `[B, *size, ...]` of random rows and columns, unsorted, the same in all maps of an image."""

    def cut(key, maps):
        row_key, column_key = jax.random.split(key)
        height, width = maps["logits"].shape[:2]
        rows = jax.random.permutation(row_key, height)[: size[0]]
        columns = jax.random.permutation(column_key, width)[: size[1]]
        return {name: x[rows[:, None], columns[None, :]] for name, x in maps.items()}

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(maps["logits"])))
    return jax.vmap(cut)(keys, dict(maps))
