"""The methods of `benchmarks.torch_steps` that translate images, GIO-Ada and CyCADA, and ADDA, which follows CyCADA."""

import copy
import random

import torch

from benchmarks import torch_losses as losses
from benchmarks import torch_updates as updates
from benchmarks.torch_alignment import Method

FARTHEST_DEPTH = 80.0
LEAST_SQUARES = "least_squares"


def to_tanh(images):
    """Returns images of 0 to 255 in [-1, 1]."""
    return images / 127.5 - 1.0


class GioAda(Method):
    """The source is translated by its geometry; classes and depth of both domains are discriminated."""

    adversaries = ("discriminator", "image_discriminator")
    horizon = 90_000
    depth_weight, image_weight, target_weight = 0.1, 1.0, 0.001

    def build(self):
        bench, classes = self.bench, self.bench.classes
        poly = lambda iteration: updates.poly(iteration, self.horizon)  # noqa: E731
        linear = lambda iteration: updates.constant_linear(iteration, self.horizon)  # noqa: E731
        self.networks |= {
            "segmenter": bench.segmenter("deeplab_v2_vgg16", aspp_branches=4, depth_head=True),
            "translator": bench.network("translator", 4 + classes),
            "discriminator": bench.network("pixel_discriminator", classes + 1),
            "image_discriminator": bench.network("patch_discriminator", 3),
        }
        images = {"rate": 2e-4, "betas": (0.5, 0.999), "share": linear}
        self.players = [
            updates.Sgd(self.networks["segmenter"], repeated=False, head_multiple=1.0, share=poly),
            updates.Adam(self.networks["translator"], **images),
            updates.Adam(self.networks["discriminator"], share=poly),
            updates.Adam(self.networks["image_discriminator"], **images),
        ]
        self.sides |= {"source": self.source, "target": self.target}

    def _condition(self, batch):
        """Image, depth and one-hot label."""
        depth, classes = batch["depth"], torch.arange(self.bench.classes, device=self.bench.device)
        shares = torch.where(depth > 0, 2.0 * (depth / FARTHEST_DEPTH).clamp(0.0, 1.0) - 1.0, 0.0)
        labels = (batch["label"][:, None] == classes[:, None, None]).float()
        return torch.cat([to_tanh(batch["image"]), shares, labels], 1)

    def _output_maps(self, outputs, size):
        scores, depth = (losses.upsample(outputs[name], size) for name in ("logits", "depth"))
        return torch.cat([scores.softmax(1), depth], 1)

    def source(self, batch):
        translated = self.bench.run(self.networks["translator"], self._condition(batch))["map"]
        decisions = self.bench.decide(self.networks["image_discriminator"], translated)
        outputs = self.bench.segment(self.networks["segmenter"], (translated + 1.0) * 127.5)
        size = batch["label"].shape[1:]
        terms, scores = self.supervised(outputs, batch["label"])
        depth, truth = losses.upsample(outputs["depth"], size), batch["depth"]
        distance = losses.absolute_depth(depth, (truth / FARTHEST_DEPTH).clamp(0.0, 1.0), truth > 0)
        terms["depth"] = self.depth_weight * distance
        terms["adversarial_image"] = self.image_weight * losses.adversarial(decisions, losses.TARGET, LEAST_SQUARES)
        maps = torch.cat([scores["logits"].softmax(1), depth], 1)
        return terms, {"maps": maps.detach(), "image": translated.detach()}

    def target(self, batch):
        outputs = self.bench.segment(self.networks["segmenter"], batch["image"])
        maps = self._output_maps(outputs, batch["image"].shape[2:])
        decisions = self.bench.decide(self.networks["discriminator"], maps)
        terms = {"adversarial": self.target_weight * losses.adversarial(decisions, losses.SOURCE)}
        return terms, {"maps": maps.detach(), "image": to_tanh(batch["image"])}

    def discriminate(self, seen):
        terms = {}
        for name, map_name, kind in (("discriminator", "maps", "bce"), ("image_discriminator", "image", LEAST_SQUARES)):
            pair = (seen[domain][map_name] for domain in ("source", "target"))
            decisions = (self.bench.decide(self.networks[name], x) for x in pair)
            terms[name] = 0.5 * losses.domain_loss(*decisions, kind)
        return terms


class Pool:
    """Earlier images, of which half of those that a discriminator sees are drawn."""

    def __init__(self, draws, capacity=50):
        self._draws, self._capacity, self._images = draws, capacity, []

    def exchange(self, images):
        """Returns images to show in place of `[B, C, H, W]`."""
        shown = []
        for image in images:
            if len(self._images) < self._capacity:
                self._images.append(image)
            elif self._draws.random() < 0.5:
                place = self._draws.randrange(self._capacity)
                image, self._images[place] = self._images[place], image
            shown.append(image)
        return torch.stack(shown)


class Cycada(Method):
    """CycleGAN between grey digits, beside a classifier that must see the same in what it draws."""

    adversaries = ("image_discriminator", "back_discriminator")
    horizon = 400
    image_weight, back_weight, semantic_below = 2.0, 1.0, 1.0

    def build(self):
        bench = self.bench
        adam = {"rate": 1e-3, "betas": (0.5, 0.999)}
        linear = lambda iteration: updates.constant_linear(iteration, self.horizon)  # noqa: E731
        classifier = self.networks["segmenter"] = bench.segmenter("lenet", channels=1)
        for name in ("translator", "back_translator"):
            self.networks[name] = bench.network("translator", 1, width=8, blocks=2, drawn=1)
        for name in self.adversaries:
            self.networks[name] = bench.network("patch_discriminator", 3, width=16)
        # The classifier in evaluation mode, constant, in the same memory.
        self.judge = copy.deepcopy(classifier).eval().requires_grad_(False)
        for tied, parameter in zip(self.judge.parameters(), classifier.parameters(), strict=True):
            tied.data = parameter.data
        translators = (self.networks[name] for name in ("translator", "back_translator"))
        discriminators = (self.networks[name] for name in self.adversaries)
        self.players = [
            updates.Adam(*translators, **adam, share=linear),
            updates.Adam(classifier, **adam, share=updates.constant),
            updates.Adam(*discriminators, **adam, share=linear),
        ]
        draws = random.Random(0)
        self.pools = {name: Pool(draws) for name in self.adversaries}
        self.sides["both"] = self.both

    def batches(self, iteration):
        return {"both": self.bench.batch}

    def draw(self, name, images):
        """Returns what a translator makes of images of three channels, of which it sees the mean."""
        drawn = self.bench.run(self.networks[name], images.mean(1, keepdim=True))["map"]
        return drawn.expand(-1, 3, -1, -1)

    def classify(self, network, images):
        """Returns the classifier's scores `[B, C, 1, 1]`."""
        return self.bench.run(network, images.mean(1, keepdim=True))["logits"]

    def both(self, batch):
        source, target = (to_tanh(batch[domain]["image"]) for domain in ("source", "target"))
        labels = batch["source"]["label"]
        translated, back = self.draw("translator", source), self.draw("back_translator", target)
        there, here = self.draw("back_translator", translated), self.draw("translator", back)
        drawn = {"image_discriminator": (self.image_weight, translated), "back_discriminator": (self.back_weight, back)}
        terms = {"cycle": (there - source).abs().mean() + (here - target).abs().mean()}
        for name, (weight, images) in drawn.items():
            decisions = self.bench.decide(self.networks[name], images)
            terms[f"adversarial_{name}"] = weight * losses.adversarial(decisions, losses.TARGET, LEAST_SQUARES)
        terms["segmentation"] = losses.cross_entropy(self.classify(self.networks["segmenter"], source), labels)
        enough = (terms["segmentation"].detach() < self.semantic_below).float()
        terms["semantic"] = enough * losses.cross_entropy(self.classify(self.judge, translated), labels)
        seen = self.classify(self.judge, target).argmax(1)
        terms["semantic_back"] = enough * losses.cross_entropy(self.classify(self.judge, back), seen)
        shown = {"image_discriminator": (translated.detach(), target), "back_discriminator": (back.detach(), source)}
        return terms, shown

    def between(self, seen):
        shown = seen["both"].items()
        return {name: (self.pools[name].exchange(drawn), real) for name, (drawn, real) in shown}

    def discriminate(self, seen):
        terms = {}
        for name, images in seen.items():
            decisions = (self.bench.decide(self.networks[name], x) for x in images)
            terms[name] = 0.5 * losses.domain_loss(*decisions, LEAST_SQUARES)
        return terms


class Adda:
    """A discriminator of class scores learns, then a classifier against it as it is then.

    As in CyCADA's code, the host reads the discriminator's accuracy, for which it waits for the device once. Gradients
    are taken whatever it is, as the library does.
    """

    update_above = 0.6
    rate, betas = 1e-4, (0.9, 0.999)

    def __init__(self, bench):
        self.bench = bench
        classifier = bench.segmenter("lenet", channels=1)
        self.source_classifier = copy.deepcopy(classifier).requires_grad_(False)
        discriminator = bench.network("score_discriminator", bench.classes)
        self.networks = {"segmenter": classifier, "discriminator": discriminator}
        options = {"rate": self.rate, "betas": self.betas, "share": updates.constant}
        self.players = {name: updates.Adam(network, **options) for name, network in self.networks.items()}
        self.compiled_discriminate, self.compiled_adapt = bench.compile(self.discriminate), bench.compile(self.adapt)

    def scores(self, network, images):
        """Returns a network's class scores `[B, 1, 1, C]`."""
        return self.bench.run(network, to_tanh(images).mean(1, keepdim=True))["logits"].permute(0, 2, 3, 1)

    def discriminate(self, batch):
        """Returns the discriminator's loss and accuracy on both domains' scores."""
        with torch.no_grad():
            scores = [
                self.scores(network, batch[domain]["image"])
                for network, domain in ((self.source_classifier, "source"), (self.networks["segmenter"], "target"))
            ]
        decisions = [self.bench.decide(self.networks["discriminator"], x).flatten(0, 2) for x in scores]
        # The classes of this discriminator are numbered the other way round: the source is 1.
        truth = torch.cat([torch.full((len(x),), 1 - i, device=x.device) for i, x in enumerate(decisions)])
        decisions = torch.cat(decisions)
        return torch.nn.functional.cross_entropy(decisions, truth), (decisions.argmax(1) == truth).float().mean()

    def adapt(self, batch):
        """Returns the classifier's loss: the target's scores shall be taken for the source's."""
        scores = self.scores(self.networks["segmenter"], batch["target"]["image"])
        decisions = self.bench.decide(self.networks["discriminator"], scores).flatten(0, 2)
        truth = torch.ones(len(decisions), dtype=torch.long, device=decisions.device)
        return torch.nn.functional.cross_entropy(decisions, truth)

    def iterate(self, iteration):
        """Runs an iteration and returns all losses by name."""
        batch, discriminator = self.bench.batch, self.networks["discriminator"]
        discriminator.requires_grad_(True)
        learnt, accuracy = self.compiled_discriminate(batch)
        learnt.backward()
        self.players["discriminator"].step(iteration)
        discriminator.requires_grad_(False)
        adversarial = self.compiled_adapt(batch)
        adversarial.backward()
        if accuracy > self.update_above:
            self.players["segmenter"].step(iteration)
        self.networks["segmenter"].zero_grad(set_to_none=True)
        return {"discriminator": learnt.detach(), "adversarial": adversarial.detach()}


METHODS = {"gio_ada": GioAda, "adda": Adda, "cycada": Cycada}
