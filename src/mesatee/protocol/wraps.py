"""What each HPKE wrap is bound to: a label as `info` and canonical JSON as associated data (RFC 9180, section 8.1).

A wrap made for one purpose, blob, owner, run or receiver opens for no other.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .jsonstrict import canonical


class Binding(NamedTuple):
    """The two inputs of HPKE beside key and plaintext."""

    info: bytes
    aad: bytes


_LABEL: Final = "mesatee wrap v1: "


def _bind(purpose: str, **facts: str | int) -> Binding:
    return Binding((_LABEL + purpose).encode(), canonical(facts))


def upload(origin: str, owner: str, blob: str) -> Binding:
    """A dataset's or private function's file key, from its owner to the gateway."""
    return _bind("upload", origin=origin, owner=owner, blob=blob)


def attempt_input(origin: str, run: str, fence: int, name: str, blob: str) -> Binding:
    """An input's file key, from the gateway to the worker of one attempt."""
    return _bind("attempt input", origin=origin, run=run, fence=fence, name=name, blob=blob)


def attempt_output(origin: str, run: str, fence: int, name: str, blob: str) -> Binding:
    """An output's file key, from the worker of one attempt to the gateway."""
    return _bind("attempt output", origin=origin, run=run, fence=fence, name=name, blob=blob)


def result(origin: str, run: str, name: str, blob: str, receiver: str) -> Binding:
    """An output's file key, from the gateway to one receiver."""
    return _bind("result", origin=origin, run=run, name=name, blob=blob, receiver=receiver)


def hand_over(origin: str, service: str, index: int, to: str, name: str) -> Binding:
    """One of the service's own keys, from a gateway to its successor, whose key has the digest `to`; `index` is that of
    the log entry."""
    return _bind("hand-over", origin=origin, service=service, index=index, to=to, name=name)


def share(origin: str, service: str, set_: str, holder: str, request: str) -> Binding:
    """A holder's share of the recovery key, to the gateway that recovers, for its request with this digest."""
    return _bind("share", origin=origin, service=service, set=set_, holder=holder, request=request)


__all__ = ["Binding", "attempt_input", "attempt_output", "hand_over", "result", "share", "upload"]
