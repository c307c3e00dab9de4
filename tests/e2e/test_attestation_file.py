"""A function puts evidence of where it ran into its output, and its reader checks that offline."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from tests.e2e.conftest import Lab

from mesatee import _core
from mesatee.attestation import appraise
from mesatee.errors import EvidenceRefused, MesateeError
from mesatee.protocol import envelope as dsse
from mesatee.protocol import statements, wire
from mesatee.protocol.digests import b64decode, sha256

ASKS = """
import os
from mesatee.function import FILE, Attestation
from mesatee.table import Table

def work(people: Table, *, nonce: str, where: Attestation) -> dict:
    text = open(FILE).read() if os.path.exists(FILE) else ""
    return {"rows": people.num_rows, "nonce": nonce, "where": where, "file": text}
"""


def test_a_function_says_where_it_ran_and_the_receipt_ties_it_to_the_output(lab: Lab) -> None:
    people = lab.table("id\n1\n2\n")
    nonce = secrets.token_hex(16)
    view = lab.task(ASKS, {"people": people}, arguments={"nonce": nonce})
    assert lab.run(view).status == "finished"
    result = lab.result(view)
    text = result.outputs["result"].read_bytes()
    said: dict[str, Any] = json.loads(text)
    where = said["where"]
    assert (said["rows"], said["nonce"]) == (2, nonce)
    if "private_root" in result.receipt.layers:
        assert json.loads(said["file"]) == where
    # 1. The evidence is that of a machine that the reader's own policy accepts, and of this key.
    evidence = b64decode(where["evidence"], max_bytes=1 << 20)
    spki = _core.spki(bytes.fromhex(where["key"]))
    trust = lab.scientist.trust
    found = appraise(evidence, spki, trust, result.receipt.time, "worker")
    assert (found.level, found.tee, found.simulated) == (where["level"], where["tee"], where["simulated"])
    assert found.measurement == where["measurement"]
    assert found.spki_hash == where["claims"]["pubkey_hash"]
    assert dict(found.environments) == where["claims"]["environments"]
    # 2. The same key signed the receipt, which names run, task and this very evidence.
    bundle = wire.Bundle.model_validate_json(result.receipt_file.read_bytes())
    receipt = statements.read(dsse.from_dict(bundle.receipt), "receipt")
    assert isinstance(receipt, statements.ReceiptStatement)
    assert receipt.worker.key == where["key"]
    assert receipt.worker.evidence == sha256(evidence) == receipt.appraisals.worker["evidence_digest"]
    for name in ("run", "task", "function", "environment", "fence"):
        assert getattr(receipt, name) == where[name]
    assert where["attempt"] == 1
    # 3. Of another key it is no evidence.
    with pytest.raises(EvidenceRefused):
        appraise(evidence, _core.spki(bytes(32)), trust, result.receipt.time, "worker")


def test_no_task_can_say_where_a_function_ran(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    with pytest.raises(MesateeError, match="where"):
        lab.task(ASKS, {"people": people}, arguments={"nonce": "n", "where": {"level": 5}})
