"""The names of the files that a run keeps, for those who write them and for those who read them."""

import os

from uda_jax.data.io import places


class StageFiles:
    """The files of one stage; none of them need exist.

    Attributes:
      path: the stage's folder.
      checkpoints: folder of the checkpoints, one per step kept.
      unscored: folder of the checkpoint of a run that was stopped while its state was being scored.
      frozen: folder of the networks that never learn, written once.
      finished: the marker of a stage that is done, and its results.
      receipt: what the stage was made of and what came of it, for `uda verify`.
      metrics: rows of logged scalars; TensorBoard's events lie beside it.
      parameters: table of the parameters of every network.
      nonfinite: the frames of a batch with an infinite or NaN loss.
      illustrations: folder of pictures of a training batch, `<name>/<i>.png`.
      profile: folder of the trace that `train.profile` asks for.
      ranking: what a ranking was made with, and every frame with its score, from easy to hard.
      easy, hard: names of the easy and of the hard frames.
      scores: the frames' scores as far as a ranking has come.
      pseudo_labels: folder of the labels that were predicted, `<frame name>.png`.
      easiest, hardest: folders of pictures of a few ranked frames.
      translated: folder of the images that were translated, `<frame name>.png`.
      disparity: folder of the depth maps that were drawn, `<frame name>.png`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = places.local(path)
        self.checkpoints = self.path / "checkpoints"
        self.unscored = self.path / "unscored"
        self.frozen = self.path / "frozen"
        self.finished = self.path / "finished.json"
        self.receipt = self.path / "receipt.json"
        self.metrics = self.path / "metrics.jsonl"
        self.parameters = self.path / "parameters.txt"
        self.nonfinite = self.path / "nonfinite.json"
        self.illustrations = self.path / "illustrations"
        self.profile = self.path / "profile"
        self.ranking = self.path / "ranking.json"
        self.easy, self.hard = self.path / "easy.txt", self.path / "hard.txt"
        self.scores = self.path / "scores.jsonl"
        self.pseudo_labels = self.path / "pseudo_labels"
        self.easiest, self.hardest = self.path / "easiest", self.path / "hardest"
        self.translated = self.path / "translated"
        self.disparity = self.path / "disparity"


class RunFiles:
    """The files of a run; none of them need exist.

    Attributes:
      path: the workdir.
      config: the experiment.
      label_space: the classes, their colours and the label that is ignored.
      data: what tells the frames of the training domains from others.
      confusion: the confusion matrix of each final split that has labels, see `report.confusion`.
      result: the result row, once everything is done.
      receipt: what tells the finished run from any other, for `uda verify`.
      pictures: folder of predictions on the evaluation split.
      unlabelled: what `uda select` measured of its checkpoints without labels.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = places.local(path)
        self.config = self.path / "config.json"
        self.label_space = self.path / "label_space.json"
        self.data = self.path / "data.json"
        self.confusion = self.path / "confusion.json"
        self.result = self.path / "result.json"
        self.receipt = self.path / "receipt.json"
        self.pictures = self.path / "pictures"
        self.unlabelled = self.path / "unlabelled.json"

    def stage(self, name: str) -> StageFiles:
        """Returns the files of a stage."""
        return StageFiles(self.path / name)

    def stages(self) -> list[StageFiles]:
        """Returns the folders that may be stages', in the order of their names."""
        return [StageFiles(path) for path in sorted(self.path.glob("*/")) if path != self.pictures]
