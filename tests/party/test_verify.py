from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from mesatee import _core
from mesatee.attestation import TrustPolicy, reference
from mesatee.attestation.endorsements import Endorsements
from mesatee.errors import ReceiptInvalid
from mesatee.party import verify_bundle
from mesatee.protocol import statements, wire
from mesatee.protocol.digests import b64encode
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.model import validate
from mesatee.protocol.policy_text import DEFAULT_DATASET_POLICY
from mesatee.protocol.protection import Budget, Enforced, Protection

NOW = 1_800_000_000


def test_a_valid_bundle_says_everything(vector: Any) -> None:
    found = verify_bundle(vector.bundle(), vector.trust, NOW)
    assert (found.level, found.tee, found.simulated, found.failure) == (2, "software", False, None)
    assert [(item.name, item.owners) for item in found.inputs] == [
        ("left", (vector.parties["alice"].id,)),
        ("right", (vector.parties["bob"].id,)),
    ]
    how = {item.party: item.how for item in found.approvals}
    assert {item.party: item.name for item in found.approvals} == {
        item.id: name for name, item in vector.parties.items()
    }
    assert how[vector.parties["alice"].id] == "signature"
    assert how[vector.parties["bob"].id] == "policy"
    assert how[vector.parties["carol"].id] == "signature"
    assert found.receivers == {"result": ("carol", "bob")}
    assert found.time_source == "parties"
    assert found.gateway_tee == "software"


def test_a_verified_receipt_is_json(vector: Any) -> None:
    found = verify_bundle(vector.bundle(), vector.trust, NOW)
    assert parse_object(canonical(found.as_dict()))["task"] == vector.task.digest


def test_it_survives_json(vector: Any) -> None:
    bundle = vector.bundle()
    again = validate(wire.Bundle, parse_object(canonical(bundle.model_dump(mode="json"))), "bundle")
    assert verify_bundle(again, vector.trust, NOW) == verify_bundle(bundle, vector.trust, NOW)


def test_a_failed_run_may_have_no_output(vector: Any) -> None:
    found = verify_bundle(
        vector.bundle(vector.write_receipt(failure="crashed", outputs={})), vector.trust, NOW
    )
    assert found.failure == "crashed"


def test_the_default_policy_refuses_it(vector: Any) -> None:
    with pytest.raises(ReceiptInvalid, match="step 1"):
        verify_bundle(vector.bundle(), TrustPolicy(), NOW)


def test_any_service_needs_a_pinned_log(vector: Any) -> None:
    lax = dataclasses.replace(vector.trust.gateway, service="any")
    verify_bundle(vector.bundle(), dataclasses.replace(vector.trust, gateway=lax), NOW)
    for missing in ({"log_origin": ""}, {"log_key": ""}):
        laxer = dataclasses.replace(vector.trust, gateway=dataclasses.replace(lax, **missing))
        with pytest.raises(ReceiptInvalid, match="names no log"):
            verify_bundle(vector.bundle(), laxer, NOW)


def test_the_owner_s_own_worker_trust_counts_too(vector: Any) -> None:
    stricter = dataclasses.replace(vector.trust.worker, measurements=("00" * 32,))
    with pytest.raises(ReceiptInvalid, match="step 6"):
        verify_bundle(vector.bundle(), dataclasses.replace(vector.trust, worker=stricter), NOW)


def _other_signature(envelope: dict[str, Any]) -> dict[str, Any]:
    changed = {**envelope, "signatures": [dict(item) for item in envelope["signatures"]]}
    changed["signatures"][0]["sig"] = b64encode(bytes(64))
    return changed


def _receipt_by(vector: Any, **changes: Any) -> wire.Bundle:
    return vector.bundle(vector.write_receipt(**changes))


def _approved_by(vector: Any, **changes: Any) -> dict[str, str]:
    return {**vector.receipt.approvals, **changes}


def _expired_approval(vector: Any) -> wire.Bundle:
    alice = vector.parties["alice"]
    vector.approvals[alice.id] = vector.approval(alice, vector.task.digest, NOW - 60)
    return _receipt_by(vector)


def _approval_of_another_task(vector: Any) -> wire.Bundle:
    alice = vector.parties["alice"]
    vector.approvals[alice.id] = vector.approval(alice, "77" * 32)
    return _receipt_by(vector)


def _approval_by_another(vector: Any) -> wire.Bundle:
    alice, carol = vector.parties["alice"], vector.parties["carol"]
    vector.approvals[alice.id] = vector.approval(carol, vector.task.digest)
    return _receipt_by(vector)


def _standing_without_policy(vector: Any) -> wire.Bundle:
    alice = vector.parties["alice"]
    del vector.approvals[alice.id]
    return _receipt_by(vector, approvals=_approved_by(vector, **{alice.id: vector.left.digest}))


def _task(vector: Any, **changes: Any) -> wire.Bundle:
    """A task that is really signed and approved, but does not fit what ran."""
    vector.task = vector.write_task(**changes)
    vector.approvals = {
        who: vector.approval(vector.parties[name], vector.task.digest)
        for who, name in ((vector.parties["alice"].id, "alice"), (vector.parties["carol"].id, "carol"))
    }
    return _receipt_by(vector)


def _function(vector: Any, **changes: Any) -> wire.Bundle:
    said = vector.function.predicate.model_copy(update=changes)
    vector.function = statements.sign(said, vector.parties["carol"].signing)
    return _task(vector, function=vector.function.digest)


def _accept(vector: Any, **changes: Any) -> wire.Bundle:
    accept = vector.task.predicate.accept
    return _task(vector, accept=accept.model_copy(update=changes))


def _worker(vector: Any, **changes: Any) -> wire.Bundle:
    return _receipt_by(vector, worker=vector.receipt.worker.model_copy(update=changes))


def _proof(vector: Any, **changes: Any) -> wire.Bundle:
    bundle = vector.bundle()
    return bundle.model_copy(update={"record": bundle.record.model_copy(update=changes)})


LET_OUT = Protection(min_group=None, max_rows=5, columns=None, digits=2, multiple=None, budget=None)
BUDGETED = LET_OUT.model_copy(update={"budget": Budget(each=1, total=1)})
ENFORCED = Enforced(min_group=None, max_rows=5, columns=None, digits=2, multiple=None, charges={})


def _protected(vector: Any, said: Enforced | None, by: Protection | None = LET_OUT) -> wire.Bundle:
    """A run on data of whose owner says what may leave, with a receipt that says what was let out."""
    changes = {} if by is None else {"protection": by}
    vector.left = vector.dataset(vector.parties["alice"], DEFAULT_DATASET_POLICY, **changes)
    _task(vector)
    return vector.bundle(vector.write_receipt(protection=said))


def test_a_receipt_names_what_was_let_out(vector: Any) -> None:
    found = verify_bundle(_protected(vector, ENFORCED), vector.trust, NOW)
    assert found.protection == ENFORCED
    assert json.loads(json.dumps(found.as_dict()))["protection"]["max_rows"] == 5


def _late_record(vector: Any) -> wire.Bundle:
    return vector.bundle(time=NOW + 10, checkpoint_time=NOW)


TAMPERED: dict[str, tuple[int, Callable[[Any], wire.Bundle]]] = {
    "service signature": (1, lambda v: v.bundle(service=_other_signature(v.service.envelope.as_dict()))),
    "service of somebody else": (1, lambda v: v.bundle(service=v.task.envelope.as_dict())),
    "receipt by the worker alone": (2, lambda v: v.bundle(signers=(v.worker.key,))),
    "receipt by the log alone": (2, lambda v: v.bundle(signers=(v.log_key,))),
    "receipt by a third key": (
        2,
        lambda v: v.bundle(signers=(v.worker.key, v.log_key, _core.SigningKey.generate())),
    ),
    "receipt by another worker": (2, lambda v: v.bundle(signers=(_core.SigningKey.generate(), v.log_key))),
    "receipt signature": (2, lambda v: _resigned(v)),
    "receipt for another service": (2, lambda v: _receipt_by(v, service="99" * 32)),
    "receipt for another log": (2, lambda v: _receipt_by(v, origin="log.example/other")),
    "checkpoint by another key": (3, lambda v: _foreign_checkpoint(v)),
    "checkpoint from the future": (3, lambda v: v.bundle(checkpoint_time=NOW + 1_000)),
    "record at another index": (4, lambda v: _proof(v, index=0)),
    "record of another size": (4, lambda v: _proof(v, size=2)),
    "record with another salt": (4, lambda v: _proof(v, salt="00" * 16)),
    "record with another body": (4, lambda v: _proof(v, body_digest="00" * 32)),
    "record without a path": (4, lambda v: _proof(v, path=())),
    "record of another run": (4, lambda v: v.bundle(outcome={"run": "2b" * 32})),
    "record of another fence": (4, lambda v: v.bundle(outcome={"fence": 1})),
    "record of a failure": (4, lambda v: v.bundle(outcome={"failure": "crashed"})),
    "record with other wraps": (4, lambda v: v.bundle(outcome={"wraps": {}})),
    "record with another receipt": (4, lambda v: _another_receipt(v)),
    "record newer than its checkpoint": (4, _late_record),
    "receipt before its grant": (4, lambda v: _receipt_by(v, fence=1_000)),
    "gateway without evidence": (5, lambda v: v.bundle(gateway_certificate=_bare(v))),
    "gateway is a worker": (5, lambda v: v.bundle(gateway_certificate=b64encode(v.worker.certificate))),
    "gateway certificate altered": (
        5,
        lambda v: v.bundle(gateway_certificate=_flipped(v.gateway.certificate)),
    ),
    "gateway evidence expired": (5, lambda v: v.bundle(checkpoint_time=NOW - 400, time=NOW - 500)),
    "worker certificate of another": (
        6,
        lambda v: v.bundle(worker_certificate=b64encode(v.gateway.certificate)),
    ),
    "worker key": (2, lambda v: _worker(v, key="11" * 32)),
    "worker measurement": (6, lambda v: _worker(v, measurement="11" * 32)),
    "worker level": (6, lambda v: _worker(v, level=5)),
    "worker TEE": (6, lambda v: _worker(v, tee="sev-snp")),
    "worker simulated": (6, lambda v: _worker(v, simulated=True)),
    "worker evidence": (6, lambda v: _worker(v, evidence="11" * 32)),
    "worker certificate digest": (6, lambda v: _worker(v, certificate="11" * 32)),
    "environment that no worker has": (6, lambda v: _receipt_by(v, environment="12" * 32)),
    "task signature": (7, lambda v: v.bundle(task=_other_signature(v.task.envelope.as_dict()))),
    "another task": (7, lambda v: v.bundle(task=v.write_task().envelope.as_dict())),
    "task of another function": (7, lambda v: _task(v, function="13" * 32)),
    "task of other inputs": (7, lambda v: _task(v, inputs={"left": v.left.digest})),
    "task of another environment": (7, lambda v: _task(v, environment="14" * 32)),
    "task accepts other workers": (7, lambda v: _accept(v, workers=("15" * 32,))),
    "task asks for a higher level": (7, lambda v: _accept(v, min_level=4)),
    "task accepts another TEE": (7, lambda v: _accept(v, tees=("sgx",))),
    "function signature": (8, lambda v: v.bundle(function=_other_signature(v.function.envelope.as_dict()))),
    "function of another environment": (8, lambda v: _function(v, environment="13" * 32)),
    "function is a dataset": (8, lambda v: v.bundle(function=v.left.envelope.as_dict())),
    "nothing was kept back": (9, lambda v: _protected(v, None)),
    "more was let out": (9, lambda v: _protected(v, ENFORCED.model_copy(update={"max_rows": 6}))),
    "less was let out": (9, lambda v: _protected(v, ENFORCED.model_copy(update={"digits": 1}))),
    "something was paid": (
        9,
        lambda v: _protected(v, ENFORCED.model_copy(update={"charges": {"11" * 32: 1}})),
    ),
    "nobody asked for it": (9, lambda v: _protected(v, ENFORCED, None)),
    "a budget for code that adds no noise": (9, lambda v: _protected(v, ENFORCED, BUDGETED)),
    "dataset missing": (9, lambda v: v.bundle(datasets={v.left.digest: v.left.envelope.as_dict()})),
    "datasets exchanged": (
        9,
        lambda v: v.bundle(
            datasets={v.left.digest: v.right.envelope.as_dict(), v.right.digest: v.left.envelope.as_dict()}
        ),
    ),
    "dataset signature": (
        9,
        lambda v: v.bundle(
            datasets={
                v.left.digest: _other_signature(v.left.envelope.as_dict()),
                v.right.digest: v.right.envelope.as_dict(),
            }
        ),
    ),
    "policy not evaluated": (9, lambda v: _receipt_by(v, policies={})),
    "another policy evaluated": (
        9,
        lambda v: _receipt_by(v, policies={**v.receipt.policies, v.left.digest: "16" * 32}),
    ),
    "another platform policy": (
        9,
        lambda v: _receipt_by(v, policies={**v.receipt.policies, "platform": "16" * 32}),
    ),
    "a party introduced by another": (
        10,
        lambda v: v.bundle(
            parties={v.parties["bob"].id: v.introduction(v.parties["alice"]).envelope.as_dict()}
        ),
    ),
    "an approval missing in the receipt": (10, lambda v: _receipt_by(v, approvals={})),
    "an approval missing in the bundle": (10, lambda v: v.bundle(approvals={})),
    "an approval too many": (
        10,
        lambda v: _receipt_by(v, approvals=_approved_by(v, **{"17" * 32: "18" * 32})),
    ),
    "an approval that does not count": (10, lambda v: _unnamed_approval(v)),
    "party introduced by another": (10, lambda v: v.bundle(parties=_swapped(v))),
    "party signature": (10, lambda v: v.bundle(parties=_unsigned(v))),
    "approval expired": (10, _expired_approval),
    "approval of another task": (10, _approval_of_another_task),
    "approval by another party": (10, _approval_by_another),
    "standing approval without such a policy": (10, _standing_without_policy),
    "output missing": (11, lambda v: _receipt_by(v, outputs={})),
    "output that nobody receives": (
        11,
        lambda v: _receipt_by(
            v,
            outputs={
                **v.receipt.outputs,
                "extra": statements.OutputFacts(sha256="19" * 32, size=1, format="csv"),
            },
        ),
    ),
    "failed run with a result": (11, lambda v: _receipt_by(v, failure="crashed")),
}


def _swapped(vector: Any) -> dict[str, Any]:
    alice, bob = vector.parties["alice"], vector.parties["bob"]
    return {alice.id: vector.introduction(bob).envelope.as_dict()}


def _unsigned(vector: Any) -> dict[str, Any]:
    alice = vector.parties["alice"]
    return {alice.id: _other_signature(vector.introduction(alice).envelope.as_dict())}


def _resigned(vector: Any) -> wire.Bundle:
    bundle = vector.bundle()
    return bundle.model_copy(update={"receipt": _other_signature(bundle.receipt)})


def _foreign_checkpoint(vector: Any) -> wire.Bundle:
    bundle = vector.bundle()
    vector.log_key = _core.SigningKey.generate()
    return bundle.model_copy(update={"checkpoint": vector.checkpoint().note})


def _another_receipt(vector: Any) -> wire.Bundle:
    other = vector.bundle(vector.write_receipt(finished=NOW + 1))
    return other.model_copy(update={"receipt": vector.bundle().receipt})


def _bare(vector: Any) -> str:
    return b64encode(_core.make_certificate(vector.gateway.key, "gateway", NOW - 60, NOW + 60, None))


def _flipped(der: bytes) -> str:
    return b64encode(der[:-1] + bytes([der[-1] ^ 1]))


def _unnamed_approval(vector: Any) -> wire.Bundle:
    extra = vector.approval(vector.parties["alice"], vector.task.digest)
    given = {item.digest: item.envelope.as_dict() for item in (*vector.approvals.values(), extra)}
    return vector.bundle(approvals=given)


@pytest.mark.parametrize("what", sorted(TAMPERED))
def test_tampering_is_found_at_its_step(vector: Any, what: str) -> None:
    step, tamper = TAMPERED[what]
    with pytest.raises(ReceiptInvalid) as caught:
        verify_bundle(tamper(vector), vector.trust, NOW)
    assert caught.value.message.startswith(f"step {step},"), caught.value.message


def test_every_flipped_field_is_refused(vector: Any) -> None:
    """Whatever single text of the bundle changes, it no longer verifies."""
    plain = vector.bundle().model_dump(mode="json")
    verify_bundle(wire.Bundle.model_validate_json(canonical(plain)), vector.trust, NOW)
    for path in _paths(plain):
        changed = _changed(plain, path)
        try:
            bundle = wire.Bundle.model_validate_json(canonical(changed))
        except ValueError:
            continue
        with pytest.raises(ReceiptInvalid):
            verify_bundle(bundle, vector.trust, NOW)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path for key, item in value.items() for path in _paths(item, (*at, key))]
    if isinstance(value, list):
        return [path for key, item in enumerate(value) for path in _paths(item, (*at, key))]
    return [at] if isinstance(value, str) and value else []


def _changed(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        position = secrets.randbelow(len(value))
        other = "A" if value[position] != "A" else "B"
        return value[:position] + other + value[position + 1 :]
    head, *rest = path
    if isinstance(value, dict):
        return {key: _changed(item, tuple(rest)) if key == head else item for key, item in value.items()}
    return [_changed(item, tuple(rest)) if key == head else item for key, item in enumerate(value)]


def test_an_auditors_word_counts_offline_too(vector: Any) -> None:
    auditor = _core.SigningKey.generate()
    pins = {"measurements": (), "auditors": (auditor.public.hex(),)}
    trust = TrustPolicy(
        dataclasses.replace(vector.trust.gateway, **pins), dataclasses.replace(vector.trust.worker, **pins)
    )
    known = {*vector.trust.gateway.measurements, *vector.trust.worker.measurements}
    said = reference.ReferenceValues("software", dict.fromkeys(known, "ours"), NOW - 900, NOW + 900)
    with pytest.raises(ReceiptInvalid, match="step 5"):
        verify_bundle(vector.bundle(), trust, NOW)
    kept = Endorsements(references=(reference.sign(said, [auditor]),))
    assert verify_bundle(vector.bundle(), trust, NOW, kept).level == 2
