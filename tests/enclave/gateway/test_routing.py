"""Routes, with Starlette's own router as the oracle."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.routing import Match, Route

from mesatee.enclave.gateway import routing
from mesatee.enclave.gateway.api import ROUTES
from mesatee.enclave.gateway.routing import Routes

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
PARTS = sorted(
    {part for _, path, _ in ROUTES for part in path.split("/")} | {"x", "x000", "%2F", "0", "..", "\n"}
)


async def nothing(request: Any) -> None:
    """Never called."""


ORACLE = [(Route(path, nothing, methods=[method]), handler) for method, path, handler in ROUTES]
FOUND = Routes(ROUTES)


def test_doctest() -> None:
    assert doctest.testmod(routing).failed == 0


@given(
    st.sampled_from(METHODS), st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=6).map("/".join)
)
@example("GET", "/v1/log/tile/0/x001/234.p/5")
@example("GET", "/v1/log/tile/entries/000")
@example("HEAD", "/v1/service")
@example("DELETE", "/v1/service")
@example("GET", "/v1/service/")
@example("GET", "")
def test_finds_what_starlette_finds(method: str, path: str) -> None:
    scope = {"type": "http", "method": method, "path": path, "headers": []}
    full = None
    known = False
    for route, handler in ORACLE:
        match, child = route.matches(scope)
        known = known or match is not Match.NONE
        if match is Match.FULL:
            full = handler, child["path_params"]
            break
    found = FOUND.find(method, path)
    assert (found and (found[0], dict(found[1]))) == full
    assert FOUND.knows(path) == known


@pytest.mark.parametrize(("method", "path", "handler"), ROUTES)
def test_finds_every_route(method: str, path: str, handler: Any) -> None:
    found = FOUND.find(method, path.replace("{index:path}", "000").replace("{", "").replace("}", ""))
    assert found is not None
    assert found[0] is handler
