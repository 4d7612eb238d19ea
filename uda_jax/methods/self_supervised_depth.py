"""Self-supervised depth: Monodepth2 (Godard et al., ICCV 2019, arXiv 1806.01260), where CorDA's depth comes from.

Take it for depth of a camera that has neither labels nor a range sensor, before CorDA or for itself.

A frame I_0 has other views I_f: the frames before and after, from places that a second network finds, and that of a
second camera, whose place is known. A depth is right if the views, read where it says that each pixel is, show I_0:

    disparity   d_s = f(I_0) in [0, 1] at scales s = 0 .. 3;  depth D = 1 / (1/far + (1/near - 1/far) d)
    motion      T_f = g(I_0, I_f) in time;  of the second camera the baseline
    warped      I_f->0 = I_f < proj(D, T_f, K) >
    error       pe(a, b) = 0.85 (1 - SSIM(a, b)) / 2 + 0.15 |a - b|
    f, g        min  mean_s { mean_pixels min_f [ pe(I_f->0, I_0), pe(I_f, I_0) ] + lambda / 2^s  smoothness(d_s) }

The least error is that of a view in which nothing hides the pixel. Where an unwarped view has it the pixel moves with
the camera, or is blank, and teaches nothing ("auto-masking"). Depth from video alone has no scale; with a second camera
it has that of the baseline. Of several domains in a batch the losses are added, each with its own batch statistics.

Images are normalised with ImageNet's mean and deviation, those of the weights to start from, where the released code
takes 0.45 and 0.225 for all channels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from uda_jax import losses, ops
from uda_jax.errors import UserError
from uda_jax.methods import base
from uda_jax.methods.parts import scene as scenes
from uda_jax.methods.parts.forward import forward
from uda_jax.methods.parts.scene import DISPARITY, MOTION, VIEWS, DisparityNetwork, MotionNetwork, Scene
from uda_jax.methods.parts.updates import Player, Previous, initial_state, single_player_step
from uda_jax.schema import config_field
from uda_jax.training.optimisers import Optimiser, adam
from uda_jax.training.precision import PRECISION_TEXT, PRECISIONS
from uda_jax.training.schedules import Schedule

# Largest changes of brightness, contrast, saturation and hue of what the networks see.
JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
# What each random draw of a step is folded with.
_JITTER_DRAW, _NOISE_DRAW = 0, 1


@dataclasses.dataclass(frozen=True)
class SelfSupervisedDepth:
    """Depth that is learnt by rebuilding frames from their other views."""

    # The map of a frame that predictions are compared with.
    PREDICTS: ClassVar[str] = "depth"

    precision: str = config_field("fp32", PRECISION_TEXT, choices=PRECISIONS)
    accumulation: int = config_field(1, "Batches whose gradients are averaged into one update.", low=1)
    disparity: DisparityNetwork = config_field(DisparityNetwork(), "f, the network that predicts disparity.")
    motion: MotionNetwork = config_field(MotionNetwork(), "g, the network of the motion; views 'stereo' have none.")
    optimiser: Optimiser = config_field(adam(beta2=0.999), "Optimiser of both networks.")
    schedule: Schedule = config_field(Schedule(), "Decay of all learning rates.")
    views: str = config_field(
        "monocular",
        "From what a frame is rebuilt: the second camera (stereo), the frames before and after (monocular), or both.",
        choices=tuple(VIEWS),
    )
    metres_per_unit: float = config_field(
        1.0,
        "Metres of one unit of what the networks predict. With a second camera ten times its baseline is Monodepth2's "
        "choice (KITTI: 5.4), and depth is in metres; without, the unit is any.",
        low=1e-3,
    )
    nearest: float = config_field(0.1, "Units; the least depth that can be predicted.", low=1e-6)
    farthest: float = config_field(100.0, "Units; the largest depth that can be predicted.", low=1e-6)
    smoothness: float = config_field(1e-3, "lambda, weight of the disparity's smoothness at the first scale.", low=0.0)
    auto_mask: bool = config_field(True, "Whether pixels that an unwarped view matches best teach nothing.")
    jitter: float = config_field(
        0.5, "Probability that the networks see a frame and its views in changed colours.", low=0.0, high=1.0
    )

    def check(self, path: str) -> None:
        """Raises a UserError for a range of depths that is none."""
        if not self.nearest < self.farthest:
            raise UserError(f"{path}.nearest: expected less than farthest = {self.farthest}, got {self.nearest}")

    @property
    def player(self) -> Player:
        """Who trains both networks."""
        names = (DISPARITY,) if self.views == "stereo" else (DISPARITY, MOTION)
        return Player(names, self.optimiser, self.schedule, self.accumulation)

    def init(self, key: jax.Array, example_batch: base.Batch) -> base.TrainState:
        """Returns the first state: "disparity", and "motion" where there are frames of other times."""
        images = next(iter(example_batch.values()))["image"][:1].astype(jnp.float32)
        build = lambda section: scenes.build(section, self.precision)  # noqa: E731
        variables = {DISPARITY: build(self.disparity).init(jax.random.fold_in(key, 0), images)}
        if MOTION in self.player.networks:
            pair = jnp.concatenate([images, images], axis=-1)
            variables[MOTION] = build(self.motion).init(jax.random.fold_in(key, 1), pair)
        return initial_state(key, variables, {DISPARITY: self.player})

    def train_step(self, state: base.TrainState, batch: base.Batch) -> tuple[base.TrainState, base.Metrics]:
        """One iteration: of every domain's frames, the views are warped onto the frame; both networks learn."""
        scenes.check_maps(batch, self.views)
        key, several = jax.random.fold_in(state.key, state.step), len(batch) > 1

        def part(number: int, domain: str):
            def loss(params, before: Previous | None = None):
                own, statistics = jax.random.fold_in(key, number), state.model_state
                scene = scenes.scene(batch[domain], self.views)
                if before is not None:
                    scene, statistics = scene._replace(frame=before.then(scene.frame)), before.found[1]
                value, statistics = self._rebuilding_loss(params, statistics, scene, own)
                return {f"rebuilding_{domain}" if several else "rebuilding": value}, statistics

            return loss

        return single_player_step(state, self.player, *(part(*each) for each in enumerate(sorted(batch))))

    def _rebuilding_loss(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], scene: Scene, key: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Returns the loss of the frames of one domain, and the batch statistics after it."""
        seen = self._jittered(scene, jax.random.fold_in(key, _JITTER_DRAW))
        maps, statistics = self._disparities(params, statistics, seen.frame, train=True)
        motions, statistics = self._motions(params, statistics, seen, train=True)
        loss = losses.view_synthesis_loss(
            maps,
            scene.frame,
            list(scene.views.values()),
            scene.cameras,
            [motions[view] for view in scene.views],
            key=jax.random.fold_in(key, _NOISE_DRAW),
            auto_mask=self.auto_mask,
            smoothness=self.smoothness,
            nearest=self.nearest,
            farthest=self.farthest,
        )
        return loss, statistics

    def _jittered(self, scene: Scene, key: jax.Array) -> Scene:
        """Returns what the networks see of a scene: some frames, with their views, in changed colours."""
        if not self.jitter:
            return scene
        whether, which = jax.random.split(key)
        count = scene.frame.shape[0]
        factors, orders = ops.draw_photometric(which, count, **JITTER)
        chosen = jax.random.bernoulli(whether, self.jitter, (count, 1))
        return scenes.jittered(scene, jnp.where(chosen, factors, jnp.array([1.0, 1.0, 1.0, 0.0])), orders)

    def _disparities(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], images: jax.Array, *, train: bool
    ) -> tuple[list[jax.Array], dict[str, Any]]:
        """Returns f of images in [0, 1], `[B, h, w]` at every scale, and the next batch statistics."""
        inputs = ops.normalise(255.0 * images, self.disparity.input_norm)
        network = scenes.build(self.disparity, self.precision)
        with jax.named_scope(DISPARITY):
            found, after = forward(network, params[DISPARITY], statistics[DISPARITY], inputs, train=train)
        maps = [found[f"{DISPARITY}_{scale}"][..., 0] for scale in range(len(found))]
        return maps, {**statistics, DISPARITY: after}

    def _motions(
        self, params: Mapping[str, Any], statistics: Mapping[str, Any], scene: Scene, *, train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Returns the motions `[B, 4, 4]` from the frame's camera to each view's, and the next batch statistics."""
        found, network = {}, scenes.build(self.motion, self.precision)
        for view in scene.views:
            if scenes.is_right(view):
                found[view] = scenes.stereo_motion(scene.right / self.metres_per_unit)
                continue
            pair = [ops.normalise(255.0 * images, self.motion.input_norm) for images in scene.in_time(view)]
            with jax.named_scope(MOTION):
                motion, after = forward(
                    network, params[MOTION], statistics[MOTION], jnp.concatenate(pair, axis=-1), train=train
                )
            # From the earlier image to the later one: the way to an earlier view is back.
            found[view] = ops.rigid_motion(**motion, inverse=scenes.is_earlier(view))
            statistics = {**statistics, MOTION: after}
        return found, dict(statistics)

    def disparities(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Returns f of uint8 RGB images [B, H, W, 3], in [0, 1], interpolated to [B, *size]: what depth is made of."""
        maps, _ = self._disparities(state.params, state.model_state, images.astype(jnp.float32) / 255.0, train=False)
        return ops.resize_bilinear(maps[0][..., None], size, align_corners=False)[..., 0]

    def predict(self, state: base.TrainState, images: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        """Returns {"depth": [B, *size, 1]} for uint8 RGB images [B, H, W, 3]: metres with a second camera."""
        disparity = self.disparities(state, images, size)
        depth = ops.depth_from_disparity(disparity, nearest=self.nearest, farthest=self.farthest)
        return {"depth": self.metres_per_unit * depth[..., None]}

    def illustrate(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """Returns pictures of each domain's frames, uint8 RGB [B, H, W, 3].

        They are "depth", the nearer the lighter, "rebuilt" from the view that matches each pixel best, and "mask",
        white where that view teaches something.
        """
        pictures = {}
        for domain in sorted(batch):
            before = f"{domain}_" if len(batch) > 1 else ""
            scene = scenes.scene(batch[domain], self.views)
            (disparity, *_), _ = self._disparities(state.params, state.model_state, scene.frame, train=False)
            motions, _ = self._motions(state.params, state.model_state, scene, train=False)
            depth = ops.depth_from_disparity(disparity, nearest=self.nearest, farthest=self.farthest)
            warped = [ops.synthesise_view(x, depth, scene.cameras, motions[f])[0] for f, x in scene.views.items()]
            errors = [losses.photometric_error(images, scene.frame) for images in warped]
            still = [losses.photometric_error(images, scene.frame) for images in scene.views.values()]
            _, moved = losses.minimum_error(errors, still if self.auto_mask else [])
            best = jnp.argmin(jnp.stack(errors), axis=0)[None, ..., None]
            rebuilt = jnp.take_along_axis(jnp.stack(warped), best, axis=0)[0]
            lightness = disparity / jnp.max(disparity, axis=(1, 2), keepdims=True)
            for name, shown in (("depth", lightness), ("rebuilt", rebuilt), ("mask", moved)):
                shown = shown if shown.ndim == 4 else jnp.broadcast_to(shown[..., None], scene.frame.shape)
                pictures[f"{before}{name}"] = jnp.round(255.0 * shown).astype(jnp.uint8)
        return pictures


METHOD = SelfSupervisedDepth
