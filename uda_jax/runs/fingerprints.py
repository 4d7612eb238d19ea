"""Fingerprints of the frames that a run is trained on, so that it does not go on over others."""

import hashlib
import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from uda_jax.data.base import Dataset
from uda_jax.data.pipeline import domains
from uda_jax.runs.late_files import needs_workdir
from uda_jax.runs.stages import Stage

# Asking a file system on a network for a size takes long, but many can be asked for at once.
_THREADS = 16


def of_domains(recipe: Iterable[Stage]) -> dict[str, dict[str, Any]]:
    """Returns what tells the training frames of a recipe from others, without reading any.

    Returns:
      {"stage.domain": {"frames": their number, "digest": of their names, of the sizes of their files as far as they lie
      in files of their own, and of the rule and the ids by which these are read}} of all domains but those that earlier
      stages of the run are still to write.
    """
    found, known = {}, []
    for stage in recipe:
        for name, domain in stage.domains.items():
            if needs_workdir(domain) or name not in (stage.kind.READS or stage.domains):
                continue
            digest = next((digest for other, digest in known if other == domain), None)
            if digest is None:
                parts = domains.members(domain).values()
                digest = of_datasets([domains.open_domain(member, where) for where, member in parts], domain.fields)
                known.append((domain, digest))
            found[f"{stage.name}.{name}"] = digest
    return found


def of_datasets(datasets: Iterable[Dataset], fields: Collection[str]) -> dict[str, Any]:
    """Returns {"frames", "digest"} of opened data sets, as `of_domains` says."""
    frames, content = 0, hashlib.sha256()
    for dataset in datasets:
        frames += len(dataset)
        names = dataset.names()
        files = [dataset.files(index) for index in range(len(dataset))]
        wanted = [each[field] for each in files for field in fields if field in each]
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes = list(pool.map(_size, wanted))
        # Other ids in a table are other labels.
        table = dataset.table.tolist() if dataset.table is not None and "label" in fields else None
        content.update(json.dumps([names, sizes, dataset.rule, table]).encode("utf-8", "backslashreplace"))
    return {"frames": frames, "digest": content.hexdigest()[:24]}


def _size(file: Any) -> tuple[str, int]:
    """Returns the size of a file; of one in an archive its name there, and the archive's size."""
    return file.member, file.path.stat().st_size
