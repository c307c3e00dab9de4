"""The command line as a person uses it: one service, three identities, everything by subprocess."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesatee.party import Identity, Session, read_service_file, read_trust
from mesatee.protocol.statements import ApprovalStatement

COMMAND = [sys.executable, "-c", "from mesatee.cli.main import main; main()"]
MEAN = """\
from mesatee.table import Table


def mean_age(people: Table, *, column: str = "age") -> dict:
    return {"mean": float(people.to_pandas()[column].mean())}
"""
ENDLESS = """\
from mesatee.table import Table


def endless(people: Table) -> Table:
    while True:
        pass
"""


class Shell:
    """A home folder and the command in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.place = home.parent
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MESATEE_")},
            "MESATEE_HOME": str(home),
            "NO_COLOR": "1",
        }

    def run(
        self, *words: str, who: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        identity = ["-i", who] if who else []
        done = subprocess.run(
            [*COMMAND, *identity, *words],
            cwd=self.place,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def json(self, *words: str, who: str | None = None, fails: int = 0) -> dict[str, Any]:
        done = self.run(*words, "--json", who=who)
        assert done.returncode == fails, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def refused(self, *words: str, who: str | None = None) -> str:
        """The code of a refusal; it names a next step."""
        error = self.json(*words, who=who, fails=1)["error"]
        assert set(error) == {"code", "message", "hint"}
        assert error["hint"]
        return str(error["code"])

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`mesatee up`, ended by Ctrl-C."""
        process = subprocess.Popen(
            [*COMMAND, "up", "--json", *words],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            assert json.loads(line)["event"] == "ready", process.stderr.read() if process.stderr else ""
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise


def children_of(home: Path) -> list[str]:
    """Processes whose command line or working files belong to this service."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(home) in text:
                found.append(text)
    return found


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("cli") / "home")
    with shell.up():
        for name in ("alice", "bob", "carol"):
            shell.json("id", "new", name)
        (shell.place / "people.csv").write_text("id,age\n1,30\n2,41\n3,52\n")
        (shell.place / "mean_age.py").write_text(MEAN)
        (shell.place / "endless.py").write_text(ENDLESS)
        yield shell
    assert children_of(shell.home) == []


def test_the_whole_way(shell: Shell) -> None:
    sealed = shell.json("data", "seal", "people.csv", who="alice")
    assert (shell.place / "people.csv.age").exists()
    assert sealed["rows"] == 3
    dataset = shell.json("data", "put", "people.csv.age", "--name", "people", who="alice")["digest"]
    assert [item["digest"] for item in shell.json("data", "list", who="bob")["datasets"]] == [dataset]
    shell.json("function", "put", "mean_age.py", who="bob")
    shown = shell.run("function", "show", "bob/mean_age", who="alice")
    assert "to_pandas" in shown.stdout
    words = ("--function", "mean_age", "--input", "people=people", "--to", "result=bob")
    task = shell.json("task", "new", "mean", *words, who="bob")["digest"]
    assert shell.refused("task", "run", "mean", who="bob") == "not_approved"
    assert shell.refused("task", "approve", "mean", who="carol") in ("not_found", "denied")
    shell.json("task", "approve", "mean", "--yes", who="alice")
    shown = shell.run("task", "show", task[:12], who="alice").stdout
    assert "mean by bob" in shown
    assert "approved" in shown
    shell.json("task", "run", "mean", who="bob")
    assert shell.json("task", "watch", "mean", who="bob")["run"]["status"] == "finished"
    assert shell.refused("task", "result", "mean", "--out", "mine", who="alice") == "denied"
    shell.json("task", "result", "mean", "--out", "out", who="bob")
    assert json.loads((shell.place / "out" / "result.json").read_text()) == {"mean": 41.0}
    verified = shell.json("verify", "out/receipt.json", who="carol")
    verified = verified["receipt"]
    assert verified["level"] == 2
    assert [item["name"] for item in verified["approvals"]] == ["alice"]
    used = shell.json("data", "show", "people", who="alice")
    assert json.dumps(used).count(task)
    assert shell.refused("task", "run", "mean", who="bob") == "quota_exceeded"
    # A receipt of which one letter was changed proves nothing.
    text = (shell.place / "out" / "receipt.json").read_text()
    at = text.index('"path":["') + 12
    other = "0" if text[at] != "0" else "1"
    (shell.place / "forged.json").write_text(text[:at] + other + text[at + 1 :])
    assert shell.refused("verify", "forged.json", who="carol") == "receipt_invalid"


def test_the_log(shell: Shell) -> None:
    assert shell.json("log", "check", who="alice")
    assert shell.json("log", "show", who="alice")["size"] > 0
    assert shell.json("log", "prove", "0", who="alice")
    attested = shell.json("attest", who="alice")
    assert json.dumps(attested).count("software")


def test_cancel_and_withdraw(shell: Shell) -> None:
    shell.json("data", "put", "people.csv", "--name", "crowd", who="alice")
    shell.json("function", "put", "endless.py", who="bob")
    words = ("--function", "endless", "--input", "people=crowd", "--to", "result=bob", "--runs", "3")
    shell.json("task", "new", "forever", *words, who="bob")
    shell.json("task", "approve", "forever", "--yes", who="alice")
    shell.json("task", "run", "forever", who="bob")
    shell.json("task", "cancel", "forever", who="alice")
    started = time.monotonic()
    watched = shell.run("task", "watch", "forever", "--json", who="bob")
    assert json.loads(watched.stdout)["run"]["status"] == "cancelled"
    assert time.monotonic() - started < 15
    shell.json("task", "withdraw", "forever", who="alice")
    assert shell.refused("task", "run", "forever", who="bob") == "not_approved"
    shell.json("data", "rm", "crowd", who="alice")
    assert shell.refused("task", "new", "again", *words, who="bob") in ("not_found", "state_error")


def proposed(shell: Shell, name: str, *words: str) -> str:
    """A task by bob on data of alice's, who has put it there already if need be."""
    shell.run("data", "put", "people.csv", "--name", "rows", who="alice")
    shell.run("function", "put", "mean_age.py", "--name", "mean", who="bob")
    words = ("--function", "mean", "--input", "people=alice/rows", "--to", "result=bob", *words)
    return str(shell.json("task", "new", name, *words, who="bob")["digest"])


def test_an_approval_needs_a_yes_and_is_signed_once(shell: Shell) -> None:
    """Without a terminal, and with --json, it signed without asking; and each time anew."""
    proposed(shell, "asked")
    for words in ((), ("--json",)):
        done = shell.run("task", "approve", "asked", *words, who="alice")
        assert done.returncode == 1
        assert "nobody was there to ask" in done.stdout + done.stderr
    assert shell.json("task", "show", "asked", who="alice")["view"]["approvals"][0]["state"] == "missing"
    shell.json("task", "approve", "asked", "--yes", who="alice")
    done = shell.run("task", "approve", "asked", "--yes", who="alice")
    assert done.returncode == 1
    assert "you have approved this already" in done.stderr
    shell.json("task", "run", "asked", "--wait", who="bob")
    shell.json("task", "withdraw", "asked", who="alice")
    assert shell.refused("task", "approve", "asked", "--yes", who="alice") == "quota_exceeded"


def test_one_withdrawal_takes_back_all_approvals_and_says_how_many(shell: Shell) -> None:
    task = proposed(shell, "thrice")
    file = read_service_file(shell.home)
    assert file is not None
    with Session(file.url, Identity.load(shell.home, "alice"), read_trust(file.trust)) as session:
        for _ in range(3):
            id, expires = secrets.token_hex(16), session.now() + 3_600
            session.post(ApprovalStatement, task=task, id=id, expires=expires)
    said = shell.run("task", "withdraw", "thrice", who="alice")
    assert "all 3 approvals of yours are withdrawn" in said.stdout
    assert shell.refused("task", "run", "thrice", who="bob") == "not_approved"
    assert shell.refused("task", "withdraw", "thrice", who="alice") == "state_error"


def test_a_result_that_was_altered_is_noticed_beside_its_valid_receipt(shell: Shell) -> None:
    """It said that the receipt is valid, and nothing of the file that a reader looks at."""
    proposed(shell, "kept")
    shell.json("task", "approve", "kept", "--yes", who="alice")
    shell.json("task", "run", "kept", "--wait", who="bob")
    shell.json("task", "result", "kept", "--out", "kept", who="bob")
    folder = shell.place / "kept"
    assert shell.json("verify", "kept/receipt.json")["files"] == ["result.json"]
    whole = (folder / "result.json").read_bytes()
    (folder / "result.json").write_bytes(whole + b" ")
    assert shell.refused("verify", "kept/receipt.json") == "digest_mismatch"
    (folder / "result.json").write_bytes(whole)
    (folder / "SHA256SUMS").rename(folder / "other")
    said = shell.run("verify", "kept/receipt.json")
    assert said.returncode == 0
    assert said.stdout.splitlines()[-1].startswith("No file beside it was compared")
    assert "is not a receipt" in shell.run("verify", "kept/result.json").stderr


def test_a_name_that_two_parties_use_still_names_ones_own(shell: Shell) -> None:
    for who in ("alice", "carol"):
        shell.json("data", "put", "people.csv", "--name", "twice", who=who)
    shell.json("data", "open", "twice", "--out", "opened.csv", who="alice")
    done = shell.run("data", "show", "twice", who="bob")
    assert "alice/twice (" in done.stderr
    assert "OWNER/NAME" in done.stderr
    assert shell.json("data", "show", "carol/twice", who="bob")["owner_name"] == "carol"
    done = shell.run("data", "rm", "alice/twice", who="carol")
    assert "alice/twice is not yours" in done.stderr
    shell.json("data", "rm", "twice", who="carol")
    # A task's name is not given twice by the same author.
    proposed(shell, "once")
    words = ("--function", "mean", "--input", "people=alice/rows", "--to", "result=bob")
    assert shell.refused("task", "new", "once", *words, who="bob") == "conflict"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tee", "sev-snp", "--to", "result=bob"), "there is no TEE class 'sev-snp'"),
        (("--tee", "snp", "--to", "result=bob"), "no worker can be both"),
        (("--min-level", "4", "--to", "result=bob"), "the highest is level 2"),
        (("--worker", "zz", "--to", "result=bob"), "64 to 128 hex digits"),
        ((), "outputs: result, diagnostics"),
    ],
)
def test_a_task_that_could_never_run_is_refused(shell: Shell, words: tuple[str, ...], says: str) -> None:
    shell.run("data", "put", "people.csv", "--name", "rows", who="alice")
    shell.run("function", "put", "mean_age.py", "--name", "mean", who="bob")
    words = ("task", "new", "never", "--function", "mean", "--input", "people=alice/rows", *words)
    done = shell.run(*words, who="bob")
    assert done.returncode == 1
    assert says in done.stderr


def test_limits_of_options_are_named(shell: Shell) -> None:
    done = shell.run("task", "new", "x", "--function", "y", "--seconds", "86401", who="bob")
    assert done.returncode == 2
    assert "--seconds" in done.stderr
    assert "86400" in done.stderr
    newest = shell.json("log", "show", who="bob")["size"] - 1
    done = shell.run("log", "prove", "99999", who="bob")
    assert done.returncode == 1
    assert f"the newest is entry {newest}" in done.stderr


def test_a_policy_with_a_class_that_does_not_exist_is_warned_of(shell: Shell) -> None:
    assert (
        shell.refused("data", "put", "people.csv", "--name", "p1", "--tee", "foo", who="alice") == "malformed"
    )
    policy = 'permit (principal, action, resource) when { context.tee == "snpp" };'
    (shell.place / "p.cedar").write_text(policy)
    done = shell.run("data", "put", "people.csv", "--name", "p2", "--policy", "p.cedar", who="alice")
    assert done.returncode == 0, done.stderr
    assert "TEE class 'snpp', which does not exist" in done.stderr


def test_what_is_registered_and_what_looks_wrong_is_said(shell: Shell) -> None:
    (shell.place / "semi.csv").write_text("id;age\n1;2\n")
    done = shell.run("data", "put", "semi.csv", who="alice")
    assert "columns id;age (string); 1 rows. Every registered party sees" in done.stdout
    assert "warning: the only column is 'id;age'" in done.stderr
    (shell.place / "double.csv").write_text("id,age\n1,2\n1,3\n")
    assert (
        "1 rows have the same id" in shell.run("data", "put", "double.csv", "--key", "id", who="alice").stderr
    )


def test_attest_begins_with_yes_or_no_and_names_the_trust_file(shell: Shell) -> None:
    done = shell.run("attest")
    assert done.stdout.splitlines()[0] == f"Your trust file {shell.home / 'trust.toml'} accepts this gateway."
    assert done.stdout.count("trusts the operator: the installation key") == 1
    text = (shell.home / "trust.toml").read_text().replace("minimum_level = 2", "minimum_level = 3")
    (shell.place / "strict.toml").write_text(text)
    done = shell.run("--trust", "strict.toml", "attest")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("Your trust file strict.toml refuses this gateway: level 2")
    assert "trusts the operator" not in done.stderr


@pytest.mark.parametrize(
    ("words", "who", "code"),
    [
        (("data", "put", "absent.csv"), "alice", "input_error"),
        (("data", "put", "people.csv", "--name", "../x"), "alice", "malformed"),
        (("id", "new", "../x"), None, "malformed"),
        (("id", "new", "alice"), None, "conflict"),
        (("data", "show", "nothing"), "alice", "not_found"),
        (("task", "show", "abcdef"), "alice", "not_found"),
        (("verify", "people.csv"), "alice", "malformed"),
        (("attest", "https://127.0.0.1:1"), "alice", "host_failed"),
    ],
)
def test_what_is_wrong_is_said(shell: Shell, words: tuple[str, ...], who: str | None, code: str) -> None:
    assert shell.refused(*words, who=who) == code


def test_wrong_usage_exits_with_2(shell: Shell) -> None:
    assert shell.run("data", "nothing").returncode == 2
    assert shell.run("data", "put").returncode == 2


def test_a_second_service_in_the_same_folder_is_refused(shell: Shell) -> None:
    assert shell.refused("up") == "conflict"


def test_help_reads_well(shell: Shell) -> None:
    said = shell.run("--help").stdout
    for verb in (
        "up",
        "demo",
        "doctor",
        "measure",
        "id",
        "data",
        "function",
        "task",
        "attest",
        "verify",
        "log",
        "trust",
        "recover",
    ):
        assert f" {verb} " in said
    assert "First steps" in said


def test_doctor_and_measure(shell: Shell) -> None:
    assert shell.json("doctor")
    assert len(shell.json("measure")["measurement"]) == 64
