"""Evidence of one TEE as its attester found it: the class and its pieces, each under the name of its role.

The same layout as a folder of captured evidence, so that one verifier serves both. In a certificate it is the
body of tag `evidence.TAG_PLATFORM`, as deterministic CBOR::

    {"tee": tstr, "files": {+ tstr => bstr}}

The pieces keep their vendors' own formats, parsed by the TEE's module alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee.attestation import _cbor
from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits

_ROLE: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Pieces of evidence, and of endorsements where the attester has them at hand.

    >>> Bundle.parse(Bundle("snp", {"report": b"..."}).encode()).tee
    'snp'
    """

    tee: str
    """Class of the TEE, e.g. ``snp``; composites name their parts, e.g. ``snp+tpm``."""
    files: Mapping[str, bytes]
    """Role -> bytes, e.g. ``quote``, ``report``, ``vcek``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))

    def _check(self) -> None:
        """The limits of what travels; a relying party may put more beside it (`endorsements.beside`)."""
        if not 1 <= len(self.files) <= limits.BUNDLE_FILES:
            raise TooLarge(f"a bundle of evidence has 1 to {limits.BUNDLE_FILES} pieces")
        for name in (self.tee.replace("+", "-"), *self.files):
            if not 1 <= len(name) <= limits.NAME_CHARS or not set(name) <= _ROLE:
                raise Malformed(
                    "a name in a bundle of evidence is not of lower-case letters, digits, _, . and -"
                )

    def encode(self) -> bytes:
        """Deterministic CBOR. Raises `Malformed` or `TooLarge`."""
        self._check()
        encoded = _cbor.encode({"tee": self.tee, "files": dict(self.files)})
        if len(encoded) > limits.EVIDENCE_BYTES:
            raise TooLarge(
                f"a bundle of evidence has {len(encoded)} bytes, the limit is {limits.EVIDENCE_BYTES}"
            )
        return encoded

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Raises `Malformed` or `TooLarge`."""
        fields = _cbor.Fields.of("a bundle of evidence", _cbor.decode(data, limits.EVIDENCE_BYTES))
        tee = fields.text("tee")
        inner = fields.fields("files")
        fields.done()
        files: dict[str, bytes] = {}
        for name, value in inner.values.items():
            if not isinstance(value, bytes):
                raise Malformed(f"piece {name!r} of a bundle of evidence is not bytes")
            files[name] = value
        found = cls(tee, files)
        found._check()
        return found


__all__ = ["Bundle"]
