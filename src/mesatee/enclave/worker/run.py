"""One attempt, from its keys to its receipt.

Plaintext exists in memfds of this process and in the sandboxed child, and nowhere else; keys of the attempt are handles
that go with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from ..._core import FileKey, HpkeKey, SigningKey, age_seal, memfd, memfd_seal
from ...attestation.appraisal import Appraisal
from ...attestation.evidence import decode
from ...errors import Corrupt, DigestMismatch, InputError, KeyRefused, SandboxFailed
from ...protocol import envelope as dsse
from ...protocol import limits, statements, wire, wraps
from ...protocol.digests import WRAP_BYTES, b64decode, b64encode
from ...protocol.doors import Blobs
from ...protocol.jsonstrict import canonical
from ...protocol.model import validate
from ...protocol.protection import Enforced
from .. import faults
from ..sandbox.protocol import Job, Limits, OutputSpec
from ..sandbox.supervisor import Outcome
from ..sandbox.warm import MODEL, Cold, Waiting, Warm
from . import guard
from .opening import open_into, read_whole

DIAGNOSTICS = "diagnostics"
_CODE = "code of the function"


class Sandbox(Protocol):
    """What runs a job; `Supervisor` does."""

    def claim(self, job: Job, warm: Warm, size: int) -> Waiting | None:
        """The child that waits with this model, for one run."""

    def run(
        self,
        job: Job,
        inputs: Mapping[str, int],
        warm: Warm | None = None,
        claimed: Waiting | None = None,
    ) -> Outcome:
        """Run it in a fresh child on sealed memfds, or in the one that was claimed on what its own hold."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What an attempt hands to the gateway."""

    receipt: dsse.Envelope
    wraps: dict[str, str]
    failure: str | None


class Attempt:
    """One granted attempt."""

    def __init__(
        self,
        service: wire.ServiceReply,
        grant: wire.GrantReply,
        key: HpkeKey,
        signer: SigningKey,
        evidence: bytes,
        gateway: tuple[str, Appraisal],
        blobs: Blobs,
        environment: str = "",
    ) -> None:
        """`environment`: the name, on this worker, of the one that the grant names; empty for the base."""
        said = validate(statements.ServiceStatement, _predicate(service), "service")
        self._origin = said.origin
        self._service = service.digest
        self._sealing_key = b64decode(said.sealing_key, max_bytes=2048)
        self._grant = grant
        self._key = key
        self._signer = signer
        self._evidence = evidence
        self._gateway_certificate, self._gateway = gateway
        self._blobs = blobs
        self._environment = environment

    def run(self, sandbox: Sandbox, worker: statements.WorkerFacts) -> Finished:
        """Open the inputs, run the function, seal the outputs, sign the receipt.

        1. Stream each input's ciphertext, check its digest, open it into a memfd and seal that against writing. A model
           that a child waits with need not be opened again, but its key must have been released for this run, too.
        2. Run the function in a fresh sandboxed child with exactly these inputs.
        3. Where owners say what may leave, send each output through another child that sees to it.
        4. Seal each output that the task names under a fresh file key, wrapped to the gateway only.
        5. Sign the account of it.
        """
        started = int(time.time())
        layers: tuple[str, ...] = ()
        outputs: dict[str, statements.OutputFacts] = {}
        wrapped: dict[str, str] = {}
        where = attestation(self._grant, self._evidence)
        with ExitStack() as stack:
            try:
                job = self._job(stack, where)
                warm, claimed = self._warm(sandbox, stack, job)
                inputs: dict[str, int] = {}
                if claimed is None:
                    inputs = self._inputs(stack)
                else:
                    # Straight to where the child looks for them.
                    for name, target in claimed.inputs.items():
                        self._open(name, self._grant.inputs[name], target)
            except (Corrupt, InputError, KeyRefused):
                failure: str | None = "input_corrupt"
            else:
                faults.point("inputs.opened")
                outcome = stack.enter_context(self._outcome(sandbox, stack, job, inputs, warm, claimed))
                failure, layers = outcome.failure, outcome.layers
                faults.point("function.ran")
                produced: dict[str, int] = {}
                text = outcome.diagnostics
                if failure is None:
                    produced = {name: output.fd for name, output in outcome.outputs.items()}
                    if (protection := self._grant.protection) is not None:
                        guarded = self._guarded(sandbox, stack, protection, produced, job.limits)
                        failure, produced, text = guarded.failure, guarded.outputs, text + guarded.why
                if DIAGNOSTICS in self._grant.outputs:
                    produced[DIAGNOSTICS] = self._bytes(stack, text)
                for name, fd in produced.items():
                    if name in self._grant.outputs:
                        outputs[name], wrapped[name] = self._output(stack, name, fd)
        faults.point("outputs.stored")
        receipt = self._receipt(worker, layers, started, failure, outputs)
        return Finished(receipt, wrapped, failure)

    # -- inputs -----------------------------------------------------------------------------------

    def _inputs(self, stack: ExitStack) -> dict[str, int]:
        return {name: self._input(stack, name, blob) for name, blob in self._grant.inputs.items()}

    def _input(self, stack: ExitStack, name: str, blob: wire.GrantedBlob) -> int:
        # Names of memfds are seen in /proc: they say nothing of the task.
        fd = memfd("input")
        stack.callback(os.close, fd)
        self._open(name, blob, fd)
        memfd_seal(fd)
        return fd

    def _file_key(self, name: str, blob: wire.GrantedBlob) -> FileKey:
        if blob.wrap is None:
            raise KeyRefused("the gateway released no key")
        binding = wraps.attempt_input(self._origin, self._grant.run, self._grant.fence, name, blob.sha256)
        return self._key.unwrap_file_key(
            b64decode(blob.wrap, max_bytes=WRAP_BYTES), binding.info, binding.aad
        )

    def _open(self, name: str, blob: wire.GrantedBlob, target: int) -> None:
        open_into(target, self._blobs.get(blob.sha256), blob.sha256, blob.size, self._file_key(name, blob))

    # -- the job ----------------------------------------------------------------------------------

    def _code(self, stack: ExitStack) -> bytes:
        blob = self._grant.code
        if blob is None:
            return b""
        if blob.wrap is not None:
            fd = memfd("code")
            stack.callback(os.close, fd)
            self._open(_CODE, blob, fd)
            return os.pread(fd, limits.CODE_BYTES + 1, 0)
        return read_whole(self._blobs.get(blob.sha256), blob.sha256, blob.size)

    def _job(self, stack: ExitStack, where: bytes) -> Job:
        grant, bounds = self._grant, self._grant.limits
        return Job(
            executor=grant.executor,
            entry=grant.entry,
            code=self._code(stack),
            args=grant.arguments,
            inputs={name: blob.format for name, blob in grant.inputs.items()},
            outputs={
                name: OutputSpec(format=kind, max_bytes=bounds.output_bytes)
                for name, kind in grant.outputs.items()
                if name != DIAGNOSTICS
            },
            limits=Limits(
                seconds=bounds.seconds,
                cpu_seconds=bounds.cpu_seconds,
                memory_bytes=bounds.memory_bytes,
                output_bytes=bounds.output_bytes,
                threads=bounds.threads,
            ),
            attestation=where,
            environment=self._environment,
        )

    def _warm(self, sandbox: Sandbox, stack: ExitStack, job: Job) -> tuple[Warm | None, Waiting | None]:
        """Whether the model may stay loaded, and the child that waits with it. Raises `KeyRefused` if there is one, and
        the gateway released no key for this run."""
        model = self._grant.inputs.get(MODEL)
        if model is None or not model.warm:
            return None, None
        self._file_key(MODEL, model)
        warm = Warm(model.sha256, model.warm)
        others = sum(blob.size for name, blob in self._grant.inputs.items() if name != MODEL)
        claimed = sandbox.claim(job, warm, others)
        if claimed is not None:
            # Also when another input turns out to be corrupt, so that it is never run.
            stack.callback(claimed.end)
        return warm, claimed

    def _outcome(
        self,
        sandbox: Sandbox,
        stack: ExitStack,
        job: Job,
        inputs: Mapping[str, int],
        warm: Warm | None,
        claimed: Waiting | None,
    ) -> Outcome:
        if warm is None:
            return _run(sandbox, job, inputs)
        try:
            return _run(sandbox, job, inputs, warm, claimed)
        except Cold:
            # The child that waited has gone meanwhile.
            return _run(sandbox, job, self._inputs(stack), warm)

    # -- outputs ----------------------------------------------------------------------------------

    def _bytes(self, stack: ExitStack, data: bytes) -> int:
        fd = memfd("diagnostics")
        stack.callback(os.close, fd)
        os.pwrite(fd, data, 0)
        return fd

    def _guarded(
        self,
        sandbox: Sandbox,
        stack: ExitStack,
        protection: Enforced,
        produced: Mapping[str, int],
        bounds: Limits,
    ) -> guard.Guarded:
        named = {
            name: (fd, self._grant.outputs[name])
            for name, fd in produced.items()
            if name in self._grant.outputs
        }
        return guard.guard(lambda job, inputs: _run(sandbox, job, inputs), stack, protection, named, bounds)

    def _output(self, stack: ExitStack, name: str, fd: int) -> tuple[statements.OutputFacts, str]:
        sealed_fd = memfd("sealed")
        stack.callback(os.close, sealed_fd)
        os.lseek(fd, 0, os.SEEK_SET)
        sealed = age_seal(fd, sealed_fd, [])
        self._blobs.put(sealed.digest, _chunks(sealed_fd, sealed.size), sealed.size)
        binding = wraps.attempt_output(self._origin, self._grant.run, self._grant.fence, name, sealed.digest)
        wrap = sealed.file_key.wrap(self._sealing_key, binding.info, binding.aad)
        facts = statements.OutputFacts(
            sha256=sealed.digest, size=sealed.size, format=self._grant.outputs[name]
        )
        return facts, b64encode(wrap)

    def _receipt(
        self,
        worker: statements.WorkerFacts,
        layers: tuple[str, ...],
        started: int,
        failure: str | None,
        outputs: dict[str, statements.OutputFacts],
    ) -> dsse.Envelope:
        grant = self._grant
        receipt = statements.ReceiptStatement.model_validate(
            {
                "origin": self._origin,
                "service": self._service,
                "run": grant.run,
                "task": grant.task,
                "function": grant.function,
                "environment": grant.environment,
                "fence": grant.fence,
                "inputs": dict(grant.sources),
                "approvals": grant.approvals,
                "policies": grant.policies,
                "worker": worker,
                "appraisals": {
                    "worker": grant.appraisal,
                    "gateway": self._gateway.as_dict(),
                    "gateway_certificate": self._gateway_certificate,
                    "endorsements": grant.endorsements,
                },
                "layers": layers,
                "started": started,
                "finished": max(started, int(time.time())),
                "failure": failure,
                "outputs": outputs,
                "protection": grant.protection,
            }
        )
        return statements.sign(receipt, self._signer).envelope


def attestation(grant: wire.GrantReply, evidence: bytes) -> bytes:
    """What the function finds in `mesatee.function.FILE`, as JSON: see there what it says, and what it proves.

    `evidence` is the extension of the worker's certificate. Raises `Malformed` or `TooLarge`.
    """
    claims = decode(evidence).claims
    worker = grant.worker
    return canonical(
        {
            "version": 1,
            "run": grant.run,
            "task": grant.task,
            "function": grant.function,
            "environment": grant.environment,
            "fence": grant.fence,
            "attempt": grant.attempt,
            "tee": worker.tee,
            "level": worker.level,
            "simulated": worker.simulated,
            "measurement": worker.measurement,
            "key": worker.key,
            "evidence": b64encode(evidence),
            # A private function's seed; no other function gets one.
            **({} if grant.noise is None else {"noise": grant.noise}),
            "claims": {
                "pubkey_hash": claims.pubkey_hash.hex(),
                "role": claims.role,
                "environments": dict(claims.environments),
            },
        }
    )


def _run(
    sandbox: Sandbox,
    job: Job,
    inputs: Mapping[str, int],
    warm: Warm | None = None,
    claimed: Waiting | None = None,
) -> Outcome:
    try:
        return sandbox.run(job, inputs) if warm is None else sandbox.run(job, inputs, warm, claimed)
    except SandboxFailed as error:
        # The sandbox died under this function, or this worker cannot run it: that is a failure of the run, or it
        # would be tried again and again. The message is ours.
        return Outcome(failure="crashed", diagnostics=error.message.encode())


def _predicate(service: wire.ServiceReply) -> object:
    statement = statements.verify(dsse.from_dict(service.statement), "service")
    if statement.digest != service.digest:
        raise DigestMismatch("the service statement does not have the digest that the gateway names")
    return statement.predicate.model_dump(mode="json")


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        piece = os.pread(fd, limits.BLOB_CHUNK_BYTES, offset)
        if not piece:
            raise SandboxFailed("a sealed output ended early")
        offset += len(piece)
        yield piece


__all__ = ["Attempt", "Finished", "attestation"]
