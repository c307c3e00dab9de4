"""Puts files one behind the other."""

from __future__ import annotations

from typing import Final

from mesatee.errors import Malformed

SEPARATOR_BYTES: Final = 1024
"""Of the separator, in UTF-8."""


def concat(inputs: dict[str, bytes], *, separator: str = "") -> bytes:
    """Return the bytes of all inputs one behind the other, in the order of their names.

    Inputs are taken as they are, whatever their format: nothing is read, added or left out. Between two of them
    stands `separator` in UTF-8, at most 1024 bytes; by default nothing. An empty input counts like any other.

    Reveals all inputs to the output's receivers, byte for byte; without a separator not where one ends.
    """
    try:
        between = separator.encode()
    except UnicodeEncodeError:
        raise Malformed("separator is not Unicode text: leave single surrogates out") from None
    if len(between) > SEPARATOR_BYTES:
        raise Malformed(f"separator has {len(between)} bytes, the limit is {SEPARATOR_BYTES}")
    return between.join(inputs[name] for name in sorted(inputs))
