"""What everything that crosses a boundary is made of: the strict model, the types of its fields, and its reading."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ..errors import Malformed
from . import limits
from .jsonstrict import canonical, parse_object

M = TypeVar("M", bound=BaseModel)

Time = Annotated[int, Field(ge=0, le=2**40)]
Origin = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
"""The name of a log: a host name, and perhaps a path."""
PolicyText = Annotated[str, StringConstraints(min_length=1, max_length=limits.POLICY_BYTES)]
Measurement = Annotated[str, StringConstraints(pattern=r"^(none|[0-9a-f]{64,128})$")]
"""A TEE's measurement in hex; ``none`` for a machine of level 1, which measures nothing."""
Column = Annotated[str, StringConstraints(min_length=1, max_length=limits.COLUMN_CHARS)]
"""A column's name."""
TableFormat = Literal["csv", "parquet", "arrow", "json", "bytes"]


class Model(BaseModel):
    """Base of everything that crosses a boundary."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def validate(model: type[M], value: Any, what: str) -> M:
    """Validate strictly parsed JSON against a model. Raises `Malformed` naming the field, never quoting its value."""
    try:
        # By way of JSON, because pydantic's strict mode takes a JSON array for a tuple but not a Python list.
        return model.model_validate_json(canonical(value))
    except ValidationError as error:
        raise malformed(what, error) from None


def read(model: type[M], data: bytes, what: str, *, limit: int) -> M:
    """As `validate`, of a JSON text of at most `limit` bytes. Raises also `TooLarge`."""
    # 1. By the strict parser, for the text as such; 2. by the model. Both read the same bytes, and after 1. in one way.
    parse_object(data, limit=limit)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise malformed(what, error) from None


def malformed(what: str, error: ValidationError) -> Malformed:
    """The first thing that does not fit a model: its field, never its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[: limits.NAME_CHARS] for part in first["loc"]) or what
    return Malformed(f"{what}: {where}: {first['msg']}")
