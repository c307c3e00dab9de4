"""Statements of every kind: they come back, they verify, and nothing beside their one form is one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutate import QUICK, mutated, noise

from mesatee._core import AgeKey, HpkeKey, SigningKey
from mesatee.errors import KeyRefused, Malformed, MesateeError, SignatureInvalid, TooLarge, UnsupportedVersion
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import digests, limits, sources, statements
from mesatee.protocol import envelope as dsse
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical, parse
from mesatee.protocol.model import validate

KEY, OTHER, LOG = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
ORIGIN = "log.example/a"
CHECKPOINT = cp.sign(ORIGIN, 3, bytes(32), 1_800_000_000, 1, LOG).note
HPKE = b64encode(HpkeKey.generate().public)
WRAP = b64encode(bytes(digests.WRAP_BYTES))
TIME = 1_800_000_000
A, B, C = "0a" * 32, "0b" * 32, "0c" * 32


def common(**changes: Any) -> dict[str, Any]:
    fields = {"origin": ORIGIN, "service": A, "time": TIME, "nonce": "00" * 16, "checkpoint": CHECKPOINT}
    return {**fields, **changes}


def keys(name: str = "alice", signing: str | None = None) -> statements.PartyKeys:
    return statements.PartyKeys(
        name=name, signing=signing or KEY.public.hex(), age=AgeKey.generate().recipient, hpke=HPKE
    )


def dataset(**changes: Any) -> statements.DatasetStatement:
    fields = {
        "name": "d",
        "blob": statements.BlobRef(sha256=B, size=10),
        "format": "csv",
        "columns": (statements.ColumnInfo(name="id", type="int64"),),
        "rows": None,
        "policy": "permit(principal, action, resource);",
        "wrap": WRAP,
    }
    return statements.DatasetStatement(**common(**{**fields, **changes}))


def function(**changes: Any) -> statements.FunctionStatement:
    fields = {
        "name": "f",
        "executor": "python",
        "entry": "f",
        "private": False,
        "code": statements.CodeRef(sha256=B, size=10, wrap=None),
        "inputs": (statements.Port(name="a"),),
        "variadic": False,
        "arguments": (statements.Argument(name="x", type="float", required=False, default=[1, 2.5, None]),),
        "outputs": (statements.Port(name="result"),),
        "callers": (A,),
        "quota": 3,
    }
    return statements.FunctionStatement(**common(**{**fields, **changes}))


def task(**changes: Any) -> statements.TaskStatement:
    fields = {
        "name": "t",
        "function": A,
        "environment": B,
        "inputs": {
            "a": C,
            "b": sources.NewestDataset(owner=A, dataset="rows"),
            "c": sources.OutputOf(task=B, output="result"),
        },
        "arguments": {"x": 1.5, "y": {"z": [True, None, "ü"]}},
        "outputs": {"result": (keys(),)},
        "accept": statements.Accept(min_level=1, tees=("none",), workers=("none",), allow_simulated=False),
        "limits": statements.RunLimits(),
        "runs": 1,
        "expires": TIME + 10,
    }
    return statements.TaskStatement(**common(**{**fields, **changes}))


def facts(**changes: Any) -> statements.WorkerFacts:
    fields = {
        "key": KEY.public.hex(),
        "measurement": "none",
        "level": 1,
        "tee": "none",
        "simulated": False,
        "evidence": A,
        "certificate": B,
    }
    return statements.WorkerFacts(**{**fields, **changes})


def appraisals(**changes: Any) -> statements.Appraisals:
    fields = {"worker": {"level": 1}, "gateway": {"level": 2}, "gateway_certificate": A, "endorsements": B}
    return statements.Appraisals(**{**fields, **changes})


def receipt(**changes: Any) -> statements.ReceiptStatement:
    fields = {
        "origin": ORIGIN,
        "service": A,
        "run": A,
        "task": B,
        "function": C,
        "environment": A,
        "fence": 4,
        "inputs": {"a": A},
        "approvals": {A: B},
        "policies": {"a": C, "platform": A},
        "worker": facts(),
        "appraisals": appraisals(),
        "layers": ("seccomp",),
        "started": TIME,
        "finished": TIME,
        "failure": None,
        "outputs": {"result": statements.OutputFacts(sha256=A, size=1, format="csv")},
    }
    return statements.ReceiptStatement(**{**fields, **changes})


def service(**changes: Any) -> statements.ServiceStatement:
    fields = {
        "origin": ORIGIN,
        "time": TIME,
        "log_key": KEY.public.hex(),
        "sealing_key": HPKE,
        "platform_policy": "x",
        "worker_trust": "version = 1",
        "witnesses": (),
        "share_holders": (),
        "hand_over": "never",
    }
    return statements.ServiceStatement(**{**fields, **changes})


EACH: dict[str, Callable[[], statements.Predicate]] = {
    "party": lambda: statements.PartyStatement(**common(), keys=keys()),
    "dataset": dataset,
    "function": function,
    "task": task,
    "approval": lambda: statements.ApprovalStatement(**common(), task=A, id="0d" * 16, expires=TIME + 5),
    "withdrawal": lambda: statements.WithdrawalStatement(**common(), task=A, id="0d" * 16),
    "run": lambda: statements.RunStatement(**common(), task=A),
    "cancel": lambda: statements.CancelStatement(**common(), run=A),
    "collect": lambda: statements.CollectStatement(**common(), run=A),
    "retire": lambda: statements.RetireStatement(**common(), target=A),
    "suspend": lambda: statements.SuspendStatement(**common(), target=A, suspended=False),
    "trigger": lambda: statements.TriggerStatement(**common(), task=A, every=60, expires=TIME + 5),
    "presence": lambda: statements.PresenceStatement(**common()),
    "service": service,
    "receipt": receipt,
}
KINDS = sorted(EACH)
FREE_TEXT = ("checkpoint", "policy", "platform_policy", "worker_trust")
"""Fields whose form their own parsers check."""


def body(predicate: statements.Predicate) -> dict[str, Any]:
    return dict(parse(statements.payload(predicate)))


def sealed(value: Any, signer: SigningKey = KEY) -> dsse.Envelope:
    return dsse.sign(canonical(value), [signer])


def test_every_kind_of_a_party_is_here() -> None:
    assert set(EACH) == {*statements.PARTY_KINDS, "service", "receipt"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_comes_back(kind: str) -> None:
    made = statements.sign(EACH[kind](), KEY)
    found = statements.verify(dsse.from_bytes(made.envelope.to_bytes()), kind)
    assert found == made
    assert found.kind == kind
    assert found.signer == KEY.public.hex()
    assert found.digest == sha256(made.envelope.payload)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_and_missing_fields_are_refused(kind: str) -> None:
    value = body(EACH[kind]())
    value["predicate"]["more"] = 1
    with pytest.raises(Malformed, match="more"):
        statements.verify(sealed(value))
    for name in list(body(EACH[kind]())["predicate"]):
        value = body(EACH[kind]())
        del value["predicate"][name]
        with pytest.raises(Malformed):
            statements.verify(sealed(value))


@pytest.mark.parametrize("kind", KINDS)
def test_another_type_in_any_field_is_refused(kind: str) -> None:
    for name, value in body(EACH[kind]())["predicate"].items():
        for wrong in (True, 1.5, -1, [], {"x": 1}, "\n", "0" * 5000):
            if type(wrong) is type(value) and isinstance(value, list | dict):
                continue
            if (
                name in ("witnesses", "share_holders", "layers", "columns", "inputs", "callers")
                and wrong == []
            ):
                continue
            if name in ("private", "variadic", "suspended") and wrong is True:
                continue
            if name in FREE_TEXT and isinstance(wrong, str):
                continue
            changed = body(EACH[kind]())
            changed["predicate"][name] = wrong
            with pytest.raises((Malformed, TooLarge)):
                statements.verify(sealed(changed))


@pytest.mark.parametrize("kind", KINDS)
def test_the_subject_is_what_the_statement_is_about(kind: str) -> None:
    value = body(EACH[kind]())
    for subject in ([], [{"name": "x", "digest": {"sha256": A}}], value["subject"] * 2 or [None], None, {}):
        if subject == value["subject"]:
            continue
        with pytest.raises(Malformed):
            statements.verify(sealed({**value, "subject": subject}))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_canonical_form_counts(kind: str) -> None:
    value = body(EACH[kind]())
    for text in (
        json.dumps(value),
        json.dumps(value, indent=1),
        json.dumps(dict(reversed(value.items())), separators=(",", ":")),
        canonical(value).decode() + "\n",
    ):
        with pytest.raises(Malformed):
            statements.verify(dsse.sign(text.encode(), [KEY]))


def test_an_omitted_default_is_not_a_second_form() -> None:
    value = body(task())
    del value["predicate"]["limits"]["threads"]
    with pytest.raises(Malformed):
        statements.verify(sealed(value))


def test_an_integer_for_a_float_stays_what_it_is() -> None:
    one, two = task(arguments={"x": 1}), task(arguments={"x": 1.0})
    for made in (one, two):
        signed = statements.sign(made, KEY)
        assert statements.verify(signed.envelope).predicate == made
    assert statements.sign(one, KEY).digest != statements.sign(two, KEY).digest


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", Malformed),
        ("_type", None, Malformed),
        ("predicateType", "urn:mesatee:statement:task:v2", UnsupportedVersion),
        ("predicateType", "urn:mesatee:statement:task", UnsupportedVersion),
        ("predicateType", "urn:mesatee:statement:task:v1:v1", UnsupportedVersion),
        ("predicateType", "urn:mesatee:statement:other:v1", UnsupportedVersion),
        ("predicateType", "urn:mesatee:statement::v1", UnsupportedVersion),
        ("predicateType", "https://slsa.dev/provenance/v1", UnsupportedVersion),
        ("predicateType", 1, UnsupportedVersion),
        ("predicate", None, Malformed),
        ("predicate", [], Malformed),
        ("more", 1, Malformed),
    ],
)
def test_other_frames_are_refused(field: str, value: Any, error: type[MesateeError]) -> None:
    with pytest.raises(error):
        statements.verify(sealed({**body(task()), field: value}))


def test_one_kind_never_passes_for_another() -> None:
    for kind, other in itertools.permutations(KINDS, 2):
        envelope = statements.sign(EACH[kind](), KEY).envelope
        with pytest.raises(Malformed, match="expected"):
            statements.verify(envelope, other)
    # Even where the fields are the same: a run statement relabelled keeps no signature.
    value = body(EACH["cancel"]())
    signed = statements.sign(EACH["cancel"](), KEY).envelope
    value["predicateType"] = "urn:mesatee:statement:collect:v1"
    with pytest.raises(SignatureInvalid):
        statements.verify(dsse.Envelope(canonical(value), signed.signatures))


def test_exactly_one_signature() -> None:
    made = statements.sign(EACH["run"](), KEY).envelope
    with pytest.raises(Malformed, match="exactly one"):
        statements.verify(made.with_signature(OTHER))
    with pytest.raises(Malformed, match="exactly one"):
        statements.verify(dsse.Envelope(made.payload, ()))


def test_party_and_service_are_signed_by_the_key_that_they_name() -> None:
    for kind in ("party", "service"):
        with pytest.raises(KeyRefused):
            statements.verify(statements.sign(EACH[kind](), OTHER).envelope)


def test_messages_never_quote_values() -> None:
    value = body(task())
    value["predicate"]["expires"] = "a secret value"
    with pytest.raises(Malformed) as caught:
        statements.verify(sealed(value))
    assert "secret" not in caught.value.message


# -- limits, one above and one below -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "field", "good", "bad"),
    [
        (dataset, "name", "n" * limits.NAME_CHARS, "n" * (limits.NAME_CHARS + 1)),
        (dataset, "rows", 0, -1),
        (dataset, "policy", "p" * limits.POLICY_BYTES, "p" * (limits.POLICY_BYTES + 1)),
        (dataset, "policy", "p", ""),
        (dataset, "wrap", WRAP, b64encode(bytes(digests.WRAP_BYTES + 1))),
        (dataset, "checkpoint", "c" * limits.CHECKPOINT_BYTES, "c" * (limits.CHECKPOINT_BYTES + 1)),
        (dataset, "time", 2**40, 2**40 + 1),
        (task, "runs", limits.RUNS, limits.RUNS + 1),
        (task, "runs", 1, 0),
        (task, "expires", 2**40, 2**40 + 1),
        (task, "inputs", {"a": A}, {"a/b": A}),
        (task, "inputs", {"a": A}, {"a": A.upper()}),
        (task, "outputs", {"o": (keys(),)}, {}),
        (task, "outputs", {"o": (keys(),)}, {"o": ()}),
        (task, "outputs", {"o": (keys(),)}, {"o": (keys(), keys())}),
        (receipt, "fence", 0, -1),
        (receipt, "failure", "out_of_time", "something else"),
        (service, "hand_over", "never", "always"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "value",
)
def test_fields_at_their_limits(
    make: Callable[..., statements.Predicate], field: str, good: Any, bad: Any
) -> None:
    statements.verify(statements.sign(make(**{field: good}), KEY).envelope)
    with pytest.raises(ValueError):
        make(**{field: bad})


def test_tuples_at_their_limits() -> None:
    def columns(count: int) -> Any:
        return tuple(statements.ColumnInfo(name=f"c{number}", type="int64") for number in range(count))

    dataset(columns=columns(limits.COLUMNS))
    inputs = {f"i{number}": A for number in range(limits.INPUTS)}
    task(inputs=inputs)
    many = tuple(keys(signing=f"{number:064x}") for number in range(limits.PARTIES_PER_TASK + 1))
    task(outputs={"o": many[:-1]})
    ports = tuple(statements.Port(name=f"p{number}") for number in range(limits.INPUTS + 1))
    function(inputs=ports[:-1], outputs=ports[:-1])
    outputs = {f"o{number}": (many[0],) for number in range(limits.INPUTS + 2)}
    task(outputs=dict(list(outputs.items())[:-1]))
    for make in (
        lambda: dataset(columns=columns(limits.COLUMNS + 1)),
        lambda: task(inputs={**inputs, "one_more": A}),
        lambda: task(outputs={"o": many}),
        lambda: task(outputs=outputs),
        lambda: function(inputs=ports),
        lambda: function(outputs=ports),
        lambda: function(outputs=()),
    ):
        with pytest.raises(ValueError):
            make()


def test_arguments_at_their_limit() -> None:
    text = "x" * (limits.ARGUMENTS_BYTES - len(canonical({"a": ""})))
    task(arguments={"a": text})
    with pytest.raises(ValueError, match="at most"):
        task(arguments={"a": text + "x"})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("size", 1, 0),
        (
            "size",
            limits.CODE_BYTES + limits.AGE_HEADER_BYTES,
            limits.CODE_BYTES + limits.AGE_HEADER_BYTES + 1,
        ),
    ],
)
def test_code_at_its_limits(field: str, good: int, bad: int) -> None:
    statements.CodeRef(**{"sha256": A, "size": good, "wrap": None})
    with pytest.raises(ValueError):
        statements.CodeRef(**{"sha256": A, "size": bad, "wrap": None})


def test_a_run_asks_for_no_more_than_the_limits() -> None:
    top = {
        "seconds": limits.RUN_SECONDS,
        "cpu_seconds": limits.RUN_SECONDS,
        "memory_bytes": 1024 * limits.GIB,
        "output_bytes": limits.BLOB_BYTES,
        "threads": 256,
    }
    statements.RunLimits(**top)
    for name, value in top.items():
        for wrong in (value + 1, 0):
            with pytest.raises(ValueError):
                statements.RunLimits(**{name: wrong})


def test_a_statement_of_the_largest_envelope_and_one_more() -> None:
    """The policy is the padding: the largest one that fits is accepted, one group of base64 more is not."""

    def columns(chars: int) -> Any:
        return tuple(
            statements.ColumnInfo(name="c" * min(chars - start, 256), type="t")
            for start in range(0, chars, 256)
        )

    low, high = 1, 60_000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            statements.sign(dataset(policy="p" * 9000, columns=columns(middle)), KEY)
            low = middle
        except TooLarge:
            high = middle
    fits = statements.sign(dataset(policy="p" * 9000, columns=columns(low)), KEY)
    assert limits.STATEMENT_BYTES - 64 < len(fits.envelope.to_bytes()) <= limits.STATEMENT_BYTES
    assert statements.verify(dsse.from_bytes(fits.envelope.to_bytes())) == fits


@pytest.mark.parametrize(
    "changes",
    [
        {"executor": "builtin"},
        {"code": None},
        {"private": True},
        {"code": statements.CodeRef(sha256=A, size=1, wrap=WRAP)},
        {"inputs": (statements.Port(name="a"), statements.Port(name="a"))},
        {"outputs": (statements.Port(name="a"), statements.Port(name="a"))},
        {"outputs": (statements.Port(name="diagnostics"),)},
        {"entry": "a.b"},
        {"entry": "0a"},
        {"entry": "a b"},
        {"entry": "x" * (limits.NAME_CHARS + 1)},
    ],
    ids=lambda _: "case",
)
def test_inconsistent_functions(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        function(**changes)


def test_values_are_frozen() -> None:
    made = task()
    with pytest.raises(ValueError):
        made.runs = 2  # type: ignore[misc]


# -- hostile bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_payloads_raise_only_our_errors(kind: str) -> None:
    good = statements.sign(EACH[kind](), KEY)

    @QUICK
    @given(st.one_of(mutated(good.envelope.payload), noise()))
    def check(data: bytes) -> None:
        try:
            found = statements.verify(dsse.sign(data, [KEY]))
        except MesateeError:
            return
        # What is accepted is in the one form of what it says.
        assert statements.payload(found.predicate) == data

    check()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@QUICK
@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), JSON, max_size=4))
def test_any_json_arguments_keep_one_form(arguments: dict[str, Any]) -> None:
    made = statements.sign(task(arguments=arguments), KEY)
    assert statements.verify(made.envelope).digest == made.digest


@QUICK
@given(st.dictionaries(st.text(max_size=12), JSON, max_size=6))
def test_any_json_is_refused_with_our_errors(value: dict[str, Any]) -> None:
    for model in (statements.TaskStatement, statements.ReceiptStatement, statements.PartyStatement):
        with pytest.raises(MesateeError):
            validate(model, value, "x")


def test_an_appraisal_in_a_receipt_is_bounded() -> None:
    room = limits.APPRAISAL_BYTES - len('{"a":""}')
    receipt(appraisals=appraisals(worker={"a": "x" * room}))
    for side in ("worker", "gateway"):
        with pytest.raises(ValueError, match="an appraisal has at most"):
            appraisals(**{side: {"a": "x" * (room + 1)}})


def test_a_receipt_with_the_largest_appraisals_is_a_statement() -> None:
    full = {"a": "x" * (limits.APPRAISAL_BYTES - len('{"a":""}'))}
    statements.sign(receipt(appraisals=appraisals(worker=full, gateway=full)), KEY)
