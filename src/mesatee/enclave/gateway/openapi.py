"""The OpenAPI description, made from the route table and the wire models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from ...protocol import wire
from ...protocol.model import Model
from ...protocol.records import RecordProof

_BODIES: dict[str, type[Model] | None] = {
    "post_attempt": wire.GrantRequest,
    "finish": wire.FinishRequest,
    "hand_over": wire.HandOverRequest,
}
_ANSWERS: dict[str, type[Model]] = {
    "service": wire.ServiceReply,
    "consistency": wire.ProofReply,
    "entry": RecordProof,
    "post_statement": wire.Posted,
    "parties": wire.ListReply,
    "datasets": wire.ListReply,
    "functions": wire.ListReply,
    "tasks": wire.ListReply,
    "task": wire.TaskView,
    "put_blob": wire.ListReply,
    "post_attempt": wire.GrantReply,
    "renew": wire.RenewReply,
    "finish": wire.FinishReply,
    "hand_over": wire.HandOverReply,
}
_QUERY = {
    "entry": ("size",),
    "consistency": ("first", "second"),
    "task": ("after", "wait"),
    "get_blob": ("start",),
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "hint")},
        }
    },
}


def document(routes: Iterable[tuple[str, str, Callable[..., Any]]]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    models = sorted(
        {*_ANSWERS.values(), *(body for body in _BODIES.values() if body)}, key=lambda m: m.__name__
    )
    _, schemas = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    components = dict(schemas.get("$defs", {}))
    components["Error"] = _ERROR
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in routes:
        shown = re.sub(r"{(\w+):path}", r"{\1}", path)
        paths.setdefault(shown, {})[method.lower()] = _operation(path, handler)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MesaTEE gateway",
            "version": "1",
            "description": "Served only over attested TLS 1.3 with a client certificate. "
            "Errors carry code, message and hint.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(path: str, handler: Callable[..., Any]) -> dict[str, Any]:
    name = handler.__name__
    answer = _ANSWERS.get(name)
    content = (
        {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer.__name__}"}}}
        if answer
        else {"application/octet-stream": {}}
    )
    parameters = [
        {"name": item, "in": "path", "required": True, "schema": {"type": "string"}}
        for item in re.findall(r"{(\w+)(?::path)?}", path)
    ] + [{"name": item, "in": "query", "schema": {"type": "integer"}} for item in _QUERY.get(name, ())]
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": (handler.__doc__ or "").strip(),
        "parameters": parameters,
        "responses": {
            "201" if name == "put_blob" else "200": {"description": "done", "content": content},
            "default": {
                "description": "refused",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    body = _BODIES.get(name)
    if body:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif name == "post_statement":
        operation["requestBody"] = {
            "required": True,
            "description": "a DSSE envelope over an in-toto statement of a party",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    elif name == "put_blob":
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return operation


__all__ = ["document"]
