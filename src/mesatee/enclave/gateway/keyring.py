"""The gateway's keys in use. Every method that touches one takes a permit, and nothing else opens it.

Private keys and file keys are handles of the Rust core; what passes here is ciphertext on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..._core import FileKey, HpkeKey, SecretKey, SigningKey, split_key
from ...errors import Expired, KeyRefused, Malformed, MesateeError, Replayed
from ...protocol import limits, statements, wraps
from ...protocol.digests import HPKE_PUBLIC_BYTES, WRAP_BYTES, Hex32, b64decode, b64encode, sha256
from ...protocol.jsonstrict import canonical, parse_object
from ...protocol.model import Model, Time, validate
from ...protocol.recovery import key_context
from ...protocol.service import SealedShare, ShareRule
from .identity import HANDED, ServiceKeys
from .permit import Action, Permit

_TICKET = b"mesatee ticket v1"


class Ticket(Model):
    """What a queue ticket says to the gateway, and to nobody else."""

    run: Hex32
    expires: Time


@dataclass(frozen=True, slots=True)
class Upload:
    """A file key that its owner wrapped to the gateway."""

    owner: str
    blob: str
    wrap: str


@dataclass(frozen=True, slots=True)
class Produced:
    """A file key that a worker wrapped to the gateway: of output `name` of the attempt `fence` of `run`."""

    run: str
    fence: int
    name: str
    blob: str
    wrap: str


Sealed: TypeAlias = Upload | Produced


class Keyring:
    """Everything that the service's keys can do for somebody else."""

    def __init__(self, keys: ServiceKeys) -> None:
        self._origin = keys.said.origin
        self._keys = keys
        self._sealing = keys.sealing
        self._tickets = keys.tickets
        # Of a key that lasts as long as the log: after a hand-over the same question still gets the same noise.
        self._noise = keys.body.derive("mesatee noise v1")

    def check_upload(self, permit: Permit, upload: Upload) -> None:
        """Show that the wrap was made by somebody who knows the file key, for this owner and blob.

        Raises `KeyRefused`.
        """
        permit.use(Action.REGISTER, upload.blob)
        self._open_sealed(upload)

    def release_inputs(
        self, permit: Permit, run: str, sealed: Mapping[str, Sealed], attempt_key: bytes
    ) -> dict[str, str]:
        """Input name -> file key wrapped to the worker's key of this attempt. The permit's index is the fence."""
        permit.use(Action.RELEASE_KEY, run)
        released = {}
        for name, item in sealed.items():
            binding = wraps.attempt_input(self._origin, run, permit.index, name, item.blob)
            released[name] = b64encode(self._open_sealed(item).wrap(attempt_key, binding.info, binding.aad))
        return released

    def noise(self, permit: Permit, run: str, of: str) -> str:
        """The seed of a private function's noise (hex) for what `of` names: a task on these inputs, so that another
        attempt, or another run of the same, tells nobody more.
        """
        permit.use(Action.RELEASE_KEY, run)
        return self._noise.derive_bytes(of).hex()

    def release_outputs(
        self,
        permit: Permit,
        run: str,
        fence: int,
        held: Mapping[str, tuple[str, str]],
        receiver: str,
        to: bytes,
    ) -> dict[str, str]:
        """Output name -> file key wrapped to the receiver; `held` is name -> (blob, the attempt's wrap)."""
        permit.use(Action.RELEASE_RESULT, run)
        released = {}
        for name, (blob, wrap) in held.items():
            inner = wraps.attempt_output(self._origin, run, fence, name, blob)
            key = self._unwrap(wrap, inner)
            outer = wraps.result(self._origin, run, name, blob, receiver)
            released[name] = b64encode(key.wrap(to, outer.info, outer.aad))
        return released

    def check_output(self, permit: Permit, run: str, fence: int, name: str, blob: str, wrap: str) -> None:
        """Show that an attempt's output can be opened later. Raises `KeyRefused`."""
        permit.use(Action.REGISTER, blob)
        self._unwrap(wrap, wraps.attempt_output(self._origin, run, fence, name, blob))

    def ticket(self, permit: Permit, run: str, expires: int) -> bytes:
        """An opaque ticket for the queue."""
        permit.use(Action.INVOKE, run)
        return self._tickets.seal(canonical({"run": run, "expires": expires}), _TICKET)

    def read_ticket(self, sealed: bytes, now: int) -> Ticket:
        """Open a ticket that came back through an untrusted queue. Raises `Replayed` or `Expired`."""
        if len(sealed) > limits.TICKET_BYTES:
            raise Malformed(f"a ticket has at most {limits.TICKET_BYTES} bytes")
        try:
            plain = self._tickets.open(sealed, _TICKET)
        except MesateeError:
            raise Replayed(
                "this ticket was not made by this gateway", hint="drop it and lease the next"
            ) from None
        ticket = validate(Ticket, parse_object(plain), "ticket")
        if ticket.expires <= now:
            raise Expired("this ticket has expired", hint="drop it; the gateway makes a new one where needed")
        return ticket

    def hand_over(self, permit: Permit, to: bytes) -> dict[str, str]:
        """All keys of the service, by name, each wrapped to the successor's key; the permit's index binds them."""
        successor = sha256(to)
        permit.use(Action.HAND_OVER, successor)
        service, wrapped = self._keys.service.digest, {}
        for name in HANDED:
            key: SigningKey | HpkeKey | SecretKey = getattr(self._keys, name)
            binding = wraps.hand_over(self._origin, service, permit.index, successor, name)
            wrapped[name] = b64encode(key.wrap_to(to, binding.info, binding.aad))
        return wrapped

    def share_keys(self, permit: Permit, rule: ShareRule, at: int) -> statements.Statement:
        """All keys of the service under a recovery key, and that key in sealed shares for the holders of `rule`.

        The recovery key exists for this call only.
        """
        service = self._keys.service.digest
        permit.use(Action.SHARE, service)
        by, name = SecretKey.generate(), os.urandom(32)
        made = split_key(by, rule.k, [holder.age for holder in rule.holders], name)
        recovery = statements.RecoveryStatement(
            origin=self._origin,
            service=service,
            time=at,
            set=name.hex(),
            k=rule.k,
            shares=tuple(
                SealedShare(
                    holder=holder.key, index=index, commitment=commitment.hex(), sealed=b64encode(sealed)
                )
                for holder, (index, commitment, sealed) in zip(rule.holders, made, strict=True)
            ),
            keys={
                one: b64encode(
                    getattr(self._keys, one).export_sealed(by, key_context(service, name.hex(), one))
                )
                for one in HANDED
            },
        )
        return statements.sign(recovery, self._keys.log)

    def _open_sealed(self, sealed: Sealed) -> FileKey:
        if isinstance(sealed, Upload):
            binding = wraps.upload(self._origin, sealed.owner, sealed.blob)
        else:
            binding = wraps.attempt_output(self._origin, sealed.run, sealed.fence, sealed.name, sealed.blob)
        return self._unwrap(sealed.wrap, binding)

    def _unwrap(self, wrap: str, binding: wraps.Binding) -> FileKey:
        return self._sealing.unwrap_file_key(b64decode(wrap, max_bytes=WRAP_BYTES), binding.info, binding.aad)


def attempt_key(text: str) -> bytes:
    """A worker's public key for one attempt. Raises `Malformed` or `KeyRefused`."""
    key = b64decode(text, max_bytes=HPKE_PUBLIC_BYTES)
    if len(key) != HPKE_PUBLIC_BYTES:
        raise KeyRefused(f"an attempt key is an X-Wing public key of {HPKE_PUBLIC_BYTES} bytes")
    return key


__all__ = ["Keyring", "Produced", "Sealed", "Ticket", "Upload", "attempt_key"]
