"""Planted strings: what a party holds is nowhere in the service's folders, logs or processes as plaintext."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab

from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.party import data, tasks

CANARIES = {
    "a value in the data": f"VALUE{secrets.token_hex(8)}",
    "the dataset's name": f"DATASET{secrets.token_hex(8)}",
    "text of a private function": f"CODE{secrets.token_hex(8)}",
    "an argument": f"ARGUMENT{secrets.token_hex(8)}",
    "a value in the output": f"OUTPUT{secrets.token_hex(8)}",
    "text that the function prints": f"PRINTED{secrets.token_hex(8)}",
    "the task's name": f"TASK{secrets.token_hex(8)}",
}
SOURCE = """\
from mesatee.table import Table


def work(people: Table, *, word: str) -> Table:
    # {code}
    print("{printed}" + people.to_pandas().to_string())
    return Table.from_dict({{"found": ["{output}"[::-1][::-1], word]}})
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """Everything where a host could look, after a full task and while its processes still run."""
    folder = tmp_path_factory.mktemp("canary")
    home = folder / "home"
    with up.running(home) as service, ExitStack() as stack:
        lab = Lab(stage.enter(stack, home, ("hospital-a", "scientist")), folder)
        plain = folder / "people.csv"
        plain.write_text(f"id,note\n1,{CANARIES['a value in the data']}\n")
        sealed = data.seal(lab.owner.identity, plain)
        dataset = data.put(lab.owner, sealed, CANARIES["the dataset's name"]).digest
        source = SOURCE.format(
            code=CANARIES["text of a private function"],
            printed=CANARIES["text that the function prints"],
            output=CANARIES["a value in the output"],
        )
        view = lab.task(
            source, {"people": dataset}, private=True, arguments={"word": CANARIES["an argument"]}
        )
        tasks.approve(lab.scientist, tasks.review(lab.scientist, lab.scientist.task(view.digest)))
        assert lab.run(view).status == "finished"
        result = lab.result(view)
        # The test would be worth nothing if the strings had not gone through.
        assert CANARIES["a value in the output"] in result.outputs["result"].read_text()
        assert CANARIES["a value in the data"] in result.outputs["diagnostics"].read_text()
        found = {str(path): path.read_bytes() for path in files(home / "service")}
        for process in service.processes:
            assert process.child is not None
            for pid in family(process.child.pid):
                for name in ("cmdline", "environ"):
                    path = Path(f"/proc/{pid}/{name}")
                    found[str(path)] = path.read_bytes()
        yield found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [pid]
    for child in children.read_text().split() if children.exists() else ():
        found += family(int(child))
    return found


def test_there_is_something_to_search(places: dict[str, bytes]) -> None:
    assert any(name.endswith("records.sqlite") for name in places)
    assert any("/blobs/" in name for name in places)
    assert any(name.endswith("gateway.log") for name in places)
    assert any(name.endswith("cmdline") for name in places)


@pytest.mark.parametrize("what", CANARIES)
def test_nowhere_in_the_open(places: dict[str, bytes], what: str) -> None:
    canary = CANARIES[what].encode()
    forms = {canary, canary.hex().encode(), canary[::-1]}
    # base64 hides a string in three ways, by its place; the middle of each is the same for all.
    for shift in range(3):
        forms.add(base64.b64encode(b"\0" * shift + canary)[4:-4])
    where = [name for name, content in places.items() if any(form in content for form in forms)]
    assert where == []


def test_no_core_files(places: dict[str, bytes]) -> None:
    assert not [name for name in places if Path(name).name.startswith("core")]
