"""A value of the data, carried by a function to every way out that it can think of, arrives nowhere but at the approved
receivers: not in logs, not on the host's disk, not in any answer of the API, not in what other processes see.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab, until
from tests.support.live import Client

from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.errors import Denied, MesateeError, StateError, TaskFailed
from mesatee.party import results, tasks
from mesatee.party.config import endpoint
from mesatee.protocol import limits, statements
from mesatee.protocol.statements import RunLimits

HEAD = "import os, sys, threading\nfrom mesatee.table import Table\n"
PROLOGUE = """
    secret = people.to_pandas()["note"][0]
    print(secret); print(secret, file=sys.stderr)
    os.write(1, secret.encode()); os.write(2, secret.encode())
"""
WAYS = {
    "an exception's message": "raise ValueError(secret)",
    "an exception's class": "raise type(secret, (Exception,), {})(secret)",
    "an exception that raises when it is printed": (
        "class E(Exception):\n        def __str__(self): raise ValueError(secret)\n    raise E(secret)"
    ),
    "a note of an exception": "e = ValueError('x'); e.add_note(secret); raise e",
    "sys.exit": "sys.exit(secret)",
    "an exit status": "os._exit(ord(secret[0]))",
    "a crash": "import ctypes; ctypes.string_at(int(secret[1]))",
    "a thread's exception": (
        "t = threading.Thread(target=lambda: 1 / int(secret)); t.start(); t.join(); raise ValueError()"
    ),
    "an output of another name": "return {secret: people}",
    "an output of another type": "return secret",
    "the environment": "os.environ['LEAK'] = secret; raise ValueError()",
    "a file": "open(secret, 'w').write(secret)",
    "a warning": "import warnings; warnings.warn(secret); raise ValueError()",
    "a log line": "import logging; logging.error(secret); raise ValueError()",
    "the report's descriptors": (
        "for fd in range(3, 64):\n        try: os.write(fd, secret.encode())\n        except OSError: pass\n"
        "    raise ValueError()"
    ),
}
BOUNDS = RunLimits(
    seconds=20, cpu_seconds=10, memory_bytes=1024 * limits.MIB, output_bytes=limits.MIB, threads=4
)


def forms(canary: str) -> list[bytes]:
    """The canary as it may stand somewhere: as it is, in hex, in UTF-16, and in base64 at each of three offsets."""
    raw = canary.encode()
    found = [raw, raw.hex().encode(), canary.encode("utf-16-le")]
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + raw)
        found.append(text[4 if offset else 0 : -4])
    return found


def contains(data: bytes, canary: str) -> bool:
    return any(form in data for form in forms(canary))


def decoded(value: Any) -> Iterator[bytes]:
    """All strings of a JSON value, and what those that are base64 stand for."""
    match value:
        case dict():
            for key, item in value.items():
                yield key.encode()
                yield from decoded(item)
        case list():
            for item in value:
                yield from decoded(item)
        case str():
            yield value.encode()
            with contextlib.suppress(ValueError):
                inner = base64.b64decode(value, validate=True)
                yield inner
                yield from decoded(json.loads(inner))


def everything_on_disk(service: up.Service) -> Iterator[tuple[str, bytes]]:
    for folder in (service.home / "service", service.runtime):
        for path in folder.rglob("*"):
            yield f"the name {path}", os.fsencode(path)
            if path.is_file():
                yield str(path), path.read_bytes()


def everything_of_processes(service: up.Service) -> Iterator[tuple[str, bytes]]:
    for process in service.processes:
        assert process.child is not None
        for name in ("cmdline", "environ", "comm"):
            with contextlib.suppress(OSError):
                yield f"{process.name} {name}", Path(f"/proc/{process.child.pid}/{name}").read_bytes()


def everything_answered(people: stage.Stage) -> Iterator[tuple[str, bytes]]:
    """Every readable route, as every party."""
    port = endpoint(people.url).port
    for name, session in people.people.items():
        client = Client(port, session.identity.signing, people.trust)
        size = session.refresh().size
        paths = ["service", "log/checkpoint", f"log/consistency?first=1&second={size}", "parties", "datasets"]
        paths += ["functions", "tasks", "openapi.json", f"log/tile/entries/000.p/{min(size, 255)}"]
        paths += [f"log/entry/{index}" for index in range(size)]
        paths += [f"tasks/{view.digest}" for view in session.tasks()]
        try:
            for path in paths:
                answer = client.send("GET", f"/v1/{path}")
                yield f"{name} {path} headers", str(answer.headers.raw).encode()
                yield f"{name} {path}", answer.content
                with contextlib.suppress(ValueError):
                    for piece in decoded(answer.json()):
                        yield f"{name} {path}", piece
        finally:
            client.close()


@pytest.fixture(scope="module")
def leaked(
    people: stage.Stage, service: up.Service, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lab, str, dict[str, tuple[str, str | None]]]:
    """All ways out were tried on one canary: way -> the task's digest and its failure."""
    lab = Lab(people, tmp_path_factory.mktemp("canary"))
    # Digits, so that it is also a number, and too many of them to turn up by chance.
    canary = str(secrets.randbelow(9 * 10**23) + 10**23)
    table = lab.table(f"id,note\n1,x{canary}\n2,b\n")
    found = {}
    for number, (way, body) in enumerate(WAYS.items()):
        source = f"{HEAD}def work{number}(people: Table) -> Table:{PROLOGUE}    {body}\n"
        view = lab.task(source, {"people": table}, limits=BOUNDS, diagnostics=())
        found[way] = (view.digest, lab.run(view).failure)
    return lab, canary, found


def test_each_way_ends_in_a_code_of_the_closed_list(
    leaked: tuple[Lab, str, dict[str, tuple[str, str | None]]],
) -> None:
    _, _, found = leaked
    codes = {way: failure for way, (_, failure) in found.items()}
    crashed = {"an exit status", "a crash"}
    wrong = {"an output of another name", "an output of another type"}
    for way, code in codes.items():
        if way == "the report's descriptors":
            # What it wrote there may have spoilt its own report; then there is none that counts.
            assert code in ("function_raised", "crashed")
            continue
        expected = "crashed" if way in crashed else "wrong_output" if way in wrong else "function_raised"
        assert code == expected, way


def test_it_is_nowhere_on_the_disk(leaked: tuple[Lab, str, Any], service: up.Service) -> None:
    _, canary, _ = leaked
    assert [where for where, data in everything_on_disk(service) if contains(data, canary)] == []


def test_it_is_in_nothing_that_other_processes_see(leaked: tuple[Lab, str, Any], service: up.Service) -> None:
    _, canary, _ = leaked
    assert [where for where, data in everything_of_processes(service) if contains(data, canary)] == []


def test_it_is_in_no_answer_to_any_party(leaked: tuple[Lab, str, Any], people: stage.Stage) -> None:
    _, canary, _ = leaked
    seen = 0
    for where, data in everything_answered(people):
        seen += 1
        assert not contains(data, canary), where
    assert seen > 500


def test_nobody_is_told_more_than_the_code(leaked: tuple[Lab, str, Any]) -> None:
    lab, canary, found = leaked
    for digest, failure in found.values():
        with pytest.raises(TaskFailed) as failed:
            results.take(lab.scientist, lab.scientist.task(digest), lab.folder / "none")
        assert failed.value.failure == failure
        run = lab.scientist.task(digest).runs[0].digest
        for session, expected in ((lab.scientist, StateError), (lab.owner, Denied)):
            with pytest.raises(expected) as refused:
                session.post(statements.CollectStatement, run=run)
            assert not contains(str(refused.value.as_dict()).encode(), canary)
    assert not (lab.folder / "none").exists()


def test_the_canary_would_be_found(leaked: tuple[Lab, str, Any], service: up.Service) -> None:
    """The searches above find what is there."""
    _, canary, _ = leaked
    path = service.home / "service" / "log" / "planted"
    try:
        for text in (
            canary.encode(),
            base64.b64encode(f"ab{canary}cd".encode()),
            canary.encode().hex().encode(),
        ):
            path.write_bytes(b"...." + text + b"....")
            assert [where for where, data in everything_on_disk(service) if contains(data, canary)]
    finally:
        path.unlink()
    assert contains(b"".join(decoded({"payload": base64.b64encode(canary.encode()).decode()})), canary)


def test_diagnostics_go_to_their_receivers_alone(lab: Lab) -> None:
    """The data's owner gets what the function said; the scientist, who wrote it, does not."""
    canary = f"canary-{secrets.token_hex(8)}"
    table = lab.table(f"id,note\n1,{canary}\n")
    source = f"{HEAD}def work(people: Table) -> Table:{PROLOGUE}    raise ValueError(secret)\n"
    view = lab.task(source, {"people": table}, diagnostics=("hospital-a",))
    assert lab.run(view).failure == "function_raised"
    with pytest.raises(TaskFailed):
        lab.result(view)
    with pytest.raises(MesateeError) as caught:
        lab.scientist.post(statements.CollectStatement, run=lab.scientist.task(view.digest).runs[0].digest)
    assert canary not in str(caught.value.as_dict())
    got = results.take(lab.owner, lab.owner.task(view.digest), lab.folder / "said")
    assert set(got.outputs) == {"diagnostics"}
    text = got.outputs["diagnostics"].read_text()
    assert text.count(canary) >= 5
    assert f"ValueError: {canary}" in text
    assert got.receipt.failure == "function_raised"


def test_a_stopped_run_leaves_nothing(lab: Lab, service: up.Service) -> None:
    """Cancelled while the data is open in the child: no output, no diagnostics, nothing on the disk."""
    canary = f"canary-{secrets.token_hex(8)}"
    table = lab.table(f"id,note\n1,{canary}\n")
    source = f"{HEAD}def work(people: Table) -> Table:{PROLOGUE}    while True: pass\n"
    view = lab.task(source, {"people": table}, diagnostics=("scientist",))
    tasks.run(lab.scientist, view)

    until(lambda: lab.scientist.task(view.digest).runs[0].status == "running")
    tasks.cancel(lab.scientist, lab.scientist.task(view.digest))
    assert tasks.watch(lab.scientist, view.digest, seconds=5).status == "cancelled"
    with pytest.raises(StateError):
        lab.result(view)
    assert [where for where, data in everything_on_disk(service) if contains(data, canary)] == []
