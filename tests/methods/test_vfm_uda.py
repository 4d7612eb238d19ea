"""VFM-UDA: golden iterations of the released code, who is at which rate, what is frozen, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from flax import linen as nn
from vectors import nchw, nhwc

from uda_jax import networks, ops, weights
from uda_jax.configs import vfm_uda as configs
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.methods.parts.augmentation import Augmentation
from uda_jax.methods.parts.forward import forward
from uda_jax.methods.parts.frozen_features import HEAD, FrozenEncoder, FrozenFeatures
from uda_jax.methods.parts.masking import Masking
from uda_jax.methods.parts.teacher import MeanTeacher
from uda_jax.methods.parts.updates import initial_state
from uda_jax.methods.vfm_uda import VfmUda
from uda_jax.networks.feature_head import FeatureHead
from uda_jax.training import optimisers
from uda_jax.training.optimisers import adamw
from uda_jax.training.schedules import Schedule

TINY = {"width": 16, "depth": 4, "heads": 2, "table": 4}
SEGMENTER = Segmenter("light_dinov2_vits14", input_norm="imagenet_rgb", align_corners=False, **TINY)
NOTHING = Augmentation(jitter=0.0, blur=0.0)


def test_golden_projection_and_distance():
    golden = vectors.load("vfm-uda/feature_distance_vfm.npz")
    params = head_params(vectors.stand_in("vfm-uda/feature_distance_head.manifest.json"), "feat_project.")
    section, reference = FrozenFeatures(weight=1.0), nhwc(golden["frozen"])

    def loss(params, features):
        outputs = {"features": features}
        return section.loss(VfmUda(segmenter=SEGMENTER), {HEAD: params}, outputs, reference)

    with jax.default_matmul_precision("highest"):
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        value, (to_params, to_features) = run(params, nhwc(golden["features"]))
        projected = FeatureHead(12).apply({"params": params}, nhwc(golden["features"]))
    projected = ops.resize_bilinear(projected, reference.shape[1:3], align_corners=False)
    np.testing.assert_allclose(nchw(projected), golden["projected"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(value, golden["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(nchw(to_features), golden["grad_features"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(to_params["project_3"]["bias"], golden["grad_last_bias"], rtol=0, atol=1e-6)


def head_params(arrays, prefix):
    """The projection's parameters from names such as "feat_project.0.weight"."""
    tree = {}
    for name in (name for name in arrays if name.startswith(prefix)):
        number, leaf = name.removeprefix(prefix).split(".")
        array = np.asarray(arrays[name])
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        own = {"weight": "scale" if number == "1" else "kernel", "bias": "bias"}[leaf]
        tree.setdefault(f"project_{number}", {})[own] = array
    return tree


class Pointwise(nn.Module):
    """The vectors' network: features tanh(conv1 x), logits conv2 of them; a mask hides pixels."""

    @nn.compact
    def __call__(self, images, train=False, mask=None):
        del train
        hidden = images if mask is None else jnp.where(mask[..., None], 0.0, images)
        features = nn.tanh(nn.Dense(4, name="encoder")(hidden))
        return {"features": features, "logits": nn.Dense(19, name="head")(features)}


class Golden(VfmUda):
    """The method on that network, with the file's masks in place of random ones."""

    @property
    def network(self):
        return Pointwise()

    def forward_masked(self, params, model_state, images, key, dropout):
        del key, dropout
        mask = jnp.asarray(vectors.load("vfm-uda/vfm_uda_step.npz")["mask"][:, 0] == 0)
        inputs = ops.normalise(images, "imagenet_rgb")
        return forward(self.network, params, model_state, inputs, train=True, mask=mask)


@dataclasses.dataclass(frozen=True)
class Frozen(FrozenFeatures):
    """The vectors' frozen encoder: a 2x2 convolution of stride 2."""

    def reference(self, method, frozen, images):
        golden = vectors.load("vfm-uda/vfm_uda_step.npz")
        kernel = golden["frozen_conv.weight"].transpose(2, 3, 1, 0)
        x = jax.lax.conv_general_dilated(
            ops.normalise(images, "imagenet_rgb"), kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x + golden["frozen_conv.bias"]


def student_params(golden, prefix):
    """The stand-in's parameters from names such as "student0_conv1.weight"."""
    names = {"encoder": "conv1", "head": "conv2"}
    return {
        own: {
            "kernel": golden[f"{prefix}_{conv}.weight"][:, :, 0, 0].T,
            "bias": golden[f"{prefix}_{conv}.bias"],
        }
        for own, conv in names.items()
    }


def test_golden_iterations(monkeypatch):
    golden = vectors.load("vfm-uda/vfm_uda_step.npz")
    method = Golden(
        segmenter=SEGMENTER,
        optimiser=adamw(learning_rate=0.1 * float(golden["base_lr"]), head_multiplier=10.0),
        schedule=Schedule(horizon=10, power=1.0, warmup=2, warmup_form="apart"),
        source_augmentation=NOTHING,
        weak=NOTHING,
        augmentation=NOTHING,
        distance=Frozen(weight=0.1),
    )
    variables = {
        "segmenter": {"params": student_params(golden, "student0")},
        HEAD: {"params": head_params(golden, "head0_feat_project.")},
    }
    variables = jax.tree.map(jnp.asarray, variables)
    player = {"segmenter": method.student(variables)}
    state = method.teacher.init(initial_state(jax.random.key(0), variables, player))
    drawn = {}
    monkeypatch.setattr(ops, "choose_classes", lambda key, labels, of_batch: drawn["chosen"])

    @jax.jit
    def step(state, batch, chosen):
        drawn["chosen"] = chosen
        labels, _ = method.pseudo_labels(state, batch["target"])
        keys = dict.fromkeys(("classes", "mixed", "mixed_target"), state.key)
        return *method.train_step(state, batch), labels, method.mixed(keys, batch, labels)[1]

    for k in range(len(golden["lr"])):
        chosen = np.zeros((2, 256), bool)
        for image, classes in enumerate(golden["chosen"][k]):
            chosen[image, classes[classes >= 0]] = True
        batch = {
            "source": {"image": nhwc(golden["source_image"][k]), "label": golden["source_label"][k]},
            "target": {"image": nhwc(golden["target_image"][k]), "distrust": golden["ignore_mask"][k] == 255},
        }
        with jax.default_matmul_precision("highest"):
            state, metrics, labels, mixed = step(state, batch, chosen)
        np.testing.assert_array_equal(labels.label, golden["pseudo_label"][k])
        np.testing.assert_allclose(labels.weight, golden["pseudo_weight"][k], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(mixed.label, golden["mixed_label"][k])
        np.testing.assert_allclose(mixed.weight, golden["mixed_weight"][k], rtol=0, atol=1e-6)
        np.testing.assert_allclose(metrics["loss/segmentation"], golden["loss_source"][k], rtol=2e-5)
        np.testing.assert_allclose(metrics["loss/mixed"], golden["loss_mix"][k], rtol=2e-5)
        np.testing.assert_allclose(metrics["loss/masked"], golden["loss_masked"][k], rtol=2e-5)
        both = metrics["loss/features_source"] + metrics["loss/features_target"]
        np.testing.assert_allclose(both, golden["loss_fd"][k], rtol=2e-5)
        np.testing.assert_allclose(10 * metrics["learning_rate/segmenter"], golden["lr"][k][0], rtol=1e-6)
        expected = {
            "segmenter": student_params(golden, f"student{k + 1}"),
            HEAD: head_params(golden, f"head{k + 1}_feat_project."),
            "teacher": student_params(golden, f"teacher{k + 1}"),
        }
        found = {**state.params, "teacher": state.teacher["params"]}
        compare = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=5e-5)  # noqa: E731
        jax.tree.map(compare, found, expected)


IMAGE = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)
BATCH = {
    "source": {"image": IMAGE, "label": jax.ShapeDtypeStruct((2, 64, 64), jnp.int32)},
    "target": {"image": IMAGE},
}


def test_a_step_of_all_parts():
    """Of VFM-UDA++, but on the light head, which is traced faster; `vfm_uda:smoke,plus` has the pyramid."""
    encoder = FrozenEncoder("dinov2_vits14", registers=4, **TINY)
    distance = FrozenFeatures(weight=0.1, size=(28, 42), encoder=encoder)
    method = VfmUda(num_classes=5, segmenter=SEGMENTER, distance=distance)
    state = jax.eval_shape(method.init, jax.random.key(0), BATCH)
    after, metrics = jax.eval_shape(method.train_step, state, BATCH)
    assert after == state and {f"loss/features_{domain}" for domain in ("source", "target")} < set(metrics)
    assert all(metric.shape == () for metric in metrics.values())
    assert set(state.params) == {"segmenter", HEAD} and set(state.frozen) == {"feature_encoder"}
    # Neither the frozen encoder nor its like is in the optimiser: what is there is what learns.
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.shape]
    learnt = [leaf.shape for leaf in jax.tree.leaves(state.params)]
    assert sorted(moments) == sorted(2 * learnt)


def test_every_parameter_is_in_one_group_at_its_published_rate():
    golden = vectors.load("vfm-uda/schedules_vfm.npz")
    options = {"width": 32, "heads": 2, "table": 2}
    network = networks.build("light_dinov2_vitb14", 19, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    batch = int(golden["batch_size"] * golden["devices"])
    section = configs.optimiser(float(golden["base_lr"].astype("f8").round(8)), batch, 0.9)
    assert section.weight_decay == 0.01 and set(golden["weight_decay"].round(6)) == {np.float32(0.01).round(6)}
    section = dataclasses.replace(section, weight_decay=0.0, epsilon=0.0)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), {"segmenter": shapes})
    optimiser = optimisers.build(
        section, Schedule(name="constant"), params, depth=networks.layer_depth("light_dinov2_vitb14")
    )

    @jax.jit
    def rates(params):
        gradients = jax.tree.map(jnp.ones_like, params)
        return jax.tree.map(lambda x: -x, optimiser.update(gradients, optimiser.init(params), params)[0])

    found = weights.to_torch({"params": jax.tree.map(np.asarray, rates(params)["segmenter"])}, "vfm_uda")
    del found["token_masking.mask_token"]
    names = golden["parameter_names"].tolist()
    assert sorted(found) == sorted(names)
    for name, rate in zip(names, golden["initial_lr_f64"], strict=True):
        np.testing.assert_allclose(found[name], rate, rtol=1e-5, err_msg=name)


def test_teacher_momentum():
    golden, teacher = vectors.load("vfm-uda/schedules_vfm.npz"), MeanTeacher(alpha=0.999, first_update=1)
    for steps, alpha in zip(golden["steps_done"], golden["teacher_alpha_f64"], strict=True):
        state = initial_state(jax.random.key(0), {"segmenter": {"params": {"x": jnp.ones(())}}}, {})
        state = teacher.init(state).replace(step=jnp.int32(steps))
        entry = {"params": {"x": jnp.zeros(())}, "model_state": {}}
        moved = teacher.update(entry, state, 1).teacher["params"]["x"]
        np.testing.assert_allclose(1.0 - moved, alpha, rtol=1e-6)


def test_other_networks_are_refused():
    with pytest.raises(UserError, match="m.segmenter.name: expected a network on a foundation encoder, such as light"):
        VfmUda(segmenter=Segmenter("deeplab_v2_resnet14")).check("m")


def test_masked_share():
    method = VfmUda(segmenter=SEGMENTER)
    assert method.network.mask_grid((1024, 1024)) == (80, 80)
    pyramid = networks.build("pyramid_dinov2_vits14", 3, **TINY)
    assert pyramid.mask_grid((1024, 1024)) == (18, 18)


def test_masks_of_mic_take_the_place_of_hidden_patches(monkeypatch):
    """By one field, as on DACS: blocks of the image are hidden, with the same labels and weights."""
    with pytest.raises(UserError, match="m.masked_weight: expected 0 with a weight of masking, .* got 1.0"):
        VfmUda(segmenter=SEGMENTER, masking=Masking()).check("m")
    method = VfmUda(num_classes=5, segmenter=SEGMENTER, masking=Masking(block=16), masked_weight=0.0)
    monkeypatch.delattr(VfmUda, "forward_masked")
    state = jax.eval_shape(method.init, jax.random.key(0), BATCH)
    after, metrics = jax.eval_shape(method.train_step, state, BATCH)
    assert after == state and {name for name in metrics if name.startswith("loss/")} == {
        "loss/segmentation",
        "loss/mixed",
        "loss/masked",
        "loss/total",
    }
    config = configs.get_config("gta5_cityscapes,mic").method
    assert (config.masking.weight, config.masking.block, config.masked_weight) == (1.0, 64, 0.0)
    assert configs.get_config("gta5_cityscapes").method.masking.weight == 0.0
