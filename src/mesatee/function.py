"""What a function may ask of the machine that runs it: evidence of where it runs, to put into its output.

A Python function asks by a keyword-only parameter that is annotated `Attestation`; the worker fills it, and no
task can give it. Functions of every kind find the same JSON in the file `FILE`, where the sandbox has a private
root (without mount namespaces there is no such file, and the parameter still works)::

    def report(people: Table, *, where: Attestation) -> dict:
        return {"rows": people.num_rows, "where": where}

The keys:

- ``version`` is 1; ``run``, ``task``, ``function`` and ``environment`` are digests (hex), ``attempt`` counts
  from 1, and ``fence`` is the log index at which this attempt was given its keys;
- ``tee``, ``level``, ``simulated`` and ``measurement`` are what the gateway appraised at that index;
- ``key`` is the worker's channel key (Ed25519, hex) and ``evidence`` its certificate's extension
  2.23.133.5.4.9 (base64), which `mesatee.attestation.appraise` judges under the reader's own policy;
- ``noise``, for the built-in functions alone that add noise, is the seed (hex) of it;
- ``claims`` says in JSON what the claims in the evidence say: ``pubkey_hash``, ``role``, ``environments``.

What it proves: a machine as in the evidence holds ``key``. That *this output* was made there follows from the
receipt alone, which the same key signed and which names the output's digest and task: compare ``key``, ``run``
and the SHA-256 of ``evidence`` with it. A caller who wants an answer to a nonce passes it as an argument of the
task: task, receipt and key then tie it to the evidence, which is made once for the channel key of the worker and
not for each run. Copied from another run's output, the JSON proves nothing; nor does it, without a receipt,
against whoever wrote the function.

>>> from mesatee.function import FILE
>>> from mesatee.protocol.signature import derive
>>> derive("def f(a: bytes, *, where: Attestation) -> dict: ...", "f").attestation, FILE
('where', '/attestation.json')
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Attestation: TypeAlias = dict[str, Any]
"""The JSON object described above."""

FILE: Final = "/attestation.json"
"""Where it stands in the sandbox, read-only."""

__all__ = ["FILE", "Attestation"]
