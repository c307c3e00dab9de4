"""Cedar policies that cannot be widened.

Each policy text (the platform's, each dataset's, function's and key's) is evaluated in a set of its own, and
all must
allow: one party's `permit` never opens another's data. Cedar by itself fails open in ways that matter here,
so:

1. A text is registered only if it passes strict validation against `schema.cedarschema`, which has no
optional
   attributes; templates are refused, because they authorise nothing until somebody links them.
2. Before Cedar's recursive parser sees a text its nesting is bounded: deep brackets overflow the native
stack, and
   that would end the gateway, not raise.
3. Each request is checked against the schema too, and only the decision Allow *with no errors* counts: a
`forbid`
   whose evaluation fails (an overflow, say) is skipped by Cedar, and what is left would allow.
4. Whatever else happens in Cedar denies.

For `use` the worker is not known yet. There `level`, `tee`, `measurement` and `simulated` are the least that
the task accepts; the caller asks once for each TEE class and measurement that the task names, by
`decide_each`. Both releases are decided again on the appraised worker.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import cedarpy

from mesatee.errors import Malformed, PolicyDenied, TooLarge, Unavailable
from mesatee.protocol import limits

Kind: TypeAlias = Literal["dataset", "key", "platform", "function"]
TaskAction: TypeAlias = Literal["use", "release_key", "release_result", "approve_automatically"]
PlatformAction: TypeAlias = Literal["register", "read"]

ENTITY_OF_KIND: Final = MappingProxyType(
    {"dataset": "Dataset", "key": "Key", "platform": "Platform", "function": "Function"}
)
PLATFORM_ID: Final = "mesatee"
_REGISTERED: Final = 1_024
"""Parsed policies and resources that are remembered; most are the default text."""


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """A policy text that passed validation."""

    text: str
    kind: Kind
    digest: str
    """SHA-256 of the text, hex."""
    _handle: cedarpy.PolicySet = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy together with whose it is and what it guards."""

    policy: ParsedPolicy
    owner: str
    """Key id of the party whose policy it is, hex; empty for the platform."""
    resource: str
    """Digest of the dataset's or function's statement, or the key's name."""
    name: str
    """For messages, e.g. the dataset's name."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a policy may know of a task; see `schema.cedarschema`."""

    function: str
    function_owner: str
    executor: str
    task: str
    level: int
    tee: str
    measurement: str
    simulated: bool
    receivers: frozenset[str]
    inputs_owners: frozenset[str]
    runs: int
    run: int
    time: int


@dataclass(frozen=True, slots=True)
class PlatformContext:
    """What the platform's policy may know of a request that is about no task."""

    what: str
    time: int


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants to do what."""

    principal: str
    """Key id, hex."""
    action: TaskAction | PlatformAction
    context: TaskContext | PlatformContext


@dataclass(frozen=True, slots=True)
class Allowance:
    """One policy that allowed."""

    owner: str
    resource: str
    policy: str
    """Digest of the policy's text, hex."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Everybody asked said yes."""

    principal: str
    action: str
    allowed_by: tuple[Allowance, ...]


class PolicySet:
    """Where policy texts enter."""

    @staticmethod
    @lru_cache(maxsize=_REGISTERED)
    def register(text: str, kind: Kind) -> ParsedPolicy:
        """Check a policy text and parse it.

        1. Size and characters.
        2. Nesting, before the recursive parser.
        3. Strict validation against the schema.
        4. No templates.

        An empty text is valid and denies everything. Raises `Malformed` with Cedar's reason, `TooLarge`, or
        `Unavailable` on a thread whose stack is too small.
        """
        # 1. Size and characters.
        if kind not in ENTITY_OF_KIND:
            raise Malformed(f"there is no policy of kind {kind!r}")
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raise Malformed("a policy has a lone surrogate") from None
        if len(raw) > limits.POLICY_BYTES:
            raise TooLarge(f"a policy has {len(raw)} bytes, the limit is {limits.POLICY_BYTES}")
        _check_characters(text)
        # 2. Nesting.
        _check_nesting(text)
        # 3. Validation.
        _check_stack(kind)
        result = cedarpy.validate_policies(text, _schema(kind))
        if not result.validation_passed:
            reasons = "; ".join(str(error) for error in result.errors) or "no reason was given"
            raise Malformed(
                f"the policy is not valid: {reasons[:1_000]}",
                hint="docs/policy.md has the schema and examples",
            )
        try:
            handle = cedarpy.PolicySet.from_str(text)
        except ValueError as error:
            raise Malformed(f"the policy is not valid: {str(error)[:1_000]}") from None
        # 4. Templates.
        if handle.templates():
            raise Malformed("the policy has a template slot (?principal or ?resource)")
        return ParsedPolicy(text, kind, hashlib.sha256(raw).hexdigest(), handle)


def decide(policies: Sequence[NamedPolicy], request: Request) -> Decision:
    """Ask each policy by itself; all must allow. Raises `PolicyDenied`, which names whose policy did not.

    With no policy at all nobody allowed, so it is denied.
    """
    if not policies:
        raise PolicyDenied("no policy was asked, so none allowed it")
    query = _query(request)
    answers = [(named, _ask(named, query)) for named in policies]
    refused = [named for named, allowance in answers if allowance is None]
    if refused:
        whose = ", ".join(_describe(named) for named in refused[:8])
        more = f" and {len(refused) - 8} more" if len(refused) > 8 else ""
        raise PolicyDenied(f"{request.action} was not allowed by {whose}{more}")
    allowed_by = tuple(allowance for _, allowance in answers if allowance is not None)
    return Decision(request.principal, request.action, allowed_by)


def decide_each(policies: Sequence[NamedPolicy], requests: Iterable[Request]) -> tuple[Decision, ...]:
    """`decide` for every alternative that a task accepts: all must be allowed. Raises `PolicyDenied`, also
    for none.
    """
    decisions = tuple(decide(policies, request) for request in requests)
    if not decisions:
        raise PolicyDenied("the task accepts no worker, so there was nothing to allow")
    return decisions


def _ask(named: NamedPolicy, query: dict[str, Any]) -> Allowance | None:
    """The yes of this one policy, or None."""
    kind = ENTITY_OF_KIND[named.policy.kind]
    resource = PLATFORM_ID if named.policy.kind == "platform" else named.resource
    try:
        result = cedarpy.is_authorized(
            query | {"resource": {"type": kind, "id": resource}},
            named.policy._handle,
            _entities(named.policy.kind, resource, named.owner),
            schema=_schema(named.policy.kind),
        )
    except Exception:  # noqa: BLE001 - whatever goes wrong inside Cedar must deny.
        return None
    # Never `result.allowed`: it is true for an Allow that came about because a `forbid` failed to evaluate.
    if result.decision is not cedarpy.Decision.Allow or result.diagnostics.errors:
        return None
    return Allowance(named.owner, named.resource, named.policy.digest)


def _query(request: Request) -> dict[str, Any]:
    context = asdict(request.context)
    for name, value in context.items():
        if isinstance(value, frozenset):
            context[name] = sorted(value)
    return {
        "principal": {"type": "Party", "id": request.principal},
        "action": {"type": "Action", "id": request.action},
        "context": json.dumps(context),
    }


def _describe(named: NamedPolicy) -> str:
    """Names the policy without its text: that is its owner's business."""
    if named.policy.kind == "platform":
        return f"the platform's policy ({named.policy.digest[:16]})"
    return (
        f"the policy ({named.policy.digest[:16]}) of party {named.owner}"
        f" on {named.policy.kind} {named.name!r} ({named.resource})"
    )


_ACTION: Final = re.compile(r"action [^{};]+ appliesTo \{.*?\n\};\n", re.DOTALL)
_RESOURCE: Final = re.compile(r"resource: \[([^\]]*)\]")


def schema_text(kind: Kind) -> str:
    """The schema for policies of this kind: only its own resource, and only the actions that apply to it.

    Otherwise the policy of a dataset would have to be valid for the platform's actions too.
    """
    whole = resources.files(__package__).joinpath("schema.cedarschema").read_text("utf-8")
    entity = ENTITY_OF_KIND[kind]

    def narrow(action: re.Match[str]) -> str:
        found = _RESOURCE.search(action[0])
        if found is None or entity not in re.split(r",\s*", found[1]):
            return ""
        return _RESOURCE.sub(f"resource: [{entity}]", action[0])

    return _ACTION.sub(narrow, whole)


@cache
def _schema(kind: Kind) -> cedarpy.Schema:
    return cedarpy.Schema.from_str(schema_text(kind))


@lru_cache(maxsize=_REGISTERED)
def _entities(kind: Kind, resource: str, owner: str) -> cedarpy.Entities:
    attributes = {} if kind == "platform" else {"owner": {"__entity": {"type": "Party", "id": owner}}}
    entity = {"uid": {"type": ENTITY_OF_KIND[kind], "id": resource}, "attrs": attributes, "parents": []}
    return cedarpy.Entities.from_json_str(json.dumps([entity]), schema=_schema(kind))


# -- hostile texts ---------------------------------------------------------------------------------

_STRING_OR_COMMENT: Final = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n\r]*', re.DOTALL)
_TOKEN: Final = re.compile(r"[(\[{]|[)\]}]|;|&&|\|\||[!<>=]=?|[-+*.]|\b(?:if|has|like|in|is|when|unless)\b")


def _check_characters(text: str) -> None:
    """Control and direction characters could show an owner another text than the one that is evaluated."""
    for char in text:
        if char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp"):
            raise Malformed(f"a policy has the invisible character U+{ord(char):04X}")


def _check_nesting(text: str) -> None:
    """Bound how deep Cedar recurses: by brackets, and by operators, each of which may nest in the last one.

    Beyond these bounds its parser overflows the stack and, worse, its validator runs out of stack *silently*
    and passes what it did not look at (seen with cedarpy 4.12: 8,000 additions around an unknown attribute).
    """
    # A string becomes an empty one and a comment a space, so that neither hides a bracket nor adds one.
    bare = _STRING_OR_COMMENT.sub(lambda match: '""' if match[0].startswith('"') else " ", text)
    depth = operators = 0
    for piece in _TOKEN.findall(bare):
        if piece == ";":
            operators = 0
        elif piece in ")]}":
            depth -= 1
        else:
            depth += piece in "([{"
            operators += 1
        if depth > limits.POLICY_DEPTH:
            raise TooLarge(f"a policy nests deeper than {limits.POLICY_DEPTH} brackets")
        if operators > limits.POLICY_OPERATORS:
            raise TooLarge(
                f"one permit or forbid has more than {limits.POLICY_OPERATORS} operators and brackets"
            )
        if depth < 0:
            raise Malformed("a policy closes a bracket that is not open")


def _check_stack(kind: Kind) -> None:
    """See that this thread's stack lets the validator look at the deepest text that `_check_nesting` lets
    pass.
    """
    ifs = limits.POLICY_OPERATORS - limits.POLICY_DEPTH - 8
    probe = "permit (principal, action, resource) when {{ {}{}context.no_such_attribute == 1{}{} }};".format(
        "(" * (limits.POLICY_DEPTH - 1),
        "if true then " * ifs,
        " else true" * ifs,
        ")" * (limits.POLICY_DEPTH - 1),
    )
    if cedarpy.validate_policies(probe, _schema(kind)).validation_passed:
        raise Unavailable(
            "this thread's stack is too small to validate policies",
            hint="register policies from a thread with a stack of at least 1 MiB",
        )


__all__ = [
    "Allowance",
    "Decision",
    "Kind",
    "NamedPolicy",
    "ParsedPolicy",
    "PlatformContext",
    "PolicySet",
    "Request",
    "TaskContext",
    "decide",
    "decide_each",
    "schema_text",
]
