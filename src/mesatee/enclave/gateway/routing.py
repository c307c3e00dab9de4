"""Which handler a method and a path mean.

>>> routes = Routes((("GET", "/v1/a", "all"), ("GET", "/v1/a/{name}", "one"), ("PUT", "/v1/a/{name}", "put")))
>>> routes.find("GET", "/v1/a/x")
('one', {'name': 'x'})
>>> routes.find("DELETE", "/v1/a") is None
True
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from starlette.routing import compile_path

H = TypeVar("H")
NO_PARAMETERS: Final[Mapping[str, str]] = {}


class _Pattern(NamedTuple, Generic[H]):
    path: re.Pattern[str]
    handlers: dict[str, H]


class Routes(Generic[H]):
    """A table of (method, path, handler), where a path is one of Starlette's, with its parameters as text.

    Where several paths fit, one without parameters goes before others, and among these the first.
    """

    def __init__(self, table: Iterable[tuple[str, str, H]]) -> None:
        self._plain: dict[str, dict[str, H]] = {}
        patterns: dict[str, _Pattern[H]] = {}
        for method, path, handler in table:
            regex, _, parameters = compile_path(path)
            if parameters:
                handlers = patterns.setdefault(path, _Pattern(regex, {})).handlers
            else:
                handlers = self._plain.setdefault(path, {})
            handlers[method] = handler
        self._patterns = tuple(patterns.values())

    def find(self, method: str, path: str) -> tuple[H, Mapping[str, str]] | None:
        """The handler, and the path's parameters by name; None if there is none for this method and path."""
        handlers = self._plain.get(path)
        parameters = NO_PARAMETERS
        if handlers is None:
            for pattern in self._patterns:
                if found := pattern.path.match(path):
                    handlers, parameters = pattern.handlers, found.groupdict()
                    break
            else:
                return None
        # An answer to HEAD is that to GET, whose body the server leaves out.
        handler = handlers.get("GET" if method == "HEAD" else method)
        return None if handler is None else (handler, parameters)

    def knows(self, path: str) -> bool:
        """Whether there is a handler for some method."""
        return path in self._plain or any(pattern.path.match(path) for pattern in self._patterns)


__all__ = ["Routes"]
