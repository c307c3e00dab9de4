"""What may leave of a dataset, through the whole platform: the function has no say in it, and the receipt names it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from tests.e2e.conftest import Lab

from mesatee.errors import QuotaExceeded, TaskFailed
from mesatee.party import data, functions, protected, tasks
from mesatee.protocol import wire
from mesatee.protocol.protection import EVERYBODY
from mesatee.table import Table

PEOPLE = "city,age\n" + "".join(f"{city},{20 + n % 50}\n" for city, n in [("Bern", n) for n in range(30)])
WORK = "from mesatee.table import Table\n\n\ndef work(people: Table) -> Table:\n"


def put(lab: Lab, **limits: Any) -> str:
    path = lab.folder / f"{secrets.token_hex(4)}.csv"
    path.write_text(PEOPLE)
    sealed = data.seal(lab.owner.identity, path)
    return data.put(lab.owner, sealed, path.stem, protection=protected.make(**limits)).digest


def asked(lab: Lab, people: str, epsilon: float, **arguments: Any) -> wire.TaskView:
    """A private question, approved."""
    name = f"q{secrets.token_hex(4)}"
    function = functions.put_builtin(lab.scientist, "private_aggregate", name).digest
    posted = tasks.new(
        lab.scientist,
        name,
        function=function,
        inputs={"x": people},
        outputs={"result": ("scientist",)},
        accept=lab.people.accept,
        environment=lab.people.environment,
        arguments={"epsilon": epsilon, **arguments},
        runs=3,
    )
    tasks.approve(lab.owner, tasks.review(lab.owner, lab.owner.task(posted.digest)))
    return lab.scientist.task(posted.digest)


@pytest.mark.parametrize(
    ("limits", "source"),
    [
        ({"max_rows": 5}, "    return people\n"),
        ({"columns": ["n"]}, "    return people\n"),
        ({"columns": ["city"]}, "    return Table.from_pandas(people.to_pandas())\n"),
    ],
)
def test_what_the_owner_does_not_let_out_stays(lab: Lab, limits: dict[str, Any], source: str) -> None:
    view = lab.task(WORK + source, {"people": put(lab, **limits)}, diagnostics=())
    run = lab.run(view)
    assert (run.status, run.failure) == ("failed", "withheld")
    with pytest.raises(TaskFailed, match="withheld"):
        lab.result(view)


def test_what_is_let_out_is_rounded_and_named_in_the_receipt(lab: Lab) -> None:
    people = put(lab, digits=2, multiple=10, max_rows=1, columns=["n", "mean"])
    body = "    f = people.to_pandas()\n    return Table.from_dict({'n': [len(f) + 3], 'mean': [f.age.mean() / 7]})\n"
    view = lab.task(WORK + body, {"people": people}, diagnostics=())
    assert lab.run(view).status == "finished"
    result = lab.result(view)
    mean = sum(20 + n % 50 for n in range(30)) / 30 / 7
    assert Table.from_csv(result.outputs["result"].read_bytes()).to_dict() == {
        "n": [30],
        "mean": [float(f"{mean:.1e}")],
    }
    said = result.receipt.protection
    assert said is not None
    assert (said.digits, said.multiple, said.max_rows, said.columns) == (2, 10, 1, ("n", "mean"))
    assert result.receipt.as_dict()["protection"]["digits"] == 2


def test_a_private_question_is_answered_with_noise_and_paid_for_once(lab: Lab) -> None:
    people = put(lab, budget="1:2")
    view = asked(lab, people, 0.5, by="city", groups=["Bern", "Genf"], sums={"age": [0, 100]})
    answers = set()
    for _ in range(2):
        assert lab.run(view).status == "finished"
        result = lab.result(view)
        answers.add(result.outputs["result"].read_bytes())
    assert len(answers) == 1, "the same question has one answer, or noise could be averaged away"
    assert result.receipt.protection is not None
    assert result.receipt.protection.charges == {people: 500_000}
    mine = data.find(lab.owner, people)
    assert mine.spent == {EVERYBODY: 500_000, lab.scientist.identity.id: 500_000}
    stranger = data.find(lab.people.of("stranger"), people)
    assert stranger.spent == {EVERYBODY: 500_000}
    with pytest.raises(QuotaExceeded, match=r"has 0\.5 of 1 left"):
        lab.run(asked(lab, people, 0.6))


def test_small_groups_of_two_owners_stay(lab: Lab) -> None:
    """One owner lets out groups of ten or more, the other one numbers to the nearest five: both hold."""
    other = lab.people.of("hospital-b")
    rows = [(n, "Bern" if n < 12 else "Genf", n) for n in range(15)]
    given = {}
    for session, name, columns, limits in (
        (lab.owner, "cities", (0, 1), {"min_group": 10}),
        (other, "costs", (0, 2), {"multiple": 5}),
    ):
        path = lab.folder / f"{name}{secrets.token_hex(4)}.csv"
        head = "id," + ("city" if columns[1] == 1 else "cost")
        lines = (f"{row[0]},{row[columns[1]]}" for row in rows)
        path.write_text("\n".join([head, *lines]) + "\n")
        sealed = data.seal(session.identity, path)
        given[name] = data.put(session, sealed, path.stem, protection=protected.make(**limits)).digest
    name = f"sums{secrets.token_hex(4)}"
    posted = tasks.new(
        lab.scientist,
        name,
        function=functions.put_builtin(lab.scientist, "aggregate", name).digest,
        inputs=given,
        outputs={"result": ("scientist",)},
        accept=lab.people.accept,
        environment=lab.people.environment,
        arguments={"key": "id", "by": "city", "measures": {"cost": "sum"}, "many": "unique"},
    )
    for session in (lab.owner, other):
        tasks.approve(session, tasks.review(session, session.task(posted.digest)))
    view = lab.scientist.task(posted.digest)
    assert lab.run(view).status == "finished"
    found = Table.from_csv(lab.result(view).outputs["result"].read_bytes()).to_dict()
    assert found == {"city": ["Bern"], "rows": [10], "cost_sum": [65]}
