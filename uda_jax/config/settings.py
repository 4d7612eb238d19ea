"""Which settings the packaged configs have."""

import importlib
from types import ModuleType

from uda_jax.config import files
from uda_jax.configs.common import benchmarks, pretrained


def packaged() -> list[str]:
    """Returns the references of all settings of all packaged configs, such as `advent:gta5_cityscapes,minent`.

    A config's settings are the keys of its SETTINGS, without one the common benchmarks, each with all of its VARIANTS.
    Those of its PUBLISHED_VARIANTS have only the papers' benchmarks, and where a variant lacks other settings, the
    config's function `settings_of(variant)` says which it has.
    """
    found = []
    for name in files.names():
        module = importlib.import_module(f"uda_jax.configs.{name}")
        for setting in getattr(module, "SETTINGS", benchmarks.SETTINGS):
            variants = [variant for variant in module.VARIANTS if _has(module, setting, variant)]
            found += [f"{name}:{setting},{variant}".rstrip(",") for variant in variants]
    return found


def published() -> list[str]:
    """Returns the references of those settings that follow a paper."""
    return [reference for reference in packaged() if _setting(reference) not in benchmarks.OWN]


def _has(module: ModuleType, setting: str, variant: str) -> bool:
    if setting in benchmarks.OWN and variant in getattr(module, "PUBLISHED_VARIANTS", ()):
        return False
    if variant == pretrained.VARIANT and setting not in pretrained.SETTINGS:
        return False
    settings_of = getattr(module, "settings_of", None)
    return settings_of is None or setting in settings_of(variant)


def _setting(reference: str) -> str:
    return reference.partition(":")[2].partition(",")[0]
