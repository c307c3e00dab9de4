"""Certificate chains of attestation keys, up to a pinned root (RFC 5280, section 6).

Attestation PKIs are small and their roots are pinned, by bytes or by SHA-256, so there are no trust stores,
names of hosts or policies here. A chain that does not hold is an answer, not an exception: evidence with a bad
chain is still described, and contraindicated.

>>> verify_chain([b"no certificate"], [bytes(32)], at=0).chain
<Answer.REFUSED: 'refused'>
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Final

from mesatee._core import X509, X509Crl, forget_signatures, verify_lasting_signature
from mesatee.attestation.appraisal import Answer
from mesatee.errors import InputError, MesateeError
from mesatee.protocol import limits

KEY_CERT_SIGN: Final = 1 << 5
CRL_SIGN: Final = 1 << 6
KNOWN: Final = frozenset({"2.5.29.15", "2.5.29.19"})
"""Critical extensions that are looked at here: key usage and basic constraints."""


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What was found out about a chain."""

    chain: Answer
    """AFFIRMED: signatures, CA flags and validity hold up to a pinned root. NOT_ESTABLISHED: no certificate says
    who issued the last one, or there was no time to check the validity at."""
    revocation: Answer
    """AFFIRMED: every certificate below the root is covered by a revocation list that counts at `at`."""
    root_sha256: str | None
    """Of the pinned certificate that the chain reached, hex."""
    reasons: tuple[str, ...] = ()
    path: tuple[X509, ...] = ()
    """Leaf first, pinned certificate last; empty when none was reached."""
    expires: int | None = None
    """When the first of the certificates, and of the lists that count, is over, Unix seconds; None without a path."""


@lru_cache(maxsize=limits.CERTIFICATES_CACHED)
def read_certificate(der: bytes) -> X509:
    """`X509.parse`, once for the same bytes: a certificate is a value that does not change.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    return X509.parse(der)


@lru_cache(maxsize=limits.CRLS_CACHED)
def read_crl(der: bytes) -> X509Crl:
    """`X509Crl.parse`, once for the same bytes. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    return X509Crl.parse(der)


def forget() -> None:
    """Read certificates and revocation lists anew from now on, and verify them anew: for measuring."""
    read_certificate.cache_clear()
    read_crl.cache_clear()
    forget_signatures()


def verify_chain(
    certificates: Sequence[bytes | X509],
    anchors: Iterable[bytes],
    at: int | None,
    crls: Sequence[bytes] = (),
    *,
    known: Iterable[str] = (),
) -> ChainResult:
    """Find and check the path from the first certificate to an anchor; the order of the others does not matter.

    `anchors` are pinned certificates, as DER or as the 32 bytes of its SHA-256 (then the certificate itself must
    be among `certificates`). `at` is Unix time. Without it the validity is not checked, so the answers are
    "not established" at best. `crls` are DER. `known` are identifiers of critical extensions that the caller looks at.

    Raises nothing for bad input: a chain that does not hold is REFUSED, with the reasons.
    """
    # Step 1: bounded input. A certificate that is not the leaf and cannot be read may be left out: it only makes
    # the chain incomplete.
    if not certificates:
        return ChainResult(
            Answer.NOT_ESTABLISHED, Answer.NOT_ESTABLISHED, None, ("no certificate came along",)
        )
    if len(certificates) > limits.CHAIN_CERTIFICATES:
        return _refused(f"more than {limits.CHAIN_CERTIFICATES} certificates")
    reasons: list[str] = []
    pool: dict[bytes, X509] = {}
    looked_at = KNOWN | set(known)
    pins, roots = _anchors(anchors, reasons)
    for index, certificate in enumerate([*certificates, *roots]):
        try:
            read = certificate if isinstance(certificate, X509) else read_certificate(certificate)
        except InputError as error:
            if index == 0:
                return _refused(f"the first certificate: {error.message}")
            reasons.append(f"certificate {index + 1} is passed over: {error.message}")
            continue
        pool.setdefault(read.der, read)
    # Step 2: the paths (RFC 5280, section 6.1), the first without objection, or else the first.
    candidates = list(pool.values())
    search = _Search(candidates, pins)
    best: tuple[list[X509], list[str]] | None = None
    for path in search.paths([candidates[0]]):
        objections = list(_objections(path, at, looked_at))
        if best is None or not objections:
            best = path, objections
        if not objections:
            break
    if best is None:
        return _unanchored(search, candidates, reasons)
    path, objections = best
    root = hashlib.sha256(path[-1].der).hexdigest()
    # Step 3: revocation (RFC 5280, section 6.3), for whoever wants to know even of a chain that is refused.
    revocation, notes, ends = _revocation(path, at, crls, looked_at)
    # Both are good for the whole of their last second.
    expires = min([*ends, *(certificate.not_after for certificate in path)]) + 1
    chain = Answer.REFUSED if objections else Answer.AFFIRMED
    if at is None:
        chain = chain if objections else Answer.NOT_ESTABLISHED
        notes = ["no time was given, so the validity of the certificates was not checked", *notes]
    return ChainResult(chain, revocation, root, (*objections, *reasons, *notes), tuple(path), expires)


def _refused(*reasons: str) -> ChainResult:
    return ChainResult(Answer.REFUSED, Answer.NOT_ESTABLISHED, None, reasons)


def _anchors(anchors: Iterable[bytes], reasons: list[str]) -> tuple[set[bytes], list[bytes]]:
    """Digests and bytes of the pinned certificates, and those certificates that came with their bytes."""
    pins: set[bytes] = set()
    roots: list[bytes] = []
    for anchor in anchors:
        if len(anchor) == hashlib.sha256().digest_size:
            pins.add(anchor)
        elif len(roots) < limits.CHAIN_CERTIFICATES:
            pins.add(anchor)
            roots.append(anchor)
        else:
            reasons.append(f"anchors after the first {limits.CHAIN_CERTIFICATES} are not looked at")
            break
    return pins, roots


@dataclass(slots=True)
class _Search:
    """Paths from a certificate upwards. The work is bounded: each pair is checked once, and paths are counted."""

    pool: list[X509]
    pins: set[bytes]
    steps: int = 0
    links: dict[tuple[bytes, bytes], str | None] = field(default_factory=dict)
    dead_ends: list[X509] = field(default_factory=list)
    """Certificates for which no issuer was found."""
    tried: set[bytes] = field(default_factory=set)

    def paths(self, path: list[X509]) -> Iterator[list[X509]]:
        """All paths to a pinned certificate, depth first."""
        last = path[-1]
        self.tried.add(last.der)
        # A digest is shorter than any certificate, so that the two are never confused.
        if last.der in self.pins or hashlib.sha256(last.der).digest() in self.pins:
            yield path
            return
        self.steps += 1
        if self.steps > limits.CHAIN_STEPS:
            return
        found = False
        for issuer in self.pool:
            if issuer.subject_der != last.issuer_der or any(issuer.der == seen.der for seen in path):
                continue
            if self._link(last, issuer) is None:
                found = True
                yield from self.paths([*path, issuer])
        if not found:
            self.dead_ends.append(last)

    def _link(self, subject: X509, issuer: X509) -> str | None:
        """Why `issuer` did not sign `subject`; None if it did."""
        pair = subject.der, issuer.der
        if pair not in self.links:
            try:
                verify_lasting_signature(
                    subject.signature_algorithm, issuer.spki, subject.signature, subject.tbs
                )
                self.links[pair] = None
            except MesateeError as error:
                self.links[pair] = f"{_name(subject)} is not signed by {_name(issuer)}: {error.message}"
        return self.links[pair]


def _unanchored(search: _Search, pool: list[X509], reasons: list[str]) -> ChainResult:
    """No path reaches a pinned certificate: forged, foreign, or only incomplete?"""
    roots = {last.der for last in search.dead_ends if last.subject_der == last.issuer_der}
    # A root is said to be one below, and not to lack the signature of a pinned one of the same name.
    signed = roots | {subject for (subject, _), why in search.links.items() if why is None}
    broken = [why for (subject, _), why in search.links.items() if why and subject not in signed]
    if broken:
        return _refused(*broken, *reasons)
    if search.steps > limits.CHAIN_STEPS:
        return _refused("the certificates sign each other in too many ways", *reasons)
    for last in search.dead_ends:
        if last.subject_der == last.issuer_der:
            return _refused(f"{_name(last)} is a root that is not trusted", *reasons)
    strangers = [
        other
        for other in pool[1:]
        if other.der not in search.tried and other.is_ca and other.subject_der != other.issuer_der
    ]
    last = search.dead_ends[0] if search.dead_ends else pool[0]
    if strangers:
        # An intermediate came along, and it belongs to another key: that is a mismatch, not a gap.
        return _refused(
            f"no certificate given has issued {_name(last)}, but {_name(strangers[0])} came with it"
        )
    missing = f"the certificate of {last.issuer[:_SHOWN] or 'an issuer without a name'} is missing"
    return ChainResult(Answer.NOT_ESTABLISHED, Answer.NOT_ESTABLISHED, None, (missing, *reasons))


def _objections(path: list[X509], at: int | None, known: frozenset[str]) -> Iterator[str]:
    """What speaks against a path whose signatures hold (RFC 5280, sections 6.1.3 and 6.1.4)."""
    below = 0
    for index, certificate in enumerate(path):
        name, pinned = _name(certificate), index == len(path) - 1
        # (a) validity
        if at is not None and at < certificate.not_before:
            yield f"{name} is not valid yet"
        if at is not None and at > certificate.not_after:
            yield f"{name} has expired"
        # (b) critical extensions that nobody looks at
        for identifier, (critical, _) in certificate.extensions.items():
            if critical and identifier not in known:
                yield f"{name} has the critical extension {identifier}, which is not known here"
        if index == 0:
            continue
        # (c) may it issue certificates? A pinned version 1 root has no extension that could say so.
        if not (certificate.is_ca or (pinned and certificate.is_ca is None)):
            yield f"{name} is not a certificate authority"
        if certificate.key_usage is not None and not certificate.key_usage & KEY_CERT_SIGN:
            yield f"{name} may not sign certificates"
        # (d) path length, which does not count the leaf and self-issued certificates
        if certificate.path_length is not None and below > certificate.path_length:
            yield f"{name} allows {certificate.path_length} authorities below it, and there are {below}"
        below += certificate.subject_der != certificate.issuer_der


def _revocation(
    path: list[X509], at: int | None, crls: Sequence[bytes], known: frozenset[str]
) -> tuple[Answer, list[str], list[int]]:
    """One answer for all certificates below the pinned one; a revoked serial number outweighs all else. Also when the
    lists end that count, for each certificate the one that ends last.
    """
    notes: list[str] = []
    if len(crls) > limits.CRLS:
        return Answer.REFUSED, [f"more than {limits.CRLS} revocation lists"], []
    lists: list[X509Crl] = []
    for index, crl in enumerate(crls):
        try:
            lists.append(read_crl(crl))
        except InputError as error:
            notes.append(f"revocation list {index + 1} is passed over: {error.message}")
    answers: list[Answer] = []
    ends: list[int] = []
    for certificate, issuer in pairwise(path):
        answer, note, end = _revoked(certificate, issuer, at, lists, known)
        answers.append(answer)
        notes += note
        ends += end
    if Answer.REFUSED in answers:
        return Answer.REFUSED, notes, ends
    if not answers or Answer.NOT_ESTABLISHED in answers:
        return Answer.NOT_ESTABLISHED, notes, ends
    return Answer.AFFIRMED, notes, ends


def _revoked(
    certificate: X509, issuer: X509, at: int | None, lists: list[X509Crl], known: frozenset[str]
) -> tuple[Answer, list[str], list[int]]:
    name = _name(certificate)
    matching = [crl for crl in lists if crl.issuer_der == certificate.issuer_der]
    if not matching:
        return Answer.NOT_ESTABLISHED, [f"there is no revocation list for {name}"], []
    notes: list[str] = []
    signed: list[X509Crl] = []
    for crl in matching:
        try:
            verify_lasting_signature(crl.signature_algorithm, issuer.spki, crl.signature, crl.tbs)
            signed.append(crl)
        except MesateeError as error:
            notes.append(f"the revocation list of {_name(issuer)} is not signed by it: {error.message}")
    if not signed:
        return Answer.REFUSED, notes, []
    # A number that was ever revoked stays revoked: old and future lists speak against, though never for.
    if any(crl.revokes(certificate.serial) for crl in signed):
        return Answer.REFUSED, [f"{name} is revoked"], []
    whys = [_unusable(crl, issuer, at, known) for crl in signed]
    ends = [crl.next_update for crl, why in zip(signed, whys, strict=True) if not why and crl.next_update]
    if ends:
        return Answer.AFFIRMED, [], [max(ends)]
    return Answer.NOT_ESTABLISHED, [why for why in whys if why], []


def _unusable(crl: X509Crl, issuer: X509, at: int | None, known: frozenset[str]) -> str | None:
    """Why a list that its issuer signed does not count at `at` (RFC 5280, section 6.3.3)."""
    what = f"the revocation list of {_name(issuer)}"
    if issuer.key_usage is not None and not issuer.key_usage & CRL_SIGN:
        return f"{what} does not count, for its key may not sign one"
    for identifier, (critical, _) in crl.extensions.items():
        if critical and identifier not in known:
            return f"{what} has the critical extension {identifier}, which is not known here"
    if at is None:
        return f"no time was given, so whether {what} is current was not checked"
    if at < crl.this_update:
        return f"{what} is from the future"
    if crl.next_update is None or at > crl.next_update:
        return f"{what} is out of date"
    return None


_SHOWN: Final = 200
"""Characters of a name in a reason; names come from hostile certificates."""


def _name(certificate: X509) -> str:
    return certificate.subject[:_SHOWN] or "a certificate without a name"


__all__ = [
    "CRL_SIGN",
    "KEY_CERT_SIGN",
    "KNOWN",
    "ChainResult",
    "forget",
    "read_certificate",
    "read_crl",
    "verify_chain",
]
