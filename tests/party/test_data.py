from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyrage
import pytest

from mesatee import _core
from mesatee.errors import (
    Conflict,
    DigestMismatch,
    InputError,
    KeyRefused,
    Malformed,
    MesateeError,
    NotFound,
    SealedDataCorrupt,
    TooLarge,
)
from mesatee.party import Identity, Session, data
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, statements, wraps
from mesatee.protocol.digests import b64decode
from mesatee.protocol.jsonstrict import canonical
from mesatee.table import Table

CSV = b"id,age\n1,30\n2,41\n"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def other_identity(identity: Identity) -> Any:
    text = (identity.folder / "age.key").read_text()
    return pyrage.x25519.Identity.from_str(next(line for line in text.splitlines() if line.startswith("AGE")))


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow"])
def test_tables_are_described(alice: Identity, tmp_path: Path, format: Any) -> None:
    path = tmp_path / f"people.{format}"
    Table.from_dict({"id": [1, 2, 3], "name": ["a", "b", "c"]}).write(path, format)
    made = data.seal(alice, path, keys=("id",))
    assert made.path == tmp_path / f"people.{format}.age"
    assert (made.shape.format, made.shape.rows) == (format, 3)
    assert [(item.name, item.type) for item in made.shape.columns] == [("id", "int64"), ("name", "string")]
    assert made.digest == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert made.size == made.path.stat().st_size
    assert made.path.stat().st_mode & 0o777 == 0o600


def test_what_is_sealed_opens_with_another_age_tool(alice: Identity, tmp_path: Path) -> None:
    made = data.seal(alice, write(tmp_path / "x.csv", CSV))
    assert pyrage.decrypt(made.path.read_bytes(), [other_identity(alice)]) == CSV


def test_what_another_age_tool_sealed_can_be_registered(alice: Identity, tmp_path: Path) -> None:
    recipient = pyrage.x25519.Recipient.from_str(alice.age.recipient)
    path = write(tmp_path / "x.csv.age", pyrage.encrypt(CSV, [recipient]))
    found = data.sealed_file(alice, path, keys=("age",))
    assert (found.shape.format, found.shape.rows) == ("csv", 2)
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_somebody_else_s_file_is_refused(alice: Identity, tmp_path: Path) -> None:
    recipient = pyrage.x25519.Identity.generate().to_public()
    path = write(tmp_path / "x.csv.age", pyrage.encrypt(CSV, [recipient]))
    with pytest.raises((KeyRefused, SealedDataCorrupt)):
        data.sealed_file(alice, path)


def test_bytes_and_tables_are_sealed_too(alice: Identity, tmp_path: Path) -> None:
    assert data.seal(alice, b"\x00", tmp_path / "a", format="bytes").shape.rows is None
    assert data.seal(alice, b"[1,2]", tmp_path / "b", format="json").shape.rows == 2
    table = Table.from_dict({"id": [1]})
    assert data.seal(alice, table, tmp_path / "c").shape.format == "parquet"
    with pytest.raises(Malformed):
        data.seal(alice, CSV, tmp_path / "d")
    with pytest.raises(Malformed):
        data.seal(alice, CSV, format="csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"id,age\n", "no rows"),
        (b"id,id\n1,2\n", "two columns"),
        (b"id,\n1,2\n", "column's name"),
        (b"a,b\n1,2\n3\n", "not readable"),
        (("x" * 257).encode() + b"\n1\n", "column's name"),
        (b"a\xff\n1\n", "not readable"),
    ],
)
def test_a_file_that_will_not_do(alice: Identity, tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path / "x.csv", content)
    with pytest.raises(InputError, match=reason):
        data.seal(alice, path)
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["x.csv"]


@pytest.mark.parametrize("format", ["parquet", "arrow", "json"])
def test_garbage_in_other_formats(alice: Identity, tmp_path: Path, format: str) -> None:
    for content in (b"garbage", b"PAR1" + bytes(50) + b"PAR1", b"ARROW1\x00\x00" + bytes(100)):
        with pytest.raises(InputError, match="not "):
            data.seal(alice, write(tmp_path / f"x.{format}", content))


def test_columns_are_bounded(alice: Identity, tmp_path: Path) -> None:
    def sheet(columns: int) -> bytes:
        return (
            ",".join(f"c{number}" for number in range(columns)).encode()
            + b"\n"
            + b",".join([b"1"] * columns)
            + b"\n"
        )

    data.seal(alice, write(tmp_path / "a.csv", sheet(limits.COLUMNS)))
    with pytest.raises(TooLarge):
        data.seal(alice, write(tmp_path / "b.csv", sheet(limits.COLUMNS + 1)))


def test_a_long_type_is_cut(alice: Identity, tmp_path: Path) -> None:
    deep = pa.table({"s": [{f"field{number}": 1 for number in range(30)}]})
    made = data.seal(alice, Table(deep), tmp_path / "x")
    assert len(made.shape.columns[0].type) == limits.NAME_CHARS


def test_a_missing_key_names_what_there_is(alice: Identity, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        data.seal(alice, write(tmp_path / "x.csv", CSV), keys=("patient",))
    assert "patient" in caught.value.message
    assert "age, id" in caught.value.hint


def test_an_existing_target_stays(alice: Identity, tmp_path: Path) -> None:
    write(tmp_path / "x.csv.age", b"precious")
    with pytest.raises(Conflict):
        data.seal(alice, write(tmp_path / "x.csv", CSV))
    assert (tmp_path / "x.csv.age").read_bytes() == b"precious"


def test_formats_by_extension(tmp_path: Path) -> None:
    assert data.format_of(Path("a.CSV")) == "csv"
    assert data.format_of(Path("a.parquet.age")) == "parquet"
    for name in ("a", "a.exe", "a.age", ".csv"):
        with pytest.raises(Malformed, match="no format"):
            data.format_of(Path(name))


def test_a_missing_file(alice: Identity, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        data.seal(alice, tmp_path / "none.csv")
    with pytest.raises(NotFound):
        data.sealed_file(alice, tmp_path / "none.csv.age")


# -- with a gateway --------------------------------------------------------------------------------


def test_put_gives_the_file_key_to_the_service_alone(fake: Any, alice: Identity, tmp_path: Path) -> None:
    made = data.seal(alice, write(tmp_path / "x.csv", CSV))
    fake.answers["/v1/datasets"] = lambda: (200, canonical({"items": []}))
    fake.answers[f"/v1/blobs/{made.digest}"] = lambda: (201, canonical({"items": []}))
    with Session(fake.url, alice, fake.trust) as session:
        data.put(session, made, "people")
    assert f"PUT /v1/blobs/{made.digest}" in fake.requests
    said = statements.verify(dsse.from_bytes(fake.posted[-1])).predicate
    assert isinstance(said, statements.DatasetStatement)
    assert (said.name, said.rows, said.blob.sha256) == ("people", 2, made.digest)
    binding = wraps.upload(said.origin, alice.id, made.digest)
    raw = b64decode(said.wrap, max_bytes=2048)
    key = fake.sealing.unwrap_file_key(raw, binding.info, binding.aad)
    with made.path.open("rb") as source, (tmp_path / "back").open("wb") as target:
        _core.age_open(source.fileno(), target.fileno(), key, 1_000)
    assert (tmp_path / "back").read_bytes() == CSV
    other = wraps.upload(said.origin, "11" * 32, made.digest)
    with pytest.raises(KeyRefused):
        fake.sealing.unwrap_file_key(raw, other.info, other.aad)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a\n"])
def test_dataset_names_are_names(fake: Any, alice: Identity, tmp_path: Path, name: str) -> None:
    made = data.seal(alice, write(tmp_path / "x.csv", CSV))
    with Session(fake.url, alice, fake.trust) as session, pytest.raises(Malformed):
        data.put(session, made, name)


@pytest.mark.parametrize("wrong", ["altered", "short", "long", "missing"])
def test_a_download_that_is_not_the_blob_leaves_nothing(
    fake: Any, alice: Identity, tmp_path: Path, wrong: str
) -> None:
    made = data.seal(alice, write(tmp_path / "x.csv", CSV))
    raw = made.path.read_bytes()
    bad = {"altered": raw[:-1] + bytes([raw[-1] ^ 1]), "short": raw[:-1], "long": raw + b"x"}
    if wrong in bad:
        fake.answers[f"/v1/blobs/{made.digest}"] = lambda: (200, bad[wrong])
    target = tmp_path / "out" / "back.csv"
    target.parent.mkdir()
    with Session(fake.url, alice, fake.trust) as session:
        with pytest.raises((DigestMismatch, TooLarge, NotFound)):
            data.download(session, made.digest, made.size, alice.age, target)
        assert list(target.parent.iterdir()) == []
        fake.answers[f"/v1/blobs/{made.digest}"] = lambda: (200, raw)
        assert data.download(session, made.digest, made.size, alice.age, target) == len(CSV)
        with pytest.raises(Conflict):
            data.download(session, made.digest, made.size, alice.age, target)
        stranger = Identity.create(tmp_path / "home2", "mallory")
        with pytest.raises(MesateeError):
            data.download(session, made.digest, made.size, stranger.age, tmp_path / "out" / "b.csv")
    assert [item.name for item in target.parent.iterdir()] == ["back.csv"]


def test_describe_reads_a_file_without_a_name() -> None:
    with os.fdopen(os.memfd_create("x"), "w+b") as file:
        file.write(CSV)
        file.flush()
        assert data.describe(file, "csv").rows == 2  # type: ignore[arg-type]
