"""Name -> built-in function, with the signature that its source gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from mesatee.enclave.functions import echo, psi
from mesatee.errors import NotFound
from mesatee.protocol.signature import Signature, derive


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in function; its docstring says what it reveals to whom."""

    function: Callable[..., Any]
    signature: Signature

    @property
    def reveals(self) -> str:
        """The docstring, for consoles."""
        return inspect.getdoc(self.function) or ""


def _builtin(module: Any, name: str) -> Builtin:
    # Read now and not in the child, which cannot open our source files.
    return Builtin(getattr(module, name), derive(inspect.getsource(module), name))


_BUILTINS: Final[Mapping[str, Builtin]] = MappingProxyType(
    {name: _builtin(module, name) for name, module in (("echo", echo), ("psi", psi))}
)


def find(name: str) -> Builtin:
    """The function of this name. Raises `NotFound`."""
    if name not in _BUILTINS:
        raise NotFound(f"there is no built-in function of this name; there are {', '.join(names())}")
    return _BUILTINS[name]


def names() -> tuple[str, ...]:
    """All of them, sorted."""
    return tuple(sorted(_BUILTINS))
