"""Domains of a stage that name files which an earlier stage of the run is still to write."""

import dataclasses
from pathlib import Path

from uda_jax.data.io import mirrors
from uda_jax.data.pipeline.domains import Domain

# In a domain of a stage, the folder of the run: what an earlier stage wrote is only found there.
WORKDIR = "{workdir}"
# The fields of a domain that may name such files.
_WRITTEN_EARLIER = ("names_file", "labels_from", "images_from", "disparity_from")
# What they hold of a frame; the frames themselves are there before.
_MAP_OF = {"labels_from": "label", "disparity_from": "disparity"}


def placed(domain: Domain, folder: str) -> Domain:
    """Returns a domain, and what is mixed into it, with the files of earlier stages found in the run's folder."""
    found = {name: getattr(domain, name).replace(WORKDIR, folder) for name in _late_fields(domain)}
    for path in found.values():
        mirrors.fetch(Path(path))
    mix = domain.mix and {name: placed(member, folder) for name, member in domain.mix.items()}
    return dataclasses.replace(domain, **found, mix=mix)


def needs_workdir(domain: Domain) -> bool:
    """Whether a domain, or what is mixed into it, names what earlier stages of the run are still to write."""
    return any(_late_fields(part) for part in (domain, *(domain.mix or {}).values()))


def _late_fields(domain: Domain) -> list[str]:
    return [name for name in _WRITTEN_EARLIER if WORKDIR in (getattr(domain, name) or "")]


def before_the_run(domain: Domain) -> Domain:
    """Returns a domain without the lists and the maps that earlier stages of the run are still to write."""
    late = _late_fields(domain)
    written = [_MAP_OF[name] for name in late if name in _MAP_OF]
    fields = tuple(field for field in domain.fields if field not in written)
    mix = domain.mix and {name: before_the_run(member) for name, member in domain.mix.items()}
    return dataclasses.replace(domain, fields=fields, mix=mix, **dict.fromkeys(late))
