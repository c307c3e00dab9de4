"""Lines of tasks, joint outputs, triggers and answers with the result, through the real processes and the command."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator

import pytest
from tests.e2e.test_command_line import Shell

JOIN = """\
from mesatee.table import Table


def join(left: Table, right: Table, *, key: str = "id") -> Table:
    return Table.from_pandas(left.to_pandas().merge(right.to_pandas(), on=key))
"""
SLOPE = """\
from mesatee.table import Table


def slope(joined: Table) -> dict:
    frame = joined.to_pandas()
    x, y = frame["x"] - frame["x"].mean(), frame["y"] - frame["y"].mean()
    return {"slope": float((x * y).sum() / (x * x).sum()), "rows": len(frame)}
"""
COUNT = """\
from mesatee.table import Table


def count(rows: Table) -> dict:
    return {"rows": rows.to_pandas().shape[0]}
"""
LEFT = "id,x\n" + "".join(f"{n},{n}\n" for n in range(40))
RIGHT = "id,y\n" + "".join(f"{n},{3 * n + 1}\n" for n in range(20, 60))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    found = Shell(tmp_path_factory.mktemp("line") / "home")
    with found.up():
        for who in ("ann", "ben", "eve"):
            found.json("id", "new", who)
        for name, text in (("left.csv", LEFT), ("right.csv", RIGHT), ("join.py", JOIN), ("slope.py", SLOPE)):
            (found.place / name).write_text(text)
        (found.place / "count.py").write_text(COUNT)
        found.json("data", "put", "left.csv", who="ann")
        found.json("data", "put", "right.csv", who="ben")
        for name in ("join.py", "slope.py", "count.py"):
            found.json("function", "put", name, who="eve")
        # Everybody is known to the service before somebody names them.
        yield found


def approve(shell: Shell, task: str, *people: str) -> None:
    for who in people:
        shell.json("task", "approve", f"eve/{task}" if who != "eve" else task, "--yes", who=who)


def test_join_then_train_on_the_joined_output(shell: Shell) -> None:
    """A joint output of three; its second use needs the yes of each of them, once more."""
    shell.json(
        *("task", "new", "joined", "-f", "join", "--input", "left=ann/left", "--input", "right=ben/right"),
        *("--to", "result=ann,ben,eve", "--runs", "5"),
        who="eve",
    )
    made = shell.json(
        *("task", "new", "train", "-f", "slope", "--input", "joined=output:joined/result"),
        *("--to", "result=eve", "--runs", "5"),
        who="eve",
    )
    reasons = {item["name"]: item["reason"] for item in made["task"]["approvals"]}
    assert reasons == dict.fromkeys(("ann", "ben", "eve"), "owns input joined")
    approve(shell, "train", "ann", "eve")
    approve(shell, "joined", "ann", "ben", "eve")
    # Nobody has made it, and ben has not agreed that it is used again.
    assert shell.refused("task", "run", "train", who="eve") in ("state_error", "not_approved")
    shell.json("task", "run", "joined", "--wait", who="eve")
    assert shell.refused("task", "run", "train", who="eve") == "not_approved"
    shown = shell.run("task", "show", "eve/train", who="ben").stdout
    assert "output joined/result" in shown
    assert "ben (YOU)" in shown
    approve(shell, "train", "ben")
    done = shell.json("task", "run", "train", "--out", "trained", who="eve")
    result = json.loads((shell.place / done["outputs"]["result"]).read_text())
    assert result == {"slope": pytest.approx(3.0), "rows": 20}
    # Its receipt says of which run that was, to whoever checks it without the service.
    said = shell.json("verify", done["receipt_file"], who="eve")["receipt"]
    (used,) = said["inputs"]
    assert (used["kind"], used["title"], len(used["owners"])) == ("output", "joined/result", 3)


def test_a_run_may_begin_before_its_input_is_there(shell: Shell) -> None:
    """Both are asked for at once, and each is in its turn."""
    name = f"t{secrets.token_hex(3)}"
    shell.json(
        *("task", "new", name, "-f", "join", "--input", "left=ann/left", "--input", "right=ben/right"),
        *("--to", "result=eve"),
        who="eve",
    )
    shell.json(
        *("task", "new", f"{name}s", "-f", "slope", "--input", f"joined=output:{name}/result"),
        *("--to", "result=eve"),
        who="eve",
    )
    approve(shell, name, "ann", "ben")
    approve(shell, f"{name}s", "eve")
    shell.json("task", "run", name, who="eve")
    done = shell.json("task", "run", f"{name}s", "--out", f"{name}-out", who="eve")
    assert json.loads((shell.place / done["outputs"]["result"]).read_text())["rows"] == 20


def test_a_new_version_runs_the_task_by_itself(shell: Shell) -> None:
    (shell.place / "rows.csv").write_text("id\n1\n")
    shell.json("data", "put", "rows.csv", who="ann")
    assert shell.refused("data", "put", "rows.csv", who="ann") == "conflict"
    shell.json(
        *("task", "new", "counted", "-f", "count", "--input", "rows=newest:ann/rows"),
        *("--to", "result=eve", "--runs", "9"),
        who="eve",
    )
    approve(shell, "counted", "ann")
    shell.json("task", "trigger", "counted", who="eve")
    assert shell.json("task", "show", "counted", who="eve")["view"]["runs"] == []
    (shell.place / "rows.csv").write_text("id\n1\n2\n3\n")
    shell.json("data", "put", "rows.csv", "--new-version", who="ann")
    for _ in range(60):
        if shell.json("task", "show", "counted", who="eve")["view"]["runs"]:
            break
    shell.json("task", "watch", "counted", "--seconds", "60", who="eve")
    done = shell.json("task", "result", "counted", "--out", "counted", who="eve")
    assert json.loads((shell.place / done["outputs"]["result"]).read_text()) == {"rows": 3}
    shell.json("task", "trigger", "counted", "--stop", who="eve")
    assert shell.refused("task", "trigger", "counted", "--stop", who="eve") == "state_error"
    assert len(shell.json("data", "show", "rows", who="ann")["used_by"]) == 1


def test_disabled_data_and_functions_say_so(shell: Shell) -> None:
    shell.json("data", "disable", "left", who="ann")
    refused = shell.refused(
        *("task", "new", "none", "-f", "count", "--input", "rows=ann/left", "--to", "result=eve"), who="eve"
    )
    assert refused == "state_error"
    assert "disabled" in shell.run("data", "show", "left", who="ann").stdout
    shell.json("data", "enable", "left", who="ann")
    shell.json("function", "put", "count.py", "--new-version", "--caller", "ann", "--quota", "2", who="eve")
    with contextlib.suppress(KeyError):
        assert shell.json("function", "list", who="ann")["functions"][-1]["version"] == 2
    words = ("task", "new", "mine", "-f", "eve/count", "--input", "rows=ben/right", "--to", "result=ben")
    assert shell.refused(*words, who="ben") == "denied"
