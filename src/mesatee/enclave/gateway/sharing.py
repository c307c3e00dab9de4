"""What the projection keeps of a log that grows: each text that many entries repeat once, and nothing twice.

Statements and outcomes are parsed from bytes, so that each brings copies of its own of the same parties, tasks
and names. Values are as they were: only which objects hold them changes.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from sys import intern
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from ...protocol import statements

P = TypeVar("P", bound=statements.Common)

COMPARED: Final = "-"
"""In place of a statement's checkpoint, which was compared when the statement came; the log has it."""
ELSEWHERE: Final = "LS0t"
"""In place of the wrap of a file key, which is read from the log when the key is released. Base64, as wraps are."""
_SETS: dict[frozenset[str], set[str]] = {}
# Which fields of a model were given: one set for all models of which the same ones were, as they never change.


def kept(predicate: P) -> P:
    """A statement as the projection keeps it: without checkpoint and wraps, its texts shared with others."""
    less: dict[str, Any] = {"checkpoint": COMPARED}
    match predicate:
        case statements.DatasetStatement():
            less["wrap"] = ELSEWHERE
        case statements.FunctionStatement(code=statements.CodeRef(wrap=str()) as code):
            less["code"] = code.model_copy(update={"wrap": ELSEWHERE})
    found: P = shared(predicate.model_copy(update=less))
    return found


def shared(value: Any) -> Any:
    """The same value out of shared parts, which are put into it where it is a model or one of the projection's own."""
    match value:
        case str():
            return intern(value)
        case tuple():
            return tuple(map(shared, value))
        case list():
            return [shared(item) for item in value]
        case dict():
            return {shared(key): shared(item) for key, item in value.items()}
        case BaseModel():
            given = value.model_fields_set
            object.__setattr__(value, "__pydantic_fields_set__", _SETS.setdefault(frozenset(given), given))
            value.__dict__.update({name: shared(item) for name, item in value.__dict__.items()})
        case _ if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                object.__setattr__(value, field.name, shared(getattr(value, field.name)))
    return value


__all__ = ["COMPARED", "ELSEWHERE", "kept", "shared"]
