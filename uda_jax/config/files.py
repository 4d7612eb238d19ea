"""Config files by reference: packaged ones by name, a user's own by path, whose mistakes become one line."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
import types
from pathlib import Path

from ml_collections import ConfigDict

from uda_jax import configs
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

# What a user's own code may raise; Ctrl-C is none of it.
_MISTAKES = (Exception, SystemExit)


def names() -> list[str]:
    """Returns the names of the packaged configs."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__) if not module.ispkg)


def read(reference: str) -> ConfigDict:
    """Returns what `get_config(setting)` of a config file returns, or `get_config()` where there is no setting.

    Args:
      reference: `advent:streets` (a packaged file and its setting) or `path/to/file.py:setting`.

    Raises:
      UserError: no such file, a setting where none is taken or none where one is, or whatever the user's code raises,
        with its file and line.
    """
    # A path may hold colons itself, as C:\configs\mine.py does.
    own = re.fullmatch(r"(.*?\.py)(?::(.*))?", reference, re.DOTALL)
    if own is None:
        name, _, setting = reference.partition(":")
        return _call(_packaged(name).get_config, name, setting)
    path, setting = Path(own[1]), own[2] or ""
    if not path.is_file():
        raise UserError(f"--config {path}: {'expected a file, found a folder' if path.is_dir() else 'no such file'}")
    try:
        module = _own(path)
        function = getattr(module, "get_config", None)
        if not inspect.isfunction(function):
            raise UserError(f"--config {path}: expected a function get_config(setting) in it, found none")
        found = _call(function, str(path), setting)
    except UserError:
        raise
    except _MISTAKES as error:
        raise UserError(f"--config {_place(error, path)}: {_reason(error)}; mend the config file") from error
    if not isinstance(found, ConfigDict):
        kind = type(found).__name__
        raise UserError(f"--config {path}: expected get_config to return a ConfigDict, got {kind}; return the config")
    return found


def _packaged(name: str) -> types.ModuleType:
    if name not in names():
        raise UserError(f"--config {name}: no packaged config of this name{did_you_mean(name, names())}")
    return importlib.import_module(f"uda_jax.configs.{name}")


def _own(path: Path) -> types.ModuleType:
    """Imports a user's file, which may import its neighbours and name a method of theirs."""
    spec = importlib.util.spec_from_file_location(f"uda_jax_user_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def _call(function: types.FunctionType, name: str, setting: str) -> ConfigDict:
    """Calls `get_config` with the setting, if there is one."""
    arguments = [setting] if setting else []
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        if arguments:
            raise UserError(f"--config {name}:{setting}: its get_config takes no setting; write {name}") from None
        raise UserError(
            f"--config {name}: its get_config takes a setting; write {name}:setting, or give it a default"
        ) from None
    return function(*arguments)


def _place(error: BaseException, path: Path) -> str:
    """Returns the file and the line where a user's code raised, the innermost of the config and its neighbours."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    folder = str(path.parent.resolve())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if str(Path(frame.filename).resolve()).startswith(folder)]
    # The library may lie below the folder, as in a checkout.
    own = [frame for frame in own if not Path(frame.filename).resolve().is_relative_to(Path(__file__).parent)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else str(path)


def _reason(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
