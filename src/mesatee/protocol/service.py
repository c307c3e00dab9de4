"""What a service says of itself: its own statement, to whom its keys may pass, and its keys in sealed shares."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from . import limits
from .digests import AgeRecipient, Hex32, HpkePublic, Name, sha256
from .model import Measurement, Model, Origin, PolicyText, Time


class HandOver(Model):
    """Which peer gateways may receive the service's keys. `trust` is a trust policy (TOML) whose ``[gateway]`` says by
    what their evidence is verified; the other fields hold beside it, so that none of them can be left open.
    """

    min_level: Annotated[int, Field(ge=1, le=5)]
    tees: Annotated[tuple[Name, ...], Field(min_length=1, max_length=32)]
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1, max_length=64)]
    allow_simulated: bool
    trust: PolicyText

    @model_validator(mode="after")
    def _consistent(self) -> HandOver:
        if "none" in self.measurements or "none" in self.tees:
            raise ValueError("a gateway that proves nothing receives no keys")
        if len(set(self.tees)) != len(self.tees) or len(set(self.measurements)) != len(self.measurements):
            raise ValueError("a TEE class or measurement is listed once")
        return self


class ShareHolder(Model):
    """A party that holds a share: its key and the age recipient that the share is sealed to."""

    key: Hex32
    age: AgeRecipient


class ShareRule(Model):
    """Any `k` of the holders together can recover the service's keys."""

    k: Annotated[int, Field(ge=2, le=limits.SHARE_HOLDERS)]
    holders: Annotated[tuple[ShareHolder, ...], Field(min_length=2, max_length=limits.SHARE_HOLDERS)]

    @model_validator(mode="after")
    def _consistent(self) -> ShareRule:
        if self.k > len(self.holders):
            raise ValueError("more shares are needed than there are holders")
        for what in ("key", "age"):
            if len({getattr(holder, what) for holder in self.holders}) != len(self.holders):
                raise ValueError("each party holds one share, sealed to a key of its own")
        return self


class SuccessionRules(Model):
    """To whom a service's keys may pass, as its founder writes it into a file. The default is: to nobody."""

    hand_over: Literal["never"] | HandOver = "never"
    share_holders: Annotated[tuple[ShareHolder, ...], Field(max_length=0)] | ShareRule = ()


class ServiceStatement(Model):
    """Everything that decides on the service's side. Signed by the log key; its digest is in the gateway's evidence."""

    kind: ClassVar[str] = "service"

    origin: Origin
    time: Time
    log_key: Hex32
    sealing_key: HpkePublic
    platform_policy: PolicyText
    worker_trust: PolicyText
    witnesses: tuple[str, ...]
    share_holders: Annotated[tuple[ShareHolder, ...], Field(max_length=0)] | ShareRule
    """Off when empty."""
    hand_over: Literal["never"] | HandOver

    def about(self) -> dict[str, str]:
        """The log key."""
        return {"log": sha256(bytes.fromhex(self.log_key))}


class SealedShare(Model):
    """One holder's share as an age file, and what the open share must digest to."""

    holder: Hex32
    index: Annotated[int, Field(ge=1, le=limits.SHARE_HOLDERS)]
    commitment: Hex32
    sealed: Annotated[str, StringConstraints(min_length=4, max_length=limits.SHARE_CHARS)]


class RecoveryStatement(Model):
    """The service's keys under a recovery key, and that key in sealed shares. Signed by the log key; no secret."""

    kind: ClassVar[str] = "recovery"

    origin: Origin
    service: Hex32
    time: Time
    set: Hex32
    """Names this set of shares; every share says which one it is of."""
    k: Annotated[int, Field(ge=2, le=limits.SHARE_HOLDERS)]
    shares: Annotated[tuple[SealedShare, ...], Field(min_length=2, max_length=limits.SHARE_HOLDERS)]
    keys: Annotated[
        dict[Name, Annotated[str, StringConstraints(max_length=limits.SHARE_CHARS)]], Field(max_length=8)
    ]

    @model_validator(mode="after")
    def _consistent(self) -> RecoveryStatement:
        if self.k > len(self.shares):
            raise ValueError("more shares are needed than there are")
        for what in ("holder", "index", "commitment", "sealed"):
            if len({getattr(share, what) for share in self.shares}) != len(self.shares):
                raise ValueError("each holder has one share and each share one holder")
        return self

    def about(self) -> dict[str, str]:
        """The service."""
        return {"service": self.service}
