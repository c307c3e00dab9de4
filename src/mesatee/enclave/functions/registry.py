"""Name -> built-in function, with the signature that its source gives."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mesatee.errors import NotFound
from mesatee.protocol.signature import Signature, derive


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in function; its docstring says what it reveals to whom."""

    function: Callable[..., Any]
    signature: Signature
    load_ahead: Callable[[memoryview, Mapping[str, Any]], None] | None = None
    """Loads the input `model` ahead, for a run with these arguments; None where there is nothing to load."""

    @property
    def reveals(self) -> str:
        """The docstring, for consoles."""
        return inspect.getdoc(self.function) or ""


def _builtin(name: str) -> Builtin:
    # Read now and not in the child, which cannot open our source files.
    module = importlib.import_module(f"{__package__}.{name}")
    signature = derive(inspect.getsource(module), name)
    return Builtin(getattr(module, name), signature, getattr(module, "load_ahead", None))


def _found() -> tuple[str, ...]:
    """One function for each module of this folder that is not private, named like it."""
    here = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in here if not name.startswith("_") and name != "registry"))


_BUILTINS: Final[Mapping[str, Builtin]] = MappingProxyType({name: _builtin(name) for name in _found()})


def find(name: str) -> Builtin:
    """The function of this name. Raises `NotFound`."""
    if name not in _BUILTINS:
        raise NotFound(f"there is no built-in function of this name; there are {', '.join(names())}")
    return _BUILTINS[name]


def names() -> tuple[str, ...]:
    """All of them, sorted."""
    return tuple(sorted(_BUILTINS))
