from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.gateway import policy as p
from mesatee.errors import InputError, Malformed, PolicyDenied, TooLarge, Unavailable
from mesatee.protocol import limits, policy_text

ALICE, BOB, CAROL = "a1" * 32, "b2" * 32, "c3" * 32
FUNCTION = "f0" * 32
CONTEXT = p.TaskContext(
    function=FUNCTION,
    function_owner=CAROL,
    executor="python",
    task="70" * 32,
    level=2,
    tee="software",
    measurement="3e" * 32,
    simulated=False,
    receivers=frozenset({CAROL}),
    inputs_owners=frozenset({ALICE, BOB}),
    runs=3,
    run=1,
    time=1_800_000_000,
)
USE = p.Request(CAROL, "use", CONTEXT)
PERMIT = "permit (principal, action, resource);\n"


def named(text: str, owner: str = ALICE, kind: p.Kind = "dataset", name: str = "patients") -> p.NamedPolicy:
    return p.NamedPolicy(
        p.PolicySet.register(text, kind), owner, hashlib.sha256(name.encode()).hexdigest(), name
    )


def ask(text: str, kind: p.Kind = "dataset", owner: str = ALICE, **changes: object) -> p.Decision:
    context = dataclasses.replace(CONTEXT, **changes)
    return p.decide([named(text, owner, kind)], dataclasses.replace(USE, context=context))


# -- who decides -------------------------------------------------------------------------------------


def test_all_must_allow_and_the_decision_names_them() -> None:
    policies = [named(PERMIT), named(policy_text.DEFAULT_DATASET_POLICY, BOB, name="claims")]
    decision = p.decide(policies, USE)
    assert (decision.principal, decision.action) == (CAROL, "use")
    assert [allowance.owner for allowance in decision.allowed_by] == [ALICE, BOB]
    assert decision.allowed_by[0].policy == hashlib.sha256(PERMIT.encode()).hexdigest()


def test_one_partys_permit_never_opens_anothers_data() -> None:
    closed = named("forbid (principal, action, resource);", BOB, name="claims")
    silent = named("", BOB, name="claims")
    for other in (closed, silent):
        for policies in ([named(PERMIT), other], [other, named(PERMIT)]):
            with pytest.raises(PolicyDenied) as error:
                p.decide(policies, USE)
            assert BOB in error.value.message
            assert "claims" in error.value.message
            assert ALICE not in error.value.message


def test_a_denial_does_not_show_the_policys_text() -> None:
    secret = f'permit (principal == Party::"{BOB}", action, resource) when {{ context.task == "5ec4e7" }};'
    with pytest.raises(PolicyDenied) as error:
        p.decide([named(secret)], USE)
    assert "5ec4e7" not in str(error.value.as_dict())
    assert BOB not in str(error.value.as_dict())


def test_no_policy_and_empty_policy_deny() -> None:
    with pytest.raises(PolicyDenied):
        p.decide([], USE)
    for text in ("", "   \n", "// only a comment"):
        with pytest.raises(PolicyDenied):
            ask(text)
    with pytest.raises(PolicyDenied):
        p.decide_each([named(PERMIT)], [])


def test_each_alternative_is_asked() -> None:
    text = 'permit (principal, action, resource) when { context.tee == "software" };'
    other = dataclasses.replace(USE, context=dataclasses.replace(CONTEXT, tee="none"))
    assert len(p.decide_each([named(text)], [USE, USE])) == 2
    with pytest.raises(PolicyDenied):
        p.decide_each([named(text)], [USE, other])


# -- fail-open traps of Cedar ------------------------------------------------------------------------


def test_a_forbid_that_fails_to_evaluate_denies() -> None:
    """Cedar skips it and says Allow, `.allowed` is True; the error is only in the diagnostics."""
    text = PERMIT + "forbid (principal, action, resource) when { context.time * 9223372036854775807 > 0 };"
    with pytest.raises(PolicyDenied):
        ask(text)
    raw = cedarpy.is_authorized(
        {
            "principal": {"type": "Party", "id": CAROL},
            "action": {"type": "Action", "id": "read"},
            "resource": {"type": "Platform", "id": p.PLATFORM_ID},
            "context": {"what": "log", "time": 2},
        },
        text,
        [],
        schema=p.schema_text("platform"),
    )
    assert raw.allowed, "if Cedar stops doing this, the comment in policy.py is out of date"
    assert raw.diagnostics.errors


@pytest.mark.parametrize(
    "text",
    [
        PERMIT + "forbid (principal, action, resource) when { context.absent == 1 };",
        PERMIT + "forbid (principal, action, resource) when { principal.absent == 1 };",
        PERMIT + 'forbid (principal, action, resource) when { resource["absent"] == 1 };',
        PERMIT + 'forbid (principal, action, resource) when { context.level > "3" };',
        PERMIT + 'forbid (principal == User::"x", action, resource);',
        PERMIT + 'forbid (principal, action == Action::"destroy", resource);',
        PERMIT + 'forbid (principal, action == Action::"read", resource);',
        PERMIT + "forbid (principal, action, resource is Platform);",
        PERMIT + "forbid (principal, action, resource) when { ip(context.tee).isLoopback() };",
        "permit (principal == ?principal, action, resource);",
        "permit (principal, action, resource)",
        "permit (",
        "allow everything;",
        PERMIT + ")",
        PERMIT + "\x00",
        PERMIT + "// \u202eesrever",
        PERMIT + "\ud800",
    ],
)
def test_refused_at_registration(text: str) -> None:
    with pytest.raises(Malformed):
        p.PolicySet.register(text, "dataset")


def test_values_that_the_schema_does_not_know_deny() -> None:
    everything = named(PERMIT)
    p.decide([everything], USE)
    for request in (
        dataclasses.replace(USE, action="read"),
        dataclasses.replace(USE, action="destroy"),  # type: ignore[arg-type]
        dataclasses.replace(USE, context=p.PlatformContext("log", 1)),
        dataclasses.replace(USE, context=dataclasses.replace(CONTEXT, level="2")),  # type: ignore[arg-type]
        dataclasses.replace(USE, context=dataclasses.replace(CONTEXT, time=1 << 63)),
        dataclasses.replace(USE, context=dataclasses.replace(CONTEXT, receivers=frozenset({1}))),  # type: ignore[arg-type]
    ):
        with pytest.raises(PolicyDenied):
            p.decide([everything], request)


def test_ids_are_data_not_syntax() -> None:
    text = f'permit (principal == Party::"{CAROL}", action, resource);'
    p.decide([named(text)], USE)
    for principal in (f'x" || Party::"{CAROL}', CAROL + "\n", CAROL + '"', ""):
        with pytest.raises(PolicyDenied):
            p.decide([named(text)], dataclasses.replace(USE, principal=principal))


# -- hostile texts -----------------------------------------------------------------------------------


def when(condition: str) -> str:
    return f"permit (principal, action, resource) when {{ {condition} }};"


def test_limits_one_below_and_one_above() -> None:
    p.PolicySet.register("/" * limits.POLICY_BYTES, "dataset")
    with pytest.raises(TooLarge):
        p.PolicySet.register("/" * (limits.POLICY_BYTES + 1), "dataset")
    brackets = limits.POLICY_DEPTH - 1
    ask(when("(" * brackets + "true" + ")" * brackets))
    with pytest.raises(TooLarge):
        p.PolicySet.register(when("(" * (brackets + 1) + "true" + ")" * (brackets + 1)), "dataset")
    # The scope's bracket, `when` and its brace are three.
    operators = limits.POLICY_OPERATORS - 3
    ask(when("true" + " && true" * operators))
    with pytest.raises(TooLarge):
        p.PolicySet.register(when("true" + " && true" * (operators + 1)), "dataset")
    ask(when("true" + " && true" * operators) + when("true" + " && true" * operators))


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 4_000 + "true" + ")" * 4_000,
        "[" * 4_000 + "1" + "]" * 4_000 + " == 1",
        "{a:" * 3_000 + "1" + "}" * 3_000 + " == 1",
        "!(" * 3_000 + "true" + ")" * 3_000,
        "if true then " * 500 + "true" + " else true" * 500,
        "context has a" + ".a" * 8_000,
        'context["a"]' + '["a"]' * 3_000 + " == 1",
        "1 == " + "1 + " * 3_000 + "context.absent",
        "true" + "&&true" * 2_000,
        '"' + "//" * 10 + '" == "" && ' + "(" * 4_000,
        '"\\"" == "" && ' + "(" * 4_000,
        '// " \n' + "(" * 4_000,
    ],
)
def test_what_would_exhaust_the_stack_never_reaches_the_parser(condition: str) -> None:
    with pytest.raises(TooLarge):
        p.PolicySet.register(when(condition), "dataset")


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    ask(when('context.tee != "' + "(" * 100 + '"') + "// " + "(" * 100)


def test_the_deepest_text_validates_truly_on_a_small_stack() -> None:
    """With too little stack Cedar's validator passes what it did not look at."""
    ifs = (limits.POLICY_OPERATORS - 10) // 2
    bad = when("if context.level == 1 then " * (ifs // 2) + "context.absent == 1" + " else true" * (ifs // 2))
    found: list[type[BaseException] | None] = []

    def register() -> None:
        try:
            p.PolicySet.register.__wrapped__(bad, "dataset")
        except InputError as error:
            found.append(type(error))
        except Unavailable:
            found.append(Unavailable)

    former = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=register)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(former)
    assert found == [Malformed]


WORDS = st.lists(
    st.sampled_from(
        [
            "permit",
            "forbid",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "principal",
            "action",
            "resource",
            "when",
            "unless",
            "context",
            ".",
            "level",
            "==",
            "1",
            ";",
            ",",
            "&&",
            "||",
            "!",
            "if",
            "then",
            "else",
            "in",
            "is",
            "has",
            "like",
            "+",
            "-",
            "*",
            "//",
            "@id",
            "?principal",
            '"x"',
            'Action::"use"',
            'Party::"x"',
            "\n",
        ]
    ),
    max_size=60,
)


@given(WORDS.map(" ".join) | st.text(max_size=200))
def test_hostile_texts_raise_only_our_errors(text: str) -> None:
    with contextlib.suppress(InputError):
        p.PolicySet.register(text, "dataset")


# -- texts of ours -----------------------------------------------------------------------------------


def test_default_dataset_policy() -> None:
    guard = named(policy_text.DEFAULT_DATASET_POLICY)
    for action in ("use", "release_key", "release_result"):
        p.decide([guard], dataclasses.replace(USE, action=action))
    with pytest.raises(PolicyDenied):
        p.decide([guard], dataclasses.replace(USE, action="approve_automatically"))


def test_default_platform_policy() -> None:
    guard = named(policy_text.DEFAULT_PLATFORM_POLICY, "", "platform")
    for action in ("use", "release_key", "release_result"):
        p.decide([guard], dataclasses.replace(USE, action=action))
    for action in ("register", "read"):
        p.decide([guard], p.Request(CAROL, action, p.PlatformContext("task", 1)))
    with pytest.raises(PolicyDenied, match="platform"):
        p.decide([guard], dataclasses.replace(USE, action="approve_automatically"))


@pytest.mark.parametrize("kind", ["dataset", "function", "key"])
def test_standing_approval_and_owner(kind: p.Kind) -> None:
    text = (
        'permit (principal, action == Action::"approve_automatically", resource)'
        " when { resource.owner == principal };"
    )
    guard = named(text, ALICE, kind)
    p.decide([guard], p.Request(ALICE, "approve_automatically", CONTEXT))
    for request in (p.Request(CAROL, "approve_automatically", CONTEXT), p.Request(ALICE, "use", CONTEXT)):
        with pytest.raises(PolicyDenied):
            p.decide([guard], request)


def test_each_kind_has_its_own_schema() -> None:
    for kind, actions in (
        ("dataset", {"use", "approve_automatically"}),
        ("platform", {"use", "register", "read"}),
        ("function", {"use", "approve_automatically"}),
        ("key", {"use", "approve_automatically"}),
    ):
        for action in ("use", "approve_automatically", "register", "read"):
            text = f'permit (principal, action == Action::"{action}", resource);'
            if action in actions:
                p.PolicySet.register(text, kind)
            else:
                with pytest.raises(Malformed):
                    p.PolicySet.register(text, kind)
    with pytest.raises(Malformed):
        p.PolicySet.register(PERMIT, "other")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({"min_level": 2}, {"level": 2}, {"level": 1}),
        ({"tees": ["software", "snp"]}, {"tee": "snp"}, {"tee": "none"}),
        (
            {"receivers": [CAROL, BOB]},
            {"receivers": frozenset({CAROL})},
            {"receivers": frozenset({CAROL, ALICE})},
        ),
        ({"functions": [FUNCTION]}, {}, {"function": "00" * 32}),
        ({"not_after": 1_800_000_001}, {}, {"time": 1_800_000_001}),
        ({"refuse_simulated": True}, {}, {"simulated": True}),
        ({"min_level": 1}, {"simulated": True}, {"level": 0}),
    ],
)
def test_dataset_policy(options: dict, good: dict, bad: dict) -> None:
    text = policy_text.dataset(**options)
    ask(text, **good)
    with pytest.raises(PolicyDenied):
        ask(text, **bad)


@pytest.mark.parametrize(
    "options",
    [
        {"min_level": 0},
        {"min_level": 6},
        {"tees": ['x"] || true || ["']},
        {"receivers": [""]},
        {"functions": ["a\\"]},
        {"not_after": -1},
    ],
)
def test_dataset_policy_refuses(options: dict) -> None:
    with pytest.raises(Malformed):
        policy_text.dataset(**options)


@given(st.integers(0, 6), st.booleans(), st.sets(st.sampled_from([ALICE, BOB, CAROL])))
def test_dataset_policy_means_what_it_says(level: int, simulated: bool, receivers: set[str]) -> None:
    text = policy_text.dataset(min_level=3, receivers=[BOB, CAROL], refuse_simulated=True)
    wanted = level >= 3 and not simulated and receivers <= {BOB, CAROL}
    try:
        ask(text, level=level, simulated=simulated, receivers=frozenset(receivers))
        allowed = True
    except PolicyDenied:
        allowed = False
    assert allowed == wanted
