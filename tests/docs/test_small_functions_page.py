"""docs/small-functions.md: each command runs and gives what the page shows; its table has all small functions."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

from mesatee.cli.main import app
from mesatee.enclave import functions
from mesatee.enclave.sandbox import Supervisor

FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.M | re.S)
RUN = re.compile(r"^<!-- run -->\n```sh\nmesatee (.*?)\n```(?:\n\n```text\n(.*?)^```)?", re.M | re.S)
SHOWN = {"concat_rows", "word_count", "ordered_set_join", "password_check", "online_decrypt"}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "small-functions.md").read_text("utf-8")


def test_every_command_gives_what_the_page_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(page):
        (tmp_path / name).write_text(text, "utf-8")
    # What the page says to bring along.
    key = rsa.generate_private_key(65537, 2048)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    shutil.copy(Path(skimage.data.__file__).parent / "astronaut.png", tmp_path / "photo.png")
    ran, shown = set(), set()
    with Supervisor() as supervisor:
        monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(supervisor))
        for command, expected in RUN.findall(page):
            words = shlex.split(command)
            found = outcome(words)
            ran.add(words[2])
            assert found["failure"] is None, found
            if expected:
                assert found["outputs"]["result"]["text"].rstrip("\n") == expected.rstrip("\n")
                shown.add(words[2])
    assert ran == SHOWN | {"rsa_sign", "image_resize", "face_detect", "pca"}
    assert shown == SHOWN


def outcome(words: list[str]) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["--home", "home", *words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_the_table_says_what_each_function_takes(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.M)
    assert len(rows) == 12
    for name, inputs in rows:
        signature = functions.find(name).signature
        named = re.findall(r"`(\w+)`", inputs)
        assert named == [port.name for port in signature.inputs]
        assert bool(named) == (signature.open_inputs is None)
