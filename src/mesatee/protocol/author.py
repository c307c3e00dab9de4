"""Whoever signs statements of a party: what all of them have in common is filled in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from . import statements
from .envelope import Signer
from .model import malformed

C = TypeVar("C", bound=statements.Common)


@dataclass(frozen=True, slots=True)
class Author:
    """What every statement of one party has in common; time and randomness are its caller's."""

    signer: Signer
    origin: str
    service: str
    checkpoint: str
    time: int
    nonce: Callable[[], str]

    def write(self, kind: type[C], **fields: Any) -> statements.Statement:
        """Fill in the common fields and sign. Raises `Malformed` for fields that do not fit."""
        common: dict[str, Any] = {
            "origin": self.origin,
            "service": self.service,
            "time": self.time,
            "nonce": self.nonce(),
            "checkpoint": self.checkpoint,
        }
        try:
            predicate = kind(**common, **fields)
        except ValidationError as error:
            raise malformed(kind.kind, error) from None
        return statements.sign(predicate, self.signer)


__all__ = ["Author"]
