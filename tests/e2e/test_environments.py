"""A task in an environment that the operator built while the service ran."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.support import wheels

from mesatee.cli import environments, up
from mesatee.enclave.platform import environments as platform
from mesatee.errors import Conflict, Malformed
from mesatee.party import functions, tasks
from mesatee.protocol import wire
from mesatee.protocol.environments import FOLDER, PACKAGES

from .conftest import Lab, until

SOURCE = """
from mesatee.table import Table


def work(people: Table) -> Table:
    import shapes
    return Table.from_dict({"sum": [int(people.to_pandas()["x"].sum()) + shapes.SIDES]})
"""


@pytest.fixture(scope="module")
def built(service: up.Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The digest of one with the package `shapes`."""
    links = tmp_path_factory.mktemp("links")
    made = wheels.wheel(links, "shapes", {"shapes/__init__.py": "SIDES = 6\n"})
    lock = wheels.lock(links, made)
    yield environments.build(service.home, "shapes", lock, find_links=links).digest
    environments.remove(service.home, "shapes")


def task(lab: Lab, environment: str, dataset: str, number: int, asks: str | None = None) -> wire.TaskView:
    path = lab.folder / f"work{number}.py"
    path.write_text(SOURCE)
    rules = functions.CallRules(environment=asks)
    function = functions.put(lab.scientist, path, f"shapes-{lab.folder.name}-{number}", rules=rules).digest
    posted = tasks.new(
        lab.scientist,
        f"shapes-{lab.folder.name}-{number}",
        function=function,
        inputs={"people": dataset},
        outputs={"result": ("scientist",), "diagnostics": ("scientist",)},
        accept=lab.people.accept,
        environment=environment,
    )
    tasks.approve(lab.owner, tasks.review(lab.owner, lab.owner.task(posted.digest)))
    return lab.scientist.task(posted.digest)


def test_a_task_names_an_environment_and_the_receipt_proves_it(
    lab: Lab, service: up.Service, built: str
) -> None:
    dataset = lab.table("x\n1\n2\n")
    with pytest.raises(Malformed, match="alone"):
        task(lab, lab.people.environment, dataset, 2, asks=built)
    view = task(lab, built, dataset, 0, asks=built)
    run = lab.run(view)
    taken = lab.result(view)
    assert run.status == "finished", taken.outputs["diagnostics"].read_text()
    assert taken.outputs["result"].read_text() == '"sum"\n9\n'
    assert taken.receipt.environment == built
    # In the base there is no such package.
    missing = task(lab, lab.people.environment, lab.table("x\n1\n"), 1)
    assert lab.run(missing).failure == "function_raised"


def test_a_worker_does_not_run_in_an_environment_that_was_changed(
    lab: Lab, service: up.Service, built: str
) -> None:
    file = service.home / FOLDER / "shapes" / PACKAGES / "shapes" / "__init__.py"
    honest = file.read_text()
    view = task(lab, built, lab.table("x\n5\n"), 0)
    file.write_text("SIDES = 7\n")
    try:
        tasks.run(lab.scientist, view)
        log = service.process("worker").log
        until(lambda: "environment_corrupt" in log.read_text())
        assert "shapes/__init__.py" in log.read_text()
        status = lab.scientist.task(view.digest).runs[-1].status
        assert status in ("queued", "running")
    finally:
        file.write_text(honest)
        with contextlib.suppress(Conflict):
            tasks.cancel(lab.scientist, lab.scientist.task(view.digest))
    assert platform.check(file.parents[2], platform.manifest(file.parents[2]).base).digest == built
