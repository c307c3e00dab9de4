from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee import _core
from mesatee.errors import Conflict, InputError, KeyRefused, Malformed, NotFound
from mesatee.party.identity import Identity, names
from mesatee.protocol import limits


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    made = Identity.create(tmp_path / "home", "alice")
    assert made.folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    files = sorted(item.name for item in made.folder.iterdir() if item.is_file())
    assert files == ["age.key", "hpke.key", "signing.key"]
    for name in files:
        assert (made.folder / name).stat().st_mode & 0o777 == 0o600


def test_it_is_the_same_after_loading(tmp_path: Path) -> None:
    made = Identity.create(tmp_path, "alice")
    assert Identity.load(tmp_path, "alice").keys() == made.keys()
    assert names(tmp_path) == ["alice"]


def test_it_never_replaces_one(tmp_path: Path) -> None:
    before = Identity.create(tmp_path, "alice").id
    with pytest.raises(Conflict):
        Identity.create(tmp_path, "alice")
    assert Identity.load(tmp_path, "alice").id == before
    assert [item.name for item in (tmp_path / "identities").iterdir()] == ["alice"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    made = Identity.create(tmp_path, "alice")
    (made.folder / "hpke.key").chmod(0o644)
    with pytest.raises(KeyRefused):
        Identity.load(tmp_path, "alice")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "-rf",
        ".hidden",
        "a\n",
        "a\0b",
        "a b",
        "ä",
        "x" * 65,
        "a\x1b[2K",
        "a\\b",
    ],
)
def test_names_that_are_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Malformed):
        Identity.create(tmp_path, name)
    with pytest.raises(Malformed):
        Identity.load(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_is_accepted(tmp_path: Path) -> None:
    Identity.create(tmp_path, "x" * limits.NAME_CHARS)


@given(st.text(max_size=80))
def test_no_name_leaves_the_folder(name: str) -> None:
    home = Path("/nonexistent")
    with pytest.raises((Malformed, NotFound)):
        Identity.load(home, name)


def test_a_missing_one_names_those_there_are(tmp_path: Path) -> None:
    Identity.create(tmp_path, "alice")
    with pytest.raises(NotFound) as caught:
        Identity.load(tmp_path, "bob")
    assert "alice" in caught.value.hint


def test_no_secret_is_shown_or_copied(tmp_path: Path) -> None:
    made = Identity.create(tmp_path, "alice")
    secret = (made.folder / "age.key").read_text().split()[-1]
    assert secret.startswith("AGE-SECRET-KEY-1")
    assert secret not in repr(made)
    assert "Key" not in repr(made).replace("Identity", "")
    for action in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            action(made)


def test_the_age_key_is_one_that_other_tools_read(tmp_path: Path) -> None:
    made = Identity.create(tmp_path, "alice")
    secret = next(item for item in (made.folder / "age.key").read_text().split() if item.startswith("AGE"))
    other = pyrage.x25519.Identity.from_str(secret)
    assert str(other.to_public()) == made.age.recipient


def test_its_certificate_carries_no_evidence(tmp_path: Path) -> None:
    made = Identity.create(tmp_path, "alice")
    parsed = _core.parse_certificate(made.certificate(1_800_000_000))
    assert parsed.public.hex() == made.id
    assert parsed.evidence is None
    assert parsed.not_before < 1_800_000_000 < parsed.not_after


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Identity.create(tmp_path / "file" / "home", "alice")
