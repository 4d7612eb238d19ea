"""The methods of `benchmarks.torch_steps` with a teacher, and PLCA."""

import copy
import random

import torch

from benchmarks import torch_losses as losses
from benchmarks import torch_mixing as mixing
from benchmarks import torch_updates as updates
from benchmarks.torch_alignment import Method

THRESHOLD = 0.968


class Dacs(Method):
    """A teacher labels the target; the student learns the source and mixed images."""

    architecture = "deeplab_v2_resnet101"
    pseudo_head = "logits"
    alpha = 0.99

    def build(self):
        self.segmenter = self.networks["segmenter"] = self.bench.segmenter(self.architecture, aspp_branches=2)
        # In training mode, as the student; only parameters are averaged.
        self.teacher = copy.deepcopy(self.segmenter).requires_grad_(False)
        self.players.append(updates.Sgd(self.segmenter, accumulating=False))
        self.players.append(updates.Average(self.teacher, self.segmenter, self.alpha))
        self.sides |= {"source": self.source, "mixed": self.mixed}
        self.draws = random.Random(0)
        self.compiled_label = self.bench.compile(self.label)

    @torch.no_grad()
    def label(self, images):
        """Returns the teacher's labels of images `[B, H, W]`, and the share that it is sure of."""
        logits = self.bench.segment(self.teacher, images)[self.pseudo_head]
        labels, confidence = mixing.pseudo_labels(losses.upsample(logits, images.shape[2:]))
        return labels, (confidence >= THRESHOLD).float().mean()

    @torch.no_grad()
    def batches(self, iteration):
        batch, target = self.bench.batch, self.bench.batch["target"]
        if iteration == 0:
            self.teacher.load_state_dict(self.segmenter.state_dict())
        labels, sure = self.compiled_label(target["image"])
        source = batch["source"]
        mask = mixing.class_mask(source["label"])
        image = torch.where(mask[:, None], source["image"], target["image"])
        mixed = {
            "image": mixing.augment(image, self.draws),
            "label": torch.where(mask, source["label"], labels),
            "weight": torch.where(mask, 1.0, sure),
            "mask": mask[:, None],
        }
        return {**batch, "mixed": mixed}

    def source(self, batch):
        return self.supervised(self.bench.segment(self.segmenter, batch["image"]), batch["label"])[0], None

    def mixed(self, batch):
        logits = self.bench.segment(self.segmenter, batch["image"])["logits"]
        logits = losses.upsample(logits, batch["label"].shape[1:])
        return {"mixed": losses.weighted_cross_entropy(logits, batch["label"], batch["weight"])}, None


class Corda(Dacs):
    """DACS with depth as a second task, before and after the exchange of features."""

    architecture = "corda_resnet101"
    # The first 25,001 iterations take their labels from the classifier that sees the encoder alone.
    pseudo_head = "aux_logits"
    alpha = 0.999
    source_depth_weight, mixed_depth_weight = 0.01, 0.001

    @torch.no_grad()
    def batches(self, iteration):
        batches = Dacs.batches(self, iteration)
        source, target = (self._inverse_depth(batches[domain]) for domain in ("source", "target"))
        mixed = {**batches["mixed"], "inverse_depth": torch.where(batches["mixed"]["mask"], source, target)}
        return {"source": {**batches["source"], "inverse_depth": source}, "mixed": mixed}

    @staticmethod
    def _inverse_depth(batch):
        return losses.inverse_depth(batch["depth"], 0.1) if "depth" in batch else batch["disparity"] + 1.0

    def _maps(self, batch):
        outputs = self.bench.segment(self.segmenter, batch["image"])
        size = batch["label"].shape[1:]
        return {name: losses.upsample(x, size) for name, x in outputs.items() if name != "features"}

    def source(self, batch):
        maps, wanted, terms = self._maps(batch), batch["inverse_depth"], {}
        for before, after in (("", ""), ("aux_", "_aux")):
            terms[f"segmentation{after}"] = losses.cross_entropy(maps[f"{before}logits"], batch["label"])
            depth = losses.berhu(maps[f"{before}source_depth"], wanted, wanted > 1)
            terms[f"depth{after}"] = self.source_depth_weight * depth
        return terms, None

    def mixed(self, batch):
        maps, wanted, terms = self._maps(batch), batch["inverse_depth"], {}
        weight = batch["weight"] * self._difficulty(maps, wanted)
        for before, after in (("", ""), ("aux_", "_aux")):
            terms[f"mixed{after}"] = losses.weighted_cross_entropy(maps[f"{before}logits"], batch["label"], weight)
            depth = torch.where(batch["mask"], maps[f"{before}source_depth"], maps[f"{before}depth"])
            terms[f"mixed_depth{after}"] = self.mixed_depth_weight * losses.berhu(depth, wanted, wanted > 1)
        return terms, None

    @staticmethod
    def _difficulty(maps, wanted):
        """How well the depth heads of the two domains agree `[B, H, W]`, its mean over the batch, as in the code."""
        agreement = (1.0 - (maps["source_depth"] - maps["depth"]).detach().abs() / wanted).relu() + 0.001
        weight = torch.where(wanted > 1, agreement.clamp(max=1.0), 1.0)[:, 0]
        weight = weight.mean(0, keepdim=True)
        return weight / weight.mean()


class Plca(Method):
    """Cross entropy and Lovasz-Softmax on the source, cycles of pixels and label smoothing on both domains."""

    horizon = 30 * 744
    lovasz_weight, association_weight, smoothing_weight = 3.0, 0.1, 0.01

    def build(self):
        shape = {"aspp_branches": 4, "aspp_bias": False, "frozen_norms": False}
        self.segmenter = self.networks["segmenter"] = self.bench.segmenter("deeplab_v2_resnet101", **shape)
        options = {"repeated": False, "accumulating": False, "head_multiple": 1.0}
        self.players.append(
            updates.Sgd(self.segmenter, share=lambda iteration: updates.poly(iteration, self.horizon), **options)
        )
        self.sides["both"] = self.both

    def batches(self, iteration):
        return {"both": self.bench.batch}

    def both(self, batch):
        # The target first.
        target = self.bench.segment(self.segmenter, batch["target"]["image"])
        source, labels = self.bench.segment(self.segmenter, batch["source"]["image"]), batch["source"]["label"]
        scores = losses.upsample(source["logits"], labels.shape[1:], align_corners=False)
        small = losses.nearest_labels(labels, source["features"].shape[2:])
        features = losses.cycle_association(source["features"], target["features"], small, "cosine")
        predictions = (outputs["logits"].softmax(1) for outputs in (source, target))
        predictions = losses.cycle_association(*predictions, small, "kl")
        return {
            "segmentation": losses.cross_entropy(scores, labels),
            "lovasz": self.lovasz_weight * losses.lovasz_softmax(scores.softmax(1), labels),
            "association_features": self.association_weight * features,
            "association_predictions": self.association_weight * predictions,
            "smoothing_source": self.smoothing_weight * losses.label_smoothing(source["logits"]),
            "smoothing_target": self.smoothing_weight * losses.label_smoothing(target["logits"]),
        }, None


METHODS = {"dacs": Dacs, "corda": Corda, "plca": Plca}
