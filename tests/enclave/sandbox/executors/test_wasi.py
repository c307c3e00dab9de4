"""The world of a module, called as a hostile module would: without wasmtime, on a memory of its own."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.sandbox.executors import wasi
from mesatee.enclave.sandbox.executors.wasi import Exited, Wasi
from mesatee.protocol import wasm

MEMORY = 65_536
READ, WRITE = 2, 64
CREATE, FOLDER, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8


class World:
    """A module's memory and its world: one input, two outputs."""

    def __init__(self) -> None:
        self.memory = bytearray(MEMORY)
        self.fds = [os.memfd_create(name) for name in ("input", "result", "more")]
        os.write(self.fds[0], b"the input")
        self.wasi = Wasi(
            lambda: memoryview(self.memory),
            {"data": self.fds[0]},
            {"result": self.fds[1], "more": self.fds[2]},
            b'{"x":1}',
            b"seed",
        )

    def call(self, name: str, *arguments: int) -> int:
        return self.wasi.call(name, arguments)

    def open(self, path: bytes, flags: int = 0, rights: int = READ, folder: int = 3) -> tuple[int, int]:
        self.memory[1024 : 1024 + len(path)] = path
        error = self.call("path_open", folder, 0, 1024, len(path), flags, rights, rights, 0, 0)
        return error, struct.unpack_from("<I", self.memory)[0]

    def read(self, fd: int, size: int = 256) -> bytes:
        struct.pack_into("<II", self.memory, 16, 2048, size)
        assert self.call("fd_read", fd, 16, 1, 0) == 0
        return bytes(self.memory[2048 : 2048 + struct.unpack_from("<I", self.memory)[0]])

    def write(self, fd: int, data: bytes) -> int:
        self.memory[2048 : 2048 + len(data)] = data
        struct.pack_into("<II", self.memory, 16, 2048, len(data))
        return self.call("fd_write", fd, 16, 1, 0)

    def names(self, fd: int) -> list[str]:
        assert self.call("fd_readdir", fd, 2048, 1024, 0, 0) == 0
        used = struct.unpack_from("<I", self.memory)[0]
        found, at = [], 2048
        while at < 2048 + used:
            length = struct.unpack_from("<I", self.memory, at + 16)[0]
            found.append(self.memory[at + 24 : at + 24 + length].decode())
            at += 24 + length
        return found


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    for fd in made.fds:
        os.close(fd)


def test_an_input_is_read_and_never_written(world):
    error, fd = world.open(b"in/data")
    assert (error, world.read(fd)) == (0, b"the input")
    assert world.write(fd, b"x") == wasi.BADF
    assert world.open(b"in/data", rights=READ | WRITE)[0] == wasi.ACCES
    assert world.open(b"in/data", TRUNCATE)[0] == wasi.ACCES
    assert os.pread(world.fds[0], 64, 0) == b"the input"


def test_an_output_is_there_once_it_is_made(world):
    assert world.open(b"out/result", rights=WRITE)[0] == wasi.NOENT
    error, fd = world.open(b"out/result", CREATE, WRITE)
    assert (error, world.write(fd, b"said")) == (0, 0)
    assert os.pread(world.fds[1], 64, 0) == b"said"
    assert world.wasi.written == {"result"}
    assert world.open(b"out/result", CREATE | EXCLUSIVE, WRITE)[0] == wasi.EXIST
    assert world.open(b"out/other", CREATE, WRITE)[0] == wasi.ACCES


def test_arguments_are_a_file(world):
    _, fd = world.open(b"args.json")
    assert world.read(fd) == b'{"x":1}'
    assert world.open(b"args.json", CREATE | TRUNCATE, WRITE)[0] == wasi.ACCES


@pytest.mark.parametrize(
    "path",
    [b"..", b"../etc/passwd", b"in/../../etc/passwd", b"/etc/passwd", b"/in/data", b"in/data\0x", b"./../in"],
)
def test_nothing_leads_above(world, path):
    assert world.open(path)[0] == wasi.NOTCAPABLE
    world.memory[1024 : 1024 + len(path)] = path
    assert world.call("path_filestat_get", 3, 0, 1024, len(path), 0) == wasi.NOTCAPABLE


def test_a_folder_is_a_floor(world):
    _, inner = world.open(b"in", FOLDER)
    assert world.open(b"data", folder=inner)[0] == 0
    assert world.open(b"../args.json", folder=inner)[0] == wasi.NOTCAPABLE
    assert world.open(b"../in/data", folder=inner)[0] == wasi.NOTCAPABLE
    _, file = world.open(b"in/data")
    assert world.open(b"x", folder=file)[0] == wasi.NOTDIR


@pytest.mark.parametrize(
    "path", [b"etc/passwd", b"in/other", b"proc/self/mem", b"in/data/x", b"attestation.json"]
)
def test_there_is_nothing_else(world, path):
    assert world.open(path)[0] == wasi.NOENT


def test_folders_list_what_is_theirs(world):
    assert world.names(3) == ["args.json", "in", "out"]
    _, fd = world.open(b"in", FOLDER)
    assert world.names(fd) == ["data"]
    _, fd = world.open(b"out", FOLDER)
    assert world.names(fd) == []
    world.open(b"out/more", CREATE, WRITE)
    assert world.names(fd) == ["more"]


@pytest.mark.parametrize(
    "name", ["path_symlink", "path_link", "path_rename", "path_unlink_file", "path_create_directory"]
)
def test_nothing_is_linked_renamed_or_removed(world, name):
    assert world.call(name, *[0] * len(wasm.WASI_FUNCTIONS[name])) == wasi.PERM


def test_there_are_no_sockets(world):
    assert {
        world.call(name, *[3] * len(wasm.WASI_FUNCTIONS[name]))
        for name in wasm.WASI_FUNCTIONS
        if "sock" in name
    } == {wasi.NOTSOCK}


def test_the_environment_is_empty(world):
    assert world.call("environ_sizes_get", 0, 4) == 0
    assert bytes(world.memory[:8]) == bytes(8)


def test_so_many_files_and_no_more(world):
    opened = [world.open(b"in/data")[0] for _ in range(wasi.OPEN_FILES)]
    assert opened.count(0) == wasi.OPEN_FILES - 4
    assert set(opened[wasi.OPEN_FILES - 4 :]) == {wasi.MFILE}


def test_so_many_buffers_and_no_more(world):
    _, fd = world.open(b"in/data")
    assert world.call("fd_read", fd, 32_768, wasi.VECTORS, 0) == 0
    assert world.call("fd_read", fd, 32_768, wasi.VECTORS + 1, 0) == wasi.INVAL


def test_a_pointer_one_byte_too_far_is_a_fault(world):
    assert world.call("random_get", MEMORY - 8, 8) == 0
    assert world.call("random_get", MEMORY - 7, 8) == wasi.FAULT
    assert world.call("random_get", -1, 1) == wasi.FAULT
    assert world.call("clock_time_get", 0, 0, MEMORY - 7) == wasi.FAULT
    _, fd = world.open(b"in/data")
    struct.pack_into("<II", world.memory, 16, MEMORY - 2, 3)
    assert world.call("fd_read", fd, 16, 1, 0) == wasi.FAULT


def test_chance_is_the_seeds_in_whatever_pieces_it_is_drawn():
    def drawn(seed: bytes, *sizes: int) -> bytes:
        memory = memoryview(bytearray(256))
        world, at = Wasi(lambda: memory, {}, {}, b"", seed), 0
        for size in sizes:
            assert world.call("random_get", (at, size)) == 0
            at += size
        return bytes(memory[:at])

    assert drawn(b"a", 100) == drawn(b"a", 1, 31, 33, 35)
    assert drawn(b"a", 100) != drawn(b"b", 100)


def test_much_chance_is_the_same_and_looks_at_the_time_in_between():
    size = 2 * wasi.RANDOM_BYTES + 5
    memory = memoryview(bytearray(size))
    world = Wasi(lambda: memory, {}, {}, b"", b"seed")
    looked: list[int] = []
    world.check = lambda: looked.append(1)
    assert world.call("random_get", (0, size)) == 0
    blocks = [hashlib.sha256(b"seed" + index.to_bytes(8)).digest() for index in range(size // 32 + 1)]
    assert memory == b"".join(blocks)[:size]
    assert len(looked) == 3


def test_chance_ends_where_the_time_does():
    memory = memoryview(bytearray(3 * wasi.RANDOM_BYTES))
    world = Wasi(lambda: memory, {}, {}, b"", b"seed")
    left = iter([None, None])
    world.check = lambda: next(left)
    with pytest.raises(StopIteration):
        world.call("random_get", (0, len(memory)))
    assert any(memory[: 2 * wasi.RANDOM_BYTES])
    assert not any(memory[2 * wasi.RANDOM_BYTES :])


def test_waiting_takes_no_time(world):
    struct.pack_into("<QBxxxxxxxIxxxxQ", world.memory, 64, 7, 0, 1, 10**18)
    assert world.call("poll_oneoff", 64, 512, 1, 0) == 0
    assert struct.unpack_from("<QH", world.memory, 512) == (7, 0)
    assert world.call("poll_oneoff", 64, 512, 0, 0) == wasi.INVAL
    assert world.call("poll_oneoff", 64, 512, wasi.SUBSCRIPTIONS + 1, 0) == wasi.INVAL


def test_before_there_is_a_memory_every_pointer_is_a_fault():
    world = Wasi(lambda: None, {}, {}, b"", b"")
    assert world.call("random_get", (0, 1)) == wasi.FAULT


WORDS = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.integers(0, 70), st.sampled_from([MEMORY, MEMORY - 1, 1024, 2048])
)
CALLS = st.sampled_from(sorted(wasm.WASI_FUNCTIONS)).flatmap(
    lambda name: st.tuples(st.just(name), st.tuples(*[WORDS] * len(wasm.WASI_FUNCTIONS[name])))
)


@given(st.lists(CALLS, max_size=30))
def test_whatever_a_module_calls_it_gets_an_answer(calls):
    world = World()
    world.memory[1024:1032] = b"in/data\0"
    # What a module says on stderr is no part of this test.
    world.call("fd_close", 1)
    world.call("fd_close", 2)
    try:
        for name, arguments in calls:
            try:
                assert 0 <= world.call(name, *arguments) <= 76
            except Exited:
                assert name == "proc_exit"
        assert os.pread(world.fds[0], 64, 0) == b"the input"
    finally:
        for fd in world.fds:
            os.close(fd)
