"""The supervised and the adversarial methods of `benchmarks.torch_steps`."""

import abc
from typing import NamedTuple

import torch

from benchmarks import torch_losses as losses
from benchmarks import torch_updates as updates
from benchmarks.torch_workbench import Workbench

AUX_WEIGHT = 0.1
WEIGHTS = {"logits": 0.001, "aux_logits": 0.0002}
DISCRIMINATOR_OF = {"logits": "discriminator", "aux_logits": "discriminator_aux"}


class Method(abc.ABC):
    """One iteration: a forward and a backward per domain, the discriminators', and the updates.

    A subclass's `build` fills `networks`, `players` and `sides`: domain to a function of its maps that returns the
    weighted losses, and what `discriminate` shall see of the domain. The networks of `adversaries` are constant
    meanwhile.
    """

    adversaries: tuple[str, ...] = ()

    def __init__(self, bench: Workbench):
        self.bench, self.networks, self.players, self.sides = bench, {}, [], {}
        self.build()
        self.compiled = {domain: bench.compile(side) for domain, side in self.sides.items()}
        self.compiled_discriminate = bench.compile(self.discriminate)

    @abc.abstractmethod
    def build(self):
        """Fills `networks`, `players` and `sides`."""

    def discriminate(self, seen):
        """Returns the discriminators' losses by name, of what they see of each domain; here there are none."""
        return {}

    def batches(self, iteration):
        """Returns the maps of each domain that has a side."""
        return self.bench.batch

    def between(self, seen):
        """Returns what the discriminators see, of what each side has left for them."""
        return seen

    def iterate(self, iteration):
        """Runs an iteration and returns all losses by name."""
        self._learn_discriminators(False)
        found, seen = {}, {}
        batches = self.batches(iteration)
        for domain, side in self.compiled.items():
            terms, seen[domain] = side(batches[domain])
            sum(terms.values()).backward()
            found |= terms
        if self.adversaries:
            self._learn_discriminators(True)
            terms = self.compiled_discriminate(self.between(seen))
            sum(terms.values()).backward()
            found |= terms
        for player in self.players:
            player.step(iteration)
        return {name: value.detach() for name, value in found.items()}

    def _learn_discriminators(self, learn):
        for name in self.adversaries:
            self.networks[name].requires_grad_(learn)

    def supervised(self, outputs, labels):
        """Cross entropy of each head at the labels' size, and the scores that it reads."""
        scores = {head: losses.upsample(outputs[head], labels.shape[1:]) for head in WEIGHTS if head in outputs}
        terms = {"segmentation": losses.cross_entropy(scores["logits"], labels)}
        if "aux_logits" in scores:
            terms["segmentation_aux"] = AUX_WEIGHT * losses.cross_entropy(scores["aux_logits"], labels)
        return terms, scores


class Recipe(NamedTuple):
    """What the methods with output discriminators, and without any, differ in."""

    maps: str = "self_information"
    two_heads: bool = True
    branches: int = 4
    adapts: bool = True
    adversarial: bool = True


class Alignment(Method):
    """Source-only, MinEnt, AdaptSegNet, AdvEnt and the last stage of IntraDA."""

    recipe = Recipe()

    def build(self):
        recipe, bench = self.recipe, self.bench
        shape = {"multi_level": recipe.two_heads, "aspp_branches": recipe.branches}
        self.segmenter = self.networks["segmenter"] = bench.segmenter("deeplab_v2_resnet101", **shape)
        self.players.append(updates.Sgd(self.segmenter))
        self.sides["source"] = self.source
        if recipe.adapts:
            self.sides["target"] = self.target
        if recipe.adversarial:
            self.add_discriminators(tuple(WEIGHTS) if recipe.two_heads else ("logits",))

    def add_discriminators(self, heads, channels=None):
        """Adds a discriminator of the maps of each head."""
        self.adversaries = tuple(DISCRIMINATOR_OF[head] for head in heads)
        for name in self.adversaries:
            self.networks[name] = self.bench.network("pixel_discriminator", channels or self.bench.classes)
        self.players.append(updates.Adam(*(self.networks[name] for name in self.adversaries)))

    def maps(self, scores):
        """What the discriminators see of scores, by head."""
        read = losses.self_information if self.recipe.maps == "self_information" else lambda p: p
        return {head: read(x.softmax(1)) for head, x in scores.items()}

    def source(self, batch):
        terms, scores = self.supervised(self.bench.segment(self.segmenter, batch["image"]), batch["label"])
        if not self.recipe.adversarial:
            return terms, None
        return terms, {head: x.detach() for head, x in self.maps(scores).items()}

    def target(self, batch):
        outputs, size = self.bench.segment(self.segmenter, batch["image"]), batch["image"].shape[2:]
        scores = {head: losses.upsample(outputs[head], size) for head in WEIGHTS if head in outputs}
        if not self.recipe.adversarial:
            terms = {head: losses.entropy(x.softmax(1)) for head, x in scores.items()}
            return {_named("entropy", head): WEIGHTS[head] * value for head, value in terms.items()}, None
        return self.fool(self.maps(scores))

    def fool(self, maps):
        """The segmenter's side: target maps shall be taken for the source's."""
        terms = {}
        for head, x in maps.items():
            decisions = self.bench.decide(self.networks[DISCRIMINATOR_OF[head]], x)
            terms[_named("adversarial", head)] = WEIGHTS[head] * losses.adversarial(decisions, losses.SOURCE)
        return terms, {head: x.detach() for head, x in maps.items()}

    domain_weight = 0.5

    def discriminate(self, seen):
        terms = {}
        for head in seen["source"]:
            network = self.networks[DISCRIMINATOR_OF[head]]
            decisions = [self.bench.decide(network, seen[domain][head]) for domain in ("source", "target")]
            terms[DISCRIMINATOR_OF[head]] = self.domain_weight * losses.domain_loss(*decisions)
        return terms


def _named(loss, head):
    return loss if head == "logits" else f"{loss}_aux"


class SourceOnly(Alignment):
    """One domain, AdaptSegNet's network."""

    recipe = Recipe(branches=2, adapts=False, adversarial=False)


class MinEnt(Alignment):
    """Entropy of the target, no discriminator."""

    recipe = Recipe(adversarial=False)


class AdaptSegNet(Alignment):
    """Discriminators of probabilities."""

    recipe = Recipe(maps="probabilities", branches=2)


class Dada(Alignment):
    """AdvEnt whose network learns depth, which multiplies what the discriminator sees."""

    domain_weight = 1.0
    depth_weight = 0.001
    horizon = 90_000

    def build(self):
        share = lambda iteration: updates.poly(iteration, self.horizon)  # noqa: E731
        self.segmenter = self.networks["segmenter"] = self.bench.segmenter("dada_resnet101", aspp_branches=4)
        self.add_discriminators(("logits",))
        self.players = [updates.Sgd(self.segmenter, share=share)]
        self.players.append(updates.Adam(self.networks["discriminator"], share=share))
        self.sides |= {"source": self.source, "target": self.target}

    def source(self, batch):
        outputs = self.bench.segment(self.segmenter, batch["image"])
        terms, scores = self.supervised(outputs, batch["label"])
        depth, truth = losses.upsample(outputs["depth"], batch["label"].shape[1:]), batch["depth"]
        # Every pixel counts; SYNTHIA has a depth everywhere.
        wanted = losses.inverse_depth(truth, 0.0)
        terms["depth"] = self.depth_weight * losses.berhu(depth, wanted, torch.ones_like(wanted, dtype=torch.bool))
        return terms, {"logits": (losses.self_information(scores["logits"].softmax(1)) * depth).detach()}

    def target(self, batch):
        outputs, size = self.bench.segment(self.segmenter, batch["image"]), batch["image"].shape[2:]
        scores, depth = (losses.upsample(outputs[name], size) for name in ("logits", "depth"))
        return self.fool({"logits": losses.self_information(scores.softmax(1)) * depth})


class Ass(Alignment):
    """Discriminators of probabilities, and of the mean features of classes; some target images have labels."""

    recipe = Recipe(maps="probabilities", two_heads=False, branches=2)
    semantic_weight = 0.001

    def build(self):
        Alignment.build(self)
        classifier = self.segmenter.layer5.conv2d_list[0]
        self.networks["semantic"] = self.bench.network("semantic_discriminator", classifier.in_channels)
        self.adversaries += ("semantic",)
        self.players.append(updates.Adam(self.networks["semantic"]))
        self.sides = {"source": self.source, "labelled_target": self.labelled, "target": self.target}

    def _means(self, outputs, labels):
        small = losses.nearest_labels(labels, outputs["features"].shape[2:])
        return losses.class_means(outputs["features"], small, self.bench.classes)

    def source(self, batch):
        outputs = self.bench.segment(self.segmenter, batch["image"])
        terms, scores = self.supervised(outputs, batch["label"])
        with torch.no_grad():
            return terms, {"logits": scores["logits"].softmax(1), "means": self._means(outputs, batch["label"])}

    def labelled(self, batch):
        outputs = self.bench.segment(self.segmenter, batch["image"])
        terms = {f"labelled_{name}": x for name, x in self.supervised(outputs, batch["label"])[0].items()}
        means, present = self._means(outputs, batch["label"])
        decisions = self.bench.decide(self.networks["semantic"], means)
        terms["semantic"] = self.semantic_weight * losses.semantic_adversarial(decisions, present, losses.SOURCE)
        return terms, {"means": (means.detach(), present)}

    def discriminate(self, seen):
        decisions = [
            self.bench.decide(self.networks["discriminator"], seen[domain]["logits"]) for domain in ("source", "target")
        ]
        both = 0.0
        for domain, truth in (("source", losses.SOURCE), ("labelled_target", losses.TARGET)):
            means, present = seen[domain]["means"]
            both += losses.semantic_adversarial(self.bench.decide(self.networks["semantic"], means), present, truth)
        return {"discriminator": 0.5 * losses.domain_loss(*decisions), "semantic_discriminator": 0.5 * both}


METHODS = {
    "advent": Alignment,
    "adaptsegnet": AdaptSegNet,
    "source_only": SourceOnly,
    "minent": MinEnt,
    "intrada": Alignment,
    "dada": Dada,
    "ass": Ass,
}
