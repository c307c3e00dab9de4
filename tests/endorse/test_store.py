"""The store: nothing is lost to two writers, to a full disk or to a damaged file."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support import intel

from mesatee import _core
from mesatee.attestation import reference
from mesatee.attestation.endorsements import NOTHING, Endorsement, Endorsements
from mesatee.endorse import Current, Store
from mesatee.endorse.store import FILE, LOCK
from mesatee.errors import Corrupt, Expired, InputError, Malformed, TimedOut, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

NOW = 1_800_000_000


def item(role: str = "vcek", subject: str = "", data: bytes = b"bytes", **more: Any) -> Endorsement:
    return Endorsement("snp", subject, role, data, more.pop("fetched", NOW), more.pop("expires", None))


def test_an_empty_home_has_nothing(tmp_path: Path):
    store = Store(tmp_path / "home")
    assert store.load() is NOTHING
    # Looking changes nothing.
    assert not (tmp_path / "home").exists()


def test_what_is_added_is_there_for_others(tmp_path: Path):
    store = Store(tmp_path / "home")
    kept = store.add([item("vcek"), item("crl", expires=NOW + 5)])
    assert Store(tmp_path / "home").load() == kept
    assert {found.role for found in kept.items} == {"vcek", "crl"}
    newer = item("vcek", data=b"newer", fetched=NOW + 1)
    assert store.add([newer]).lookup("snp", "")["vcek"] == b"newer"
    assert store.add([item("vcek", data=b"older", fetched=NOW)]).lookup("snp", "")["vcek"] == b"newer"


def test_only_its_owner_reads_it(tmp_path: Path):
    home = tmp_path / "home"
    before = os.umask(0)
    try:
        Store(home).add([item()])
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((home / LOCK).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert sorted(path.name for path in home.iterdir()) == [LOCK, FILE]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b'{"version":1,"endorsements":[],"references":[],"more":1}',
        b" " * (limits.ENDORSEMENTS_BYTES + 1),
    ],
)
def test_a_damaged_file_says_what_to_do(tmp_path: Path, damage: bytes):
    store = Store(tmp_path)
    store.add([item()])
    store.path.write_bytes(damage)
    for action in (store.load, store.export, lambda: store.add([item("crl")]), lambda: store.drop_expired(0)):
        with pytest.raises(Corrupt, match="is damaged") as caught:
            action()
        assert f"mv {store.path}" in caught.value.hint
    # What may still be saved by hand was not overwritten.
    assert store.path.read_bytes() == damage


def test_a_file_of_another_version_is_left_alone(tmp_path: Path):
    store = Store(tmp_path)
    store.path.write_bytes(b'{"version":2}')
    with pytest.raises(UnsupportedVersion, match="another version"):
        store.add([item()])
    assert store.path.read_bytes() == b'{"version":2}'


def test_every_cut_is_found(tmp_path: Path):
    store = Store(tmp_path)
    store.add([item(expires=NOW)])
    whole = store.path.read_bytes()
    for size in range(len(whole)):
        store.path.write_bytes(whole[:size])
        with pytest.raises(Corrupt):
            store.load()


def test_what_cannot_be_read_or_written(tmp_path: Path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(InputError, match="cannot read"):
        Store(tmp_path).load()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write into"):
        Store(tmp_path / "file").add([item()])


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path):
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot write into"):
        Store(tmp_path).add([item()])
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_store_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path)
    kept = store.add([item()])
    with pytest.raises(TooLarge):
        store.add([item(subject=f"{number:04x}") for number in range(limits.ENDORSEMENTS)])
    assert store.load() == kept
    size = len(Endorsements((item(), item("crl"))).encode())
    monkeypatch.setattr(limits, "ENDORSEMENTS_BYTES", size - 1)
    with pytest.raises(TooLarge) as caught:
        store.add([item("crl")])
    assert "drop-expired" in caught.value.hint
    assert store.load() == kept
    monkeypatch.setattr(limits, "ENDORSEMENTS_BYTES", size)
    assert len(store.add([item("crl")]).items) == 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path)
    kept = store.add([item()])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        store.add([item("crl")])
    monkeypatch.undo()
    assert store.load() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, FILE]


def test_an_error_in_a_change_changes_nothing(tmp_path: Path):
    store = Store(tmp_path)
    kept = store.add([item()])

    def change(_: Endorsements) -> Endorsements:
        raise Malformed("no")

    with pytest.raises(Malformed):
        store.update(change)
    assert store.load() == kept
    # The lock is free again.
    store.add([item("crl")])


# -- writers ----------------------------------------------------------------------------------------


def _write(home: Path, writer: int) -> None:
    for number in range(10):
        Store(home).add([item(subject=f"{writer:02x}{number:02x}")])


def test_writers_do_not_lose_each_others_work(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    with_threads = [threading.Thread(target=_write, args=(tmp_path, writer)) for writer in range(2)]
    processes = [context.Process(target=_write, args=(tmp_path, writer)) for writer in (2, 3)]
    for one in (*processes, *with_threads):
        one.start()
    for one in (*processes, *with_threads):
        one.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(Store(tmp_path).load().items) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, FILE]


def test_readers_never_see_half_a_file(tmp_path: Path):
    store = Store(tmp_path)
    store.add([item()])
    done = threading.Event()

    def write() -> None:
        for number in range(30):
            store.add([item(data=bytes([number]) * 10_000, fetched=NOW + number)])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        (only,) = store.load().items
        assert len(set(only.data)) == 1 or only.data == b"bytes"
    thread.join()


def test_a_writer_that_does_not_end(tmp_path: Path):
    store = Store(tmp_path, lock_seconds=0.1)
    store.add([item()])
    handle = os.open(tmp_path / LOCK, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(TimedOut, match="another process"):
            store.add([item("crl")])
        # Readers need no lock.
        assert len(store.load().items) == 1
    finally:
        os.close(handle)
    store.add([item("crl")])


# -- import, export, expiry -------------------------------------------------------------------------


def test_export_and_import(tmp_path: Path):
    bundle = reference.sign(
        reference.ReferenceValues("snp", {"ab" * 48: "guest"}, NOW, NOW + 100), [_core.SigningKey.generate()]
    )
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.update(lambda _: Endorsements((item("vcek"), item("crl", expires=NOW + 9)), (bundle,)))
    there.add([item("vcek", data=b"newer", fetched=NOW + 1), item("ask_ark")])
    kept = there.import_(here.export(), NOW)
    assert kept.references == (bundle,)
    assert kept.lookup("snp", "") == {"vcek": b"newer", "crl": b"bytes", "ask_ark": b"bytes"}
    assert there.import_(here.export(), NOW) == kept
    assert there.load() == kept


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", Malformed),
        (b"nothing", Malformed),
        (b'{"version":7}', UnsupportedVersion),
        (b" " * (limits.ENDORSEMENTS_BYTES + 1), TooLarge),
    ],
)
def test_what_is_no_collection_is_not_imported(tmp_path: Path, data: bytes, error: type[Exception]):
    store = Store(tmp_path)
    kept = store.add([item()])
    with pytest.raises(error):
        store.import_(data, NOW)
    assert store.load() == kept


def test_a_collection_from_the_future_is_refused(tmp_path: Path):
    """It would keep newer endorsements out for ever."""
    store = Store(tmp_path)
    skew = limits.CLOCK_SKEW_SECONDS
    with pytest.raises(Expired, match="in the future"):
        store.import_(Endorsements((item(fetched=NOW + skew + 1),)).encode(), NOW)
    assert store.load() == NOTHING
    store.import_(Endorsements((item(fetched=NOW + skew),)).encode(), NOW)


def test_a_list_from_the_future_is_refused(tmp_path: Path):
    late = intel.revocations(intel.VENDOR.ca, start=NOW + limits.CLOCK_SKEW_SECONDS + 1, end=NOW + 900_000)
    with pytest.raises(Expired, match="issued in the future"):
        Store(tmp_path).import_(Endorsements((item("crl", data=late),)).encode(), NOW)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_store_that_is_no_file_hangs_nobody(tmp_path: Path, make: Any):
    """A pipe without a writer would keep its reader waiting for ever."""
    make(tmp_path / FILE)
    with pytest.raises(InputError, match="cannot read") as caught:
        Store(tmp_path).load()
    assert "move it away" in str(caught.value.hint)


def test_a_store_has_a_size_limit(tmp_path: Path):
    empty = NOTHING.encode()
    (tmp_path / FILE).write_bytes(empty.ljust(limits.ENDORSEMENTS_BYTES))
    assert Store(tmp_path).load() == NOTHING
    (tmp_path / FILE).write_bytes(empty.ljust(limits.ENDORSEMENTS_BYTES + 1))
    with pytest.raises(Corrupt):
        Store(tmp_path).load()


def test_what_is_over_is_dropped_and_told(tmp_path: Path):
    store = Store(tmp_path)
    store.add([item("vcek"), item("crl", expires=NOW), item("ask_ark", expires=NOW + 1)])
    assert [found.role for found in store.drop_expired(NOW - 1)] == []
    assert [found.role for found in store.drop_expired(NOW)] == ["crl"]
    assert [found.role for found in store.load().items] == ["ask_ark", "vcek"]


def test_what_counts_now_follows_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = Store(tmp_path / "home")
    current = Current(store)
    assert current() is NOTHING
    kept = store.add([item("vcek")])
    assert current() == kept
    # Unchanged, it is not read again: the very same object comes back.
    assert current() is current()
    newer = store.add([item("crl")])
    assert current() == newer
    assert current().digest != kept.digest
    good = store.path.read_bytes()
    store.path.write_bytes(good[:-5])
    assert current() == newer
    assert "still count" in caplog.text
    store.path.write_bytes(good + b" ")
    assert current() == newer
    store.path.unlink()
    assert current() is NOTHING


def test_a_damaged_store_is_said_at_the_start(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"{")
    with pytest.raises(Corrupt):
        Current(Store(tmp_path))


def test_threads_share_what_counts_now(tmp_path: Path):
    store = Store(tmp_path)
    current = Current(store)
    seen: list[int] = []

    def look() -> None:
        for _ in range(200):
            seen.append(len(current().items))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        store.add([item(f"role{number}")])
    for thread in threads:
        thread.join()
    assert set(seen) <= set(range(6))
    assert len(current().items) == 5
