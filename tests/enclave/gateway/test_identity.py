"""A service's keys serve the statement that they were made for, and no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import NOW, ORIGIN

from mesatee._core import AgeKey, SigningKey
from mesatee.attestation.trust import TrustPolicy
from mesatee.enclave.gateway import identity
from mesatee.enclave.gateway.identity import HANDED, ServiceKeys, open_service
from mesatee.enclave.platform.sealing import PLATFORM_KEY, Sealing
from mesatee.errors import Conflict, Corrupt, KeyRefused, MesateeError, StateError
from mesatee.protocol import statements
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.policy_text import DEFAULT_PLATFORM_POLICY
from mesatee.protocol.service import ShareHolder, ShareRule

MINE = ShareRule(
    k=2, holders=tuple(ShareHolder(key=key * 32, age=AgeKey.generate().recipient) for key in ("aa", "bb"))
)
"""Both share holders are the operator."""


def opened(folder: Path, **rules: Any) -> ServiceKeys:
    sealing = Sealing(folder, "ab" * 32, "cd" * 32)
    asked = {"origin": ORIGIN, "platform_policy": DEFAULT_PLATFORM_POLICY, "at": NOW, **rules}
    return open_service(folder, sealing, worker_trust=TrustPolicy().to_toml(), **asked)


def same(one: ServiceKeys, other: ServiceKeys) -> bool:
    """Whether two have the same keys, each of them."""
    secrets = ((getattr(one, name), getattr(other, name)) for name in ("body", "tickets", "snapshot"))
    return (
        one.log.public == other.log.public
        and one.sealing.public == other.sealing.public
        and all(theirs.open(ours.seal(b"x", b"y"), b"y") == b"x" for ours, theirs in secrets)
    )


def test_a_service_is_found_again_with_all_of_its_keys(tmp_path: Path) -> None:
    founded, again = opened(tmp_path), opened(tmp_path, at=NOW + 9)
    assert founded.service == again.service
    assert same(founded, again)
    assert again.received is None
    copy = identity.read_statement(tmp_path / "service.json", "service")
    assert copy == founded.service
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        PLATFORM_KEY,
        "service.json",
        "service.sealed",
    ]


@pytest.mark.parametrize(
    "rules",
    [
        {"share_holders": MINE},
        {"platform_policy": DEFAULT_PLATFORM_POLICY + "// other"},
        {"origin": "log.example/other"},
    ],
    ids=["share holders", "platform policy", "origin"],
)
def test_a_lost_statement_founds_no_second_service_on_the_same_keys(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    founded = opened(tmp_path)
    (tmp_path / "service.json").unlink()
    with pytest.raises(Conflict, match="founded with another"):
        opened(tmp_path, **rules)
    assert not (tmp_path / "service.json").exists()
    # The one that it is goes on: what counts is the sealed statement.
    again = opened(tmp_path)
    assert again.service == founded.service
    assert (tmp_path / "service.json").exists()


def test_a_statement_that_the_host_has_written_counts_for_nothing(tmp_path: Path) -> None:
    founded = opened(tmp_path)
    said = founded.said.model_copy(update={"share_holders": MINE})
    key = SigningKey.generate()
    forged = statements.sign(said.model_copy(update={"log_key": key.public.hex()}), key)
    (tmp_path / "service.json").write_bytes(forged.envelope.to_bytes())
    with pytest.raises(Conflict):
        opened(tmp_path, share_holders=MINE)
    assert opened(tmp_path).service == founded.service
    assert identity.read_statement(tmp_path / "service.json", "service") == founded.service


@pytest.mark.parametrize(
    ("left", "content"),
    [
        ("sealing-key.sealed", b"mesatee sealed key v1 hpke " + b"ab" * 32 + b"\n" + bytes(60)),
        ("log-key.sealed", b""),
        ("service.json", b"{}"),
        ("recovery.json", b"{}"),
    ],
)
def test_no_service_is_founded_where_a_part_of_one_is_left(tmp_path: Path, left: str, content: bytes) -> None:
    """Among them what an older version has left."""
    (tmp_path / left).write_bytes(content)
    with pytest.raises(StateError, match=left) as refused:
        opened(tmp_path)
    assert "found a new service" in str(refused.value.hint)
    assert (tmp_path / left).read_bytes() == content


def test_a_sealed_key_of_another_service_is_refused(tmp_path: Path) -> None:
    """One machine, two services: no key of the one opens in the other, alone or with all of its file."""
    one, two = tmp_path / "one", tmp_path / "two"
    opened(one)
    two.mkdir()
    # The file stands for the machine's own key, which is the same for both.
    shutil.copy(one / PLATFORM_KEY, two / PLATFORM_KEY)
    opened(two, platform_policy=DEFAULT_PLATFORM_POLICY + "// other")
    path = two / "service.sealed"
    raw = path.read_bytes()
    line, _, rest = raw.partition(b"\n")
    foreign = parse_object((one / "service.sealed").read_bytes().partition(b"\n")[2])
    changes: list[Callable[[dict[str, Any]], Any]] = [
        *(lambda value, it=name: value["keys"].update({it: foreign["keys"][it]}) for name in HANDED),
        lambda value: value.update(keys=foreign["keys"]),
        lambda value: value.update(facts=foreign["facts"]),
        lambda value: value["facts"].update(received={"successor": "aa" * 32, "holders": [], "shares": None}),
    ]
    for change in changes:
        value = parse_object(rest)
        change(value)
        path.write_bytes(line + b"\n" + canonical(value))
        with pytest.raises((Corrupt, KeyRefused)):
            opened(two, platform_policy=DEFAULT_PLATFORM_POLICY + "// other")
    # The whole file is the other service, with its rules.
    path.write_bytes((one / "service.sealed").read_bytes())
    with pytest.raises(Conflict):
        opened(two, platform_policy=DEFAULT_PLATFORM_POLICY + "// other")
    path.write_bytes(raw)
    opened(two, platform_policy=DEFAULT_PLATFORM_POLICY + "// other")


def test_a_service_founded_anew_with_the_same_name_opens_nothing_of_the_former(tmp_path: Path) -> None:
    former = opened(tmp_path)
    body = former.body.seal(b"a log body", b"")
    for name in ("service.json", "service.sealed"):
        (tmp_path / name).unlink()
    found = opened(tmp_path, share_holders=MINE)
    assert found.sealing.public != former.sealing.public
    for key in (found.body, found.tickets, found.snapshot):
        with pytest.raises(Corrupt):
            key.open(body, b"")


def test_a_start_that_is_killed_while_it_founds_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Sealing, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(identity, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    founded = opened(tmp_path)
    assert same(founded, opened(tmp_path))


def test_sealed_facts_of_another_form_are_refused(tmp_path: Path) -> None:
    founded = opened(tmp_path)
    sealing = Sealing(tmp_path, "ab" * 32, "cd" * 32)
    keys = {name: getattr(founded, name) for name in HANDED}
    envelope = founded.service.envelope.as_dict()
    wrong: list[dict[str, Any]] = [
        {},
        {"service": envelope},
        {"service": {}, "received": None},
        {"service": envelope, "received": None, "more": 1},
        {"service": envelope, "received": {"successor": "xy", "holders": [], "shares": None}},
    ]
    for facts in wrong:
        sealing.seal("service", keys, facts)
        with pytest.raises(MesateeError):
            opened(tmp_path)
    sealing.seal("service", {**keys, "log": SigningKey.generate()}, {"service": envelope, "received": None})
    with pytest.raises(KeyRefused, match="statement names"):
        opened(tmp_path)
