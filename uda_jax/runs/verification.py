"""Whether a run is what its receipts say, and does again what it did; or the first thing in which it is not.

In this order: config, data (order of frames, meaning of what is stored, each file), weights of every checkpoint that is
kept, what stages that do not train have written, results, library versions, a replay of training steps, and the
receipts themselves. What differs ends the checks, except for a version: the replay then has to come to the same within
a tolerance.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from uda_jax.config import Experiment
from uda_jax.data.contents import Contents, file_digest, first_change
from uda_jax.data.io import mirrors
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError, os_error_line
from uda_jax.runs import checksums, receipts, replay, results, stages, stored_weights
from uda_jax.runs.signals import Stop
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir, difference, flat, read_json
from uda_jax.training import sharding

CONFIG, DATA, ORDER, WEIGHTS, FILES = "config", "data file", "order of files", "weights", "stage's files"
RESULTS, VERSIONS, REPLAY, RECEIPT = "results", "library version", "replay", "receipt"


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      what: one of the names above.
      same: whether it is as recorded.
      message: what was looked at, or what differs.
    """

    what: str
    same: bool
    message: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of the checks of a run, in their order."""

    checks: tuple[Check, ...]

    @property
    def first(self) -> Check | None:
        """The first thing that differs, or None."""
        return next((check for check in self.checks if not check.same), None)


@dataclasses.dataclass(frozen=True)
class Replaying:
    """What of a run is replayed.

    Attributes:
      stage: whose steps; None = the last stage that trains.
      steps: how many, see `replay.span`.
      programs: compiled steps of earlier calls in this process, for runs of the same config.
      say: called with one line before what takes long.
    """

    stage: str | None = None
    steps: int | None = None
    programs: replay.Programs = dataclasses.field(default_factory=dict)
    say: Callable[[str], None] = lambda line: None


def verify(workdir: Workdir, replaying: Replaying | None = None) -> Verdict:
    """Checks a run against its receipts; nothing is written.

    Raises:
      UserError: there is no run or no receipt, no such stage to replay, nothing that so few steps could be compared by.
    """
    found, checks = _receipts(workdir), []
    with domains.opened_once():
        for check in _checks(workdir, found, replaying or Replaying()):
            checks.append(check)
            if not check.same and check.what != VERSIONS:
                break
    return Verdict(tuple(checks))


def _receipts(workdir: Workdir) -> dict[str, dict[str, Any]]:
    """Returns the receipts by their stage, that of the run under ""."""
    if not workdir.config.exists():
        workdir.experiment()  # It says what there is instead.
    files = {"": workdir.receipt} | {each.path.name: each.receipt for each in workdir.stages()}
    found = {name: read_json(file, "it is of no use any more") for name, file in files.items() if file.exists()}
    for name, receipt in found.items():
        if not isinstance(receipt, dict) or receipt.get("format") != receipts.FORMAT:
            raise UserError(f"{files[name]}: expected a receipt of format {receipts.FORMAT}, found other things")
    if not set(found) - {""}:
        raise UserError(
            f"{workdir.path}: no receipt.json in a stage's folder, so there is nothing to compare with; a stage leaves "
            "one when it ends, and versions before receipts left none"
        )
    return found


def _checks(workdir: Workdir, found: Mapping[str, dict[str, Any]], replaying: Replaying) -> Iterator[Check]:
    yield _config(workdir, found)
    experiment, classes = workdir.experiment(), workdir.classes()
    recipe = [stage for stage in stages.recipe(experiment, len(classes.names)) if stage.name in found]
    chosen = _chosen(recipe, replaying.stage, workdir)
    chosen_span = replay.span(found[chosen.name], replaying.steps, str(workdir.stage(chosen.name).path))
    replaying.say("reading the files of the data")
    yield _data(workdir, recipe, found, experiment)
    replaying.say("reading the checkpoints")
    for stage in recipe:
        files = workdir.stage(stage.name)
        if stage.kind.TRAINS:
            yield Check(WEIGHTS, *stored_weights.compare(files, found[stage.name]))
        else:
            mirrors.fetch(files.path)
            paths = receipts.written_files(files)
            yield _same_files(FILES, f"{stage.name}: ", found[stage.name]["files"], paths)
    if "" in found:
        paths = {path.name: path for path in (workdir.result, workdir.confusion)}
        yield _same_files(RESULTS, "", found[""]["results"], paths)
    versions = _versions(found)
    yield versions
    mesh = sharding.data_mesh(_devices(found[chosen.name]))
    context = Context(experiment, mesh, classes, Stop(polled=lambda: False))
    yield _replayed(workdir, chosen, found[chosen.name], context, chosen_span, replaying, same_versions=versions.same)
    yield _seals(workdir, found)


def _chosen(recipe: Sequence[Stage], name: str | None, workdir: Workdir) -> Stage:
    """Returns the stage whose steps are replayed."""
    known = {stage.name: stage for stage in recipe if stage.kind.TRAINS}
    if not known:
        raise UserError(f"{workdir.path}: no stage that trains has ended, so there are no steps to replay")
    if name is not None and name not in known:
        raise UserError(f"--stage {name}: expected a stage that trains and has ended, of {', '.join(known)}")
    return known[name] if name is not None else list(known.values())[-1]


def _config(workdir: Workdir, found: Mapping[str, dict[str, Any]]) -> Check:
    """Compares all fields with the run's receipt, or with those of its stages the fields that each depends on."""
    now = read_json(workdir.config, "put back the run's own")
    now = {name: value for name, value in now.items() if name != "format"} if isinstance(now, dict) else {}
    for name, receipt in found.items():
        then = receipt["config"]
        if name and "" in found:
            differs = None  # Its fields are among the run's, whose own receipt is the later one.
        elif name:
            differs = difference(then, now, scoring_may_change=True, stage=name)
        else:
            before, after = flat(then), flat(now)
            paths = (path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path))
            differs = next(((".".join(("config", *path)), before.get(path), after.get(path)) for path in paths), None)
        if differs:
            field, before, after = differs
            return Check(CONFIG, False, f"{field} is {after!r} in {workdir.config}, was {before!r}")
        if receipt["classes"] != list(workdir.classes().names):
            return Check(CONFIG, False, f"the classes in {workdir.label_space} are others, were {receipt['classes']}")
    return Check(CONFIG, True, f"{len(flat(now))} fields")


def _data(
    workdir: Workdir, recipe: Sequence[Stage], found: Mapping[str, dict[str, Any]], experiment: Experiment
) -> Check:
    """Compares the frames that stages were trained on, and those that the run was scored on."""
    reader, frames = Contents(), {}
    sections = []
    for stage in recipe:
        placed, recorded = stage.domains_in(workdir), found[stage.name]["data"]
        sections += [(f"{stage.name}: {name}", placed[name], recorded[name]) for name in recorded]
    for name, recorded in found.get("", {}).get("evaluation", {}).items():
        which, _, split = name.partition(".")
        sections.append((f"evaluation: {name}", experiment.evaluation.splits(which)[split], recorded))
    for where, domain, recorded in sections:
        if (check := _domain(where, domain, recorded, reader)) is not None:
            return check
        frames[where] = sum(len(part["names"]) for part in recorded.values())
    return Check(DATA, True, ", ".join(f"{where} {count} frames" for where, count in frames.items()))


def _domain(where: str, domain: Domain, recorded: Mapping[str, Any], reader: Contents) -> Check | None:
    """Returns what differs in the data sets of a domain, or None."""
    for name, (path, member) in domains.members(domain).items():
        try:
            changed = first_change(
                recorded[name], domains.open_domain(receipts.less_labels(member, path), path), reader
            )
        except OSError as error:
            return Check(DATA, False, f"{where}: {os_error_line(error)}")
        except UserError as error:
            return Check(DATA, False, f"{where}: {error}")
        if changed is not None:
            return Check(ORDER if changed.what == "order" else DATA, False, f"{where}: {changed.message}")
    return None


def _same_files(what: str, where: str, recorded: Mapping[str, str], paths: Mapping[str, Any]) -> Check:
    """Compares files by their content; those that nobody recorded are passed over."""
    for name, digest in recorded.items():
        if name not in paths or not paths[name].exists():
            return Check(what, False, f"{where}{name} is gone")
        if file_digest(paths[name]) != digest:
            return Check(what, False, f"{where}{name} is not what the run wrote")
    return Check(what, True, f"{where}{len(recorded)} file{'s' * (len(recorded) != 1)}")


def _versions(found: Mapping[str, dict[str, Any]]) -> Check:
    now = receipts.versions()
    for name, receipt in found.items():
        then = receipt["versions"]
        for package in (*now, *(then.keys() - now.keys())):
            if then.get(package) != now.get(package):
                where = f"stage {name}" if name else "the run"
                return Check(
                    VERSIONS, False, f"{package} is {now.get(package)}, {where} ended with {then.get(package)}"
                )
    return Check(VERSIONS, True, ", ".join(f"{package} {version}" for package, version in now.items()))


def _devices(receipt: Mapping[str, Any]) -> int | None:
    """Returns on how many devices to replay: as many as then, or all where there are fewer."""
    then = receipt["hardware"]["devices"]
    return then if then <= jax.device_count() else None


def _replayed(
    workdir: Workdir,
    stage: Stage,
    receipt: Mapping[str, Any],
    context: Context,
    chosen: replay.Span,
    replaying: Replaying,
    *,
    same_versions: bool,
) -> Check:
    """Replays steps, for the same bits on the same machine with the same versions."""
    sharding.check_batch_size(stage.train.batch_size, "config.train.batch_size", context.mesh.size)
    machine = receipts.machine(context.mesh.size)
    others = [name for name, now in machine.items() if receipt["hardware"].get(name) != now]
    exact = same_versions and not others
    replaying.say(f"replaying {chosen.words} of stage {stage.name}")
    found = replay.compare(stage, workdir, context, receipt, chosen, exact=exact, programs=replaying.programs)
    if exact:
        how = "the same bits"
    else:
        reasons = [*(f"{name} {receipt['hardware'].get(name)} then, {machine[name]} now" for name in others)]
        reasons += [] if same_versions else ["other versions"]
        how = f"within {replay.TOLERANCE:g} of each network's way and {replay.LOSS_TOLERANCE:g} of each loss"
        reasons += [] if found.largest is None else [f"a network is {found.largest:.2g} of its way off"]
        how += f" ({'; '.join(reasons)})"
    told = f"{stage.name}: {chosen.words}: "
    if found.difference is None:
        return Check(REPLAY, True, f"{told}{how} in {found.compared}")
    code = results.commit()
    why = f" (the code is {code}, was {receipt['commit']})" if code != receipt["commit"] else ""
    return Check(REPLAY, False, f"{told}{found.difference}; expected {how}{why}")


def _seals(workdir: Workdir, found: Mapping[str, dict[str, Any]]) -> Check:
    """Looks at the receipts themselves, for what nothing else could be compared with."""
    for name, receipt in found.items():
        path = workdir.stage(name).receipt if name else workdir.receipt
        if not checksums.is_sealed(receipt) or receipt["config_hash"] != receipts.plain_digest(receipt["config"]):
            return Check(RECEIPT, False, f"{path}: its own checksum differs: it was edited or is damaged")
        if "state" in receipt and receipt["state"]["digest"] != checksums.digest_of_all(receipt["state"]["arrays"]):
            return Check(RECEIPT, False, f"{path}: the digest of its state is not that of its arrays")
    for name, digest in found.get("", {}).get("stages", {}).items():
        path = workdir.stage(name).receipt
        if not path.exists() or file_digest(path) != digest:
            return Check(RECEIPT, False, f"{path}: is not the one that the run's receipt names")
    return Check(RECEIPT, True, f"{len(found)} receipts with their checksums")


def to_json(workdir: Workdir, verdict: Verdict) -> str:
    """Returns a verdict for programs."""
    first = verdict.first
    plain = {"run": str(workdir.path), "same": first is None, "first": first and dataclasses.asdict(first)}
    plain |= {"tolerance": {"way": replay.TOLERANCE, "loss": replay.LOSS_TOLERANCE}}
    plain |= {"checks": [dataclasses.asdict(check) for check in verdict.checks]}
    return json.dumps(plain, indent=1)
