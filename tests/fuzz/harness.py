"""One parser of hostile bytes under atheris (libFuzzer): ``python harness.py PARSER [libFuzzer options] CORPUS``.

Python code is instrumented, so that the fuzzer sees which branches an input has reached. What the Rust core parses
(strict JSON, age, certificates) is not: there the fuzzer sees only what our Python makes of it, and mutates seeds.

A parser may raise our errors and nothing else; a hang, a crash or too much memory is libFuzzer's to find.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["mesatee"], enable_loader_override=False):
    from tests.fuzz import attestation
    from tests.support import forests, nets
    from tests.support.caffe import caffemodel, prototxt
    from tests.support.memfd import memory

    from mesatee import _core, tensors
    from mesatee.attestation import evidence
    from mesatee.attestation.trust import TrustPolicy
    from mesatee.attestation.verify import examine
    from mesatee.cli.convert import caffe, caffe_onnx
    from mesatee.enclave.functions.predict import predict
    from mesatee.enclave.gateway import api
    from mesatee.enclave.platform.none import NoAttester
    from mesatee.enclave.sandbox import protocol as sandbox
    from mesatee.errors import MesateeError
    from mesatee.protocol import checkpoint as cp
    from mesatee.protocol import envelope as dsse
    from mesatee.protocol import frames, learned, limits, merkle, onnx, records, statements, wire
    from mesatee.protocol.author import Author
    from mesatee.protocol.digests import b64encode
    from mesatee.protocol.jsonstrict import canonical, parse_object
    from mesatee.protocol.model import Model, validate
    from mesatee.table import Table

CPU_SECONDS = 1.0
"""Longer over one piece of evidence is a hang: time of this process, for others may use the machine too."""
KEY = _core.SigningKey.generate()
AGE = _core.AgeKey.generate()
ORIGIN = "mesatee.fuzz/log"
AT = 1_800_000_000
NOTE = cp.sign(ORIGIN, 7, b"\x11" * 32, AT, 3, KEY).note
MODELS: tuple[type[Model], ...] = (
    wire.GrantRequest,
    wire.FinishRequest,
    wire.Posted,
    wire.ServiceReply,
    wire.GrantReply,
    wire.ListReply,
    wire.TaskView,
    wire.ProofReply,
    wire.Bundle,
    records.RecordProof,
    records.LogRecord,
)


def author() -> Author:
    return Author(KEY, ORIGIN, "22" * 32, NOTE, AT, lambda: "33" * 16)


# -- the parsers: bytes in, nothing out -------------------------------------------------------------------


def envelope(data: bytes) -> None:
    found = dsse.from_bytes(data)
    for step in (statements.read, statements.verify):
        with contextlib.suppress(MesateeError):
            step(found)


def wire_json(data: bytes) -> None:
    model = MODELS[data[0] % len(MODELS)] if data else MODELS[0]
    validate(model, parse_object(data[1:]), "answer")


def age(data: bytes) -> None:
    with memory(data) as source, contextlib.suppress(MesateeError):
        _core.age_file_key(source, AGE)
    with memory(data) as source, memory() as target:
        _core.age_open(source, target, AGE, limits.MIB)


def tile(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    index, width = api._tile_path(text)
    assert 0 <= index < 10**15
    assert 1 <= width <= merkle.TILE


def checkpoint(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(MesateeError):
        cp.verify(text, ORIGIN, KEY.public)
    cp.parse(text)


def host_frames(data: bytes) -> None:
    decoder = frames.Decoder()
    while data:
        # In pieces of any size, as a socket gives them.
        size = 1 + data[0] % 64
        for frame in decoder.feed(data[1 : size + 1]):
            assert frames.Decoder().feed(frames.encode(frame)) == [frame]
        data = data[size + 1 :]


def child_report(data: bytes) -> None:
    sandbox.parse_report(data)


def certificate(data: bytes) -> None:
    found = _core.parse_certificate(data)
    examine(found.evidence, found.spki, TrustPolicy(), AT, "worker")


def tensor_file(data: bytes) -> None:
    found = tensors.read(data)
    assert tensors.read(tensors.write(found)).keys() == found.keys()


def evidence_extension(data: bytes) -> None:
    evidence.decode(data)


def model(data: bytes) -> None:
    found = learned.read(data)
    assert learned.read(learned.write(found)) == found
    # What `predict` makes of rows of text that are all numbers too.
    names = [column.name for column in found.columns][:64]
    if getattr(found, "offset", None):
        names.append(str(getattr(found, "offset", None)))
    rows = Table.from_dict({name: [1.0, -2.5, None] for name in dict.fromkeys(names)})
    with contextlib.redirect_stderr(io.StringIO()):
        said = predict(data, rows)
    assert said.num_rows == rows.num_rows or not names
    for name in said.columns:
        values = said[name].to_pylist()
        assert all(math.isfinite(value) for value in values if isinstance(value, float))


def caffe_net(data: bytes) -> None:
    """A byte says which half of a net it is; what converts, our strict reader of ONNX takes."""
    if data[:1] == b"w":
        caffe.read_weights(data[1:])
        return
    made = caffe_onnx.convert(caffe.read_net(data[1:].decode("utf-8", "replace")), {})
    onnx.read(made)


def trees(data: bytes) -> None:
    """Whatever their format; what is read predicts finite or infinite numbers, and of each row the same on its own."""
    model = _core.TreeModel(data)
    if model.features * model.outputs > 1_000:
        return
    rows = [np.array([0.5, -2.5, np.nan], np.float32)] * model.features
    said = np.frombuffer(model.predict(rows, 3, output="margin", oblivious=False, threads=1))
    again = np.frombuffer(model.predict(rows, 3, output="margin", oblivious=True, threads=1))
    assert np.array_equal(said, again, equal_nan=True)


@atheris.instrument_func
def planted(data: bytes) -> None:
    """The control: something else than our errors, behind three comparisons."""
    if data[:1] == b"M" and data[1:2] == b"T" and data[2:3] == b"E":
        1 // 0  # noqa: B018


PARSERS: dict[str, Callable[[bytes], object]] = {
    "envelope": envelope,
    "wire": wire_json,
    "age": age,
    "tile": tile,
    "checkpoint": checkpoint,
    "frames": host_frames,
    "child": child_report,
    "certificate": certificate,
    "evidence": evidence_extension,
    "model": model,
    "onnx": onnx.read,
    "tensors": tensor_file,
    "caffe": caffe_net,
    "trees": trees,
    "planted": planted,
}


PARSES_SEED: dict[str, Callable[[bytes], object]] = {
    # No trust policy accepts evidence by default.
    "certificate": _core.parse_certificate,
}


# -- seeds: valid inputs, which the fuzzer takes apart -----------------------------------------------------


def _statements() -> list[bytes]:
    by = author()
    blob = statements.BlobRef(sha256="44" * 32, size=10)
    port = statements.Port(name="data", format="csv")
    made = [
        by.write(statements.PresenceStatement),
        by.write(statements.ApprovalStatement, task="55" * 32, id="66" * 16, expires=AT + 1),
        by.write(statements.RunStatement, task="55" * 32),
        by.write(
            statements.FunctionStatement,
            name="f",
            executor="builtin",
            entry="echo",
            private=False,
            code=None,
            inputs=(port,),
            variadic=False,
            callers=None,
            quota=None,
            arguments=(),
            outputs=(port,),
        ),
        by.write(
            statements.DatasetStatement,
            name="d",
            blob=blob,
            format="csv",
            columns=(statements.ColumnInfo(name="id", type="int64"),),
            rows=3,
            policy="permit(principal, action, resource);",
            wrap=b64encode(bytes(1152)),
        ),
    ]
    return [item.envelope.to_bytes() for item in made]


def _sealed() -> list[bytes]:
    found = []
    for plain in (b"", b"abc", bytes(70_000)):
        with memory(plain) as source, memory() as target:
            _core.age_seal(source, target, [AGE.recipient])
            found.append(os.pread(target, 1 << 20, 0))
    return found


def _frames() -> list[bytes]:
    made = [
        frames.Frame(frames.Op.BLOB_SIZE, 7, (bytes(32),)),
        frames.Frame(frames.Op.RECORDS, 1, (bytes(64), b"body", bytes(64), b"")),
        frames.Frame(frames.Op.OK, 3),
        frames.Frame(frames.Op.ERROR, 3, (b"conflict", b"no")),
    ]
    whole = b"".join(frames.encode(item) for item in made)
    return [b"".join(b"\x3f" + whole[at : at + 64] for at in range(0, len(whole), 64))]


def _wire() -> list[bytes]:
    grant = canonical({"ticket": b64encode(b"t" * 60), "attempt_key": b64encode(bytes(1216))})
    proof = {
        "index": 1,
        "salt": "77" * 16,
        "record": "{}",
        "body_digest": "88" * 32,
        "size": 2,
        "path": ["99" * 32],
    }
    logged = records.of_outcome(
        records.ClosedOutcome(run="11" * 32, failure="crashed"), AT, "host"
    ).to_bytes()
    numbers = {kind: bytes([MODELS.index(kind)]) for kind in MODELS}
    return [
        numbers[wire.GrantRequest] + grant,
        numbers[records.RecordProof] + canonical(proof),
        numbers[records.LogRecord] + logged,
        numbers[wire.ListReply] + b'{"items":[{"a":1}]}',
        numbers[wire.ProofReply] + canonical({"first": 1, "second": 2, "path": ["99" * 32]}),
    ]


def seeds(name: str) -> list[bytes]:
    made: dict[str, Callable[[], list[bytes]]] = {
        "envelope": _statements,
        "wire": _wire,
        "age": _sealed,
        "tile": lambda: [b"000", b"x001/234", b"x999/x999/000.p/255"],
        "checkpoint": lambda: [NOTE.encode()],
        "frames": _frames,
        "child": lambda: [
            sandbox.ready_line(["seccomp"]) + sandbox.last_line(None, ["result"]),
            sandbox.ready_line([]) + sandbox.last_line("function_raised", []),
            sandbox.refused_line("landlock"),
        ],
        "certificate": lambda: [
            _core.make_certificate(KEY, "a", 1_000, 2_000, b"evidence"),
            _core.make_certificate(KEY, "a", 1_000, 2_000, None),
        ],
        "evidence": _evidence,
        "model": _models,
        "onnx": lambda: [nets.linear(np.ones((2, 2))), nets.summing()],
        "tensors": lambda: [tensors.write({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int64)})],
        "caffe": lambda: [
            b"w" + caffemodel({"a": [[1.0, 2.0]], "b": [[[3.0]]]}),
            b"n" + prototxt((1, 2, 5, 5), ("Pooling", "pooling_param { kernel_size: 2 pad: 1 }")).encode(),
            b"n" + prototxt((1, 4), ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }")).encode(),
        ],
        "trees": _trees,
        "planted": lambda: [b"abcdef"],
    }
    return made[name]()


def _trees() -> list[bytes]:
    return [
        *(forests.xgboost(seed, form).model for seed, form in ((0, "ubj"), (1, "json"), (2, "ubj"))),
        forests.lightgbm(0).model,
        forests.sklearn(0).model,
    ]


def _models() -> list[bytes]:
    number: dict[str, Any] = {"name": "x", "levels": None, "reference": None}
    levels: dict[str, Any] = {"name": "c", "levels": ["1", "-2.5"], "reference": "1"}
    scaled: dict[str, Any] = {"version": 1, "columns": [number], "centre": [0.5], "scale": [2.0]}
    made: list[dict[str, Any]] = [
        {
            "kind": "linear",
            "version": 1,
            "columns": [number, levels],
            "family": "binomial",
            "link": "logit",
            "intercept": 0.5,
            "coefficients": [1.0, 2.0],
            "offset": "e",
            "classes": ["no", "yes"],
        },
        {**scaled, "kind": "k_means", "centres": [[1.0], [2.0]]},
        {
            "kind": "naive_bayes",
            "version": 1,
            "columns": [number],
            "distribution": "gaussian",
            "classes": [1, 2],
            "log_priors": [-0.5, -0.9],
            "means": [[0.0], [1.0]],
            "variances": [[1.0], [2.0]],
            "log_shares": None,
        },
        {
            **scaled,
            "kind": "svm",
            "kernel": "rbf",
            "classes": ["a", "b"],
            "gamma": 0.5,
            "vectors": [[0.0], [1.0], [2.0]],
            "counts": [1, 2],
            "weights": [[1.0, -0.5, -0.5]],
            "intercepts": [0.1],
        },
        {
            **scaled,
            "kind": "gaussian_mixture",
            "weights": [0.5, 0.5],
            "means": [[0.0], [1.0]],
            "covariances": [[[1.0]], [[2.0]]],
        },
        {**scaled, "kind": "pca", "directions": [[1.0]]},
    ]
    return [canonical(item) for item in made]


def _evidence() -> list[bytes]:
    claims = evidence.Claims.of_key(_core.spki(KEY.public), "worker", environments={"base": "aa" * 32})
    return [NoAttester({}).evidence(claims)]


def attested(target: attestation.Target) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        start = time.process_time()
        try:
            target.parse(data)
        finally:
            spent = time.process_time() - start
            assert spent < CPU_SECONDS, f"{len(data)} bytes took {spent:.1f} s"

    return parse


def main() -> None:
    name, *options = sys.argv[1:]
    target = attestation.TARGETS.get(name)
    parse = attested(target) if target else PARSERS[name]
    given = attestation.seeds_of(target) if target else seeds(name)
    corpus = Path(options[-1])
    for number, seed in enumerate(given):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        with contextlib.suppress(MesateeError):
            parse(data)

    # A seed that does not parse would leave the fuzzer at the door. Captured evidence is refused for good reasons too.
    refused = 0
    for seed in given:
        try:
            PARSES_SEED[name](seed) if name in PARSES_SEED else parse(seed)
        except MesateeError:
            refused += 1
    assert refused < len(given) if target else not refused, f"{refused} of {len(given)} seeds are refused"
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
