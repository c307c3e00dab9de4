"""WASI preview 1 for one run: the files of the function contract and nothing else (design.md section 6).

A module sees one preopened folder ``/`` with ``/args.json``, ``/in/NAME`` and ``/out/NAME``. None of these is a path
of this machine: names lead to descriptors that the child was given, so that there is no path to escape by. There is
no environment, no socket and no other file; the clock stands still and random numbers follow from a seed, so that a
module computes the same wherever it runs.

Bytes go from a descriptor into the module's memory and back by readv and writev, never through a Python object. All
numbers that come from the module are hostile: a pointer outside of its memory answers `EFAULT`.

Source: the witx files of ``wasi_snapshot_preview1``; structures are little-endian, as laid out there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

CLOCK_NANOSECONDS: Final = 946_684_800 * 1_000_000_000
"""What every clock shows: 2000-01-01, in nanoseconds since 1970."""
OPEN_FILES: Final = 64
"""Descriptors that a module may hold at a time."""
VECTORS: Final = 1_024
"""Buffers of one call, as IOV_MAX of Linux."""
PATH_BYTES: Final = 4_096
RANDOM_BYTES: Final = 65_536
"""Random bytes that are made without a look at the time: a module may ask for as many as its memory holds."""
SUBSCRIPTIONS: Final = 1_024
"""Events of one `poll_oneoff`."""

# Errors of the module's own world, and the file types, by their numbers in the witx files.
SUCCESS, ACCES, BADF, EXIST, FAULT, FBIG, INVAL = 0, 2, 8, 20, 21, 22, 28
IO, ISDIR, MFILE, NOENT, NOSYS, NOTDIR, NOTSOCK, NOTSUP = 29, 31, 33, 44, 52, 54, 57, 58
PERM, SPIPE, NOTCAPABLE = 63, 70, 76
_CHARACTER_DEVICE, _DIRECTORY, _REGULAR = 2, 3, 4

_CREAT, _ONLY_DIRECTORY, _EXCL, _TRUNC = 1, 2, 4, 8
_APPEND: Final = 1
_RIGHT_READ, _RIGHT_WRITE = 1 << 1, 1 << 6
_ALL_RIGHTS: Final = (1 << 30) - 1
_ROOT_FD: Final = 3
_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF

_REFUSED: Final[Mapping[str, int]] = MappingProxyType(
    {
        "fd_allocate": NOTSUP,
        "fd_filestat_set_times": NOTSUP,
        "path_create_directory": PERM,
        "path_filestat_set_times": NOTSUP,
        "path_link": PERM,
        "path_readlink": INVAL,
        "path_remove_directory": PERM,
        "path_rename": PERM,
        "path_symlink": PERM,
        "path_unlink_file": PERM,
        "proc_raise": NOSYS,
        "sock_accept": NOTSOCK,
        "sock_recv": NOTSOCK,
        "sock_send": NOTSOCK,
        "sock_shutdown": NOTSOCK,
    }
)
"""What no module can do, and the answer that it gets."""


class Exited(Exception):
    """The module called `proc_exit`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _no_end() -> None:
    return


class _Answer(Exception):  # an error number on its way to the module
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(slots=True)
class _Open:
    """An open file or folder of the module; `fd` is a descriptor of this process, or None."""

    path: str
    fd: int | None = None
    content: bytes = b""
    """Of a file that is no descriptor."""
    folder: bool = False
    readable: bool = False
    writable: bool = False
    stream: bool = False
    """stdin, stdout and stderr: no position."""
    append: bool = False
    position: int = 0

    def size(self) -> int:
        return os.fstat(self.fd).st_size if self.fd is not None else len(self.content)


class Wasi:
    """The world of one module.

    `memory` gives the module's memory as it is now, or None before there is one. `inputs` and `outputs` are
    descriptors by name.

    >>> world = Wasi(lambda: memory, {}, {}, b"{}", b"seed")
    >>> memory = memoryview(bytearray(64))
    >>> world.call("random_get", (0, 8)), world.call("random_get", (60, 8)) == FAULT
    (0, True)
    """

    def __init__(
        self,
        memory: Callable[[], memoryview | None],
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        args: bytes,
        seed: bytes,
    ) -> None:
        self._memory = memory
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._args = args
        self._seed = seed
        self.check: Callable[[], None] = _no_end
        """Called by what takes long; it may raise."""
        self._drawn = 0
        self._left = b""
        self.written: set[str] = set()
        """Outputs that the module has opened to write."""
        self.too_large = False
        """Whether an output met its limit."""
        self._files: dict[int, _Open] = {
            0: _Open("", stream=True, readable=True),
            1: _Open("", fd=1, stream=True, writable=True),
            2: _Open("", fd=2, stream=True, writable=True),
            _ROOT_FD: _Open("", folder=True),
        }

    def call(self, name: str, arguments: tuple[int, ...]) -> int:
        """One call of the module; answers an error number. Raises `Exited`."""
        return function(name)(self, arguments)

    # -- memory ------------------------------------------------------------------------------------

    def _slice(self, pointer: int, length: int) -> memoryview:
        pointer, length = pointer & _U32, length & _U32
        memory = self._memory()
        if memory is None or pointer + length > len(memory):
            raise _Answer(FAULT)
        return memory[pointer : pointer + length]

    def _put(self, pointer: int, form: str, *values: int) -> None:
        self._slice(pointer, struct.calcsize(form))[:] = struct.pack(form, *values)

    def _vectors(self, pointer: int, count: int) -> list[memoryview]:
        count &= _U32
        if count > VECTORS:
            raise _Answer(INVAL)
        table = self._slice(pointer, 8 * count)
        return [self._slice(base, length) for base, length in struct.iter_unpack("<II", table)]

    def _path(self, pointer: int, length: int) -> bytes:
        if length & _U32 > PATH_BYTES:
            raise _Answer(INVAL)
        return bytes(self._slice(pointer, length))

    # -- descriptors and names ---------------------------------------------------------------------

    def _file(self, fd: int) -> _Open:
        found = self._files.get(fd & _U32)
        if found is None:
            raise _Answer(BADF)
        return found

    def _data(self, fd: int) -> _Open:
        found = self._file(fd)
        if found.folder:
            raise _Answer(ISDIR)
        return found

    def _resolve(self, fd: int, pointer: int, length: int) -> str:
        """The name below ``/``: "", "in", "in/NAME" ...; what would lead above is refused."""
        folder = self._file(fd)
        if not folder.folder:
            raise _Answer(NOTDIR)
        try:
            path = self._path(pointer, length).decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise _Answer(INVAL) from None
        if path.startswith("/") or "\0" in path:
            raise _Answer(NOTCAPABLE)
        parts = folder.path.split("/") if folder.path else []
        # Nothing above the folder that the call names, as WASI has it.
        floor = len(parts)
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part != "..":
                parts.append(part)
            elif len(parts) > floor:
                parts.pop()
            else:
                raise _Answer(NOTCAPABLE)
        return "/".join(parts)

    def _names(self, folder: str) -> list[tuple[str, bool]]:
        """What is in a folder: names, and whether each is a folder."""
        match folder:
            case "":
                return [("args.json", False), ("in", True), ("out", True)]
            case "in":
                return [(name, False) for name in sorted(self._inputs)]
            case _:
                return [(name, False) for name in sorted(self.written)]

    def _find(self, path: str) -> _Open:
        """What has this name; a file is neither readable nor writable yet."""
        if path in ("", "in", "out"):
            return _Open(path, folder=True)
        if path == "args.json":
            return _Open(path, content=self._args)
        folder, _, name = path.partition("/")
        if folder == "in" and name in self._inputs:
            return _Open(path, fd=self._inputs[name])
        if folder == "out" and name in self._outputs and name in self.written:
            return _Open(path, fd=self._outputs[name])
        raise _Answer(NOENT)

    def _path_open(
        self,
        fd: int,
        _lookup: int,
        pointer: int,
        length: int,
        flags: int,
        rights: int,
        _inheriting: int,
        fd_flags: int,
        result: int,
    ) -> None:
        path = self._resolve(fd, pointer, length)
        folder, _, name = path.partition("/")
        output = folder == "out" and bool(name)
        if output and flags & _CREAT:
            if name not in self._outputs:
                raise _Answer(ACCES)
            if flags & _EXCL and name in self.written:
                raise _Answer(EXIST)
            self.written.add(name)
        found = self._find(path)
        if flags & _ONLY_DIRECTORY and not found.folder:
            raise _Answer(NOTDIR)
        writes = bool(rights & _RIGHT_WRITE)
        if not found.folder:
            if not output and (writes or flags & (_CREAT | _TRUNC)):
                raise _Answer(ACCES)
            found.readable, found.writable = bool(rights & _RIGHT_READ), writes
            found.append = bool(fd_flags & _APPEND)
            if flags & _TRUNC and found.fd is not None:
                os.ftruncate(found.fd, 0)
        elif flags & (_CREAT | _TRUNC):
            raise _Answer(ISDIR)
        number = next((free for free in range(_ROOT_FD + 1, OPEN_FILES) if free not in self._files), None)
        if number is None:
            raise _Answer(MFILE)
        self._put(result, "<I", number)
        self._files[number] = found

    def _fd_close(self, fd: int) -> None:
        self._file(fd)
        # The descriptor itself stays: it is the run's.
        del self._files[fd & _U32]

    def _fd_renumber(self, source: int, target: int) -> None:
        self._file(target)
        self._files[target & _U32] = self._file(source)
        if source != target:
            del self._files[source & _U32]

    # -- reading and writing -----------------------------------------------------------------------

    def _read(self, file: _Open, vectors: list[memoryview], position: int) -> int:
        if not file.readable:
            raise _Answer(BADF)
        if file.fd is not None:
            return os.preadv(file.fd, vectors, position)
        read = 0
        for target in vectors:
            piece = file.content[position + read : position + read + len(target)]
            target[: len(piece)] = piece
            read += len(piece)
        return read

    def _write(self, file: _Open, vectors: list[memoryview], position: int) -> int:
        if not file.writable or file.fd is None:
            raise _Answer(BADF)
        if file.stream:
            return os.writev(file.fd, vectors)
        return os.pwritev(file.fd, vectors, position)

    def _fd_read(self, fd: int, pointer: int, count: int, result: int) -> None:
        file = self._data(fd)
        read = self._read(file, self._vectors(pointer, count), file.position)
        file.position += read
        self._put(result, "<I", read)

    def _fd_pread(self, fd: int, pointer: int, count: int, offset: int, result: int) -> None:
        file = self._seekable(fd)
        self._put(result, "<I", self._read(file, self._vectors(pointer, count), self._offset(offset)))

    def _fd_write(self, fd: int, pointer: int, count: int, result: int) -> None:
        file = self._data(fd)
        if file.append:
            file.position = file.size()
        written = self._write(file, self._vectors(pointer, count), file.position)
        if not file.stream:
            file.position += written
        self._put(result, "<I", written)

    def _fd_pwrite(self, fd: int, pointer: int, count: int, offset: int, result: int) -> None:
        file = self._seekable(fd)
        self._put(result, "<I", self._write(file, self._vectors(pointer, count), self._offset(offset)))

    def _seekable(self, fd: int) -> _Open:
        file = self._data(fd)
        if file.stream:
            raise _Answer(SPIPE)
        return file

    def _offset(self, value: int) -> int:
        """A position in a file: what the kernel could not count is refused."""
        if not 0 <= value < 1 << 62:
            raise _Answer(INVAL)
        return value

    def _fd_seek(self, fd: int, offset: int, whence: int, result: int) -> None:
        file = self._seekable(fd)
        match whence:
            case 0:
                base = 0
            case 1:
                base = file.position
            case 2:
                base = file.size()
            case _:
                raise _Answer(INVAL)
        position = self._offset(base + offset)
        self._put(result, "<Q", position)
        file.position = position

    def _fd_tell(self, fd: int, result: int) -> None:
        self._put(result, "<Q", self._seekable(fd).position)

    def _fd_filestat_set_size(self, fd: int, size: int) -> None:
        file = self._seekable(fd)
        if not file.writable or file.fd is None:
            raise _Answer(BADF)
        os.ftruncate(file.fd, self._offset(size))

    def _fd_sync(self, fd: int) -> None:
        self._file(fd)

    def _fd_datasync(self, fd: int) -> None:
        self._file(fd)

    def _fd_advise(self, fd: int, _offset: int, _length: int, _advice: int) -> None:
        self._file(fd)

    # -- what there is -----------------------------------------------------------------------------

    def _fd_fdstat_get(self, fd: int, result: int) -> None:
        file = self._file(fd)
        rights = _ALL_RIGHTS
        if not file.folder:
            rights &= ~(0 if file.readable else _RIGHT_READ) & ~(0 if file.writable else _RIGHT_WRITE)
        flags = _APPEND if file.append else 0
        self._put(result, "<BxHxxxxQQ", self._type(file), flags, rights, _ALL_RIGHTS)

    def _fd_fdstat_set_flags(self, fd: int, flags: int) -> None:
        self._file(fd).append = bool(flags & _APPEND)

    def _fd_fdstat_set_rights(self, fd: int, _base: int, _inheriting: int) -> None:
        self._file(fd)

    def _type(self, file: _Open) -> int:
        if file.folder:
            return _DIRECTORY
        return _CHARACTER_DEVICE if file.stream else _REGULAR

    def _put_filestat(self, file: _Open, result: int) -> None:
        size = 0 if file.folder or file.stream else file.size()
        # Device and inode say nothing of this machine; times are those of the clock.
        times = (CLOCK_NANOSECONDS,) * 3
        self._put(result, "<QQB7xQQQQQ", 1, self._inode(file.path), self._type(file), 1, size, *times)

    def _inode(self, path: str) -> int:
        """A number of its own for each name."""
        return int.from_bytes(hashlib.sha256(path.encode()).digest()[:6]) + 1

    def _fd_filestat_get(self, fd: int, result: int) -> None:
        self._put_filestat(self._file(fd), result)

    def _path_filestat_get(self, fd: int, _lookup: int, pointer: int, length: int, result: int) -> None:
        self._put_filestat(self._find(self._resolve(fd, pointer, length)), result)

    def _fd_prestat_get(self, fd: int, result: int) -> None:
        # The only folder that is open from the start: libraries count up from it until this fails.
        if fd != _ROOT_FD or not self._file(fd).folder or self._file(fd).path:
            raise _Answer(BADF)
        self._put(result, "<BxxxI", 0, 1)

    def _fd_prestat_dir_name(self, fd: int, pointer: int, length: int) -> None:
        if fd != _ROOT_FD or length & _U32 < 1:
            raise _Answer(INVAL)
        self._slice(pointer, 1)[:] = b"/"

    def _fd_readdir(self, fd: int, pointer: int, length: int, cookie: int, result: int) -> None:
        folder = self._file(fd)
        if not folder.folder:
            raise _Answer(NOTDIR)
        room = self._slice(pointer, length)
        entries = bytearray()
        names = self._names(folder.path)
        for index in range(min(cookie & _U64, len(names)), len(names)):
            name, is_folder = names[index]
            encoded = name.encode()
            inode = self._inode(f"{folder.path}/{name}".lstrip("/"))
            kind = _DIRECTORY if is_folder else _REGULAR
            entries += struct.pack("<QQIBxxx", index + 1, inode, len(encoded), kind) + encoded
            if len(entries) >= len(room):
                break
        used = min(len(entries), len(room))
        room[:used] = entries[:used]
        self._put(result, "<I", used)

    # -- arguments, time, chance, the end ----------------------------------------------------------

    def _args_sizes_get(self, count: int, size: int) -> None:
        self._put(count, "<I", 1)
        self._put(size, "<I", len(b"function\0"))

    def _args_get(self, pointers: int, texts: int) -> None:
        self._put(pointers, "<I", texts & _U32)
        self._slice(texts, len(b"function\0"))[:] = b"function\0"

    def _environ_sizes_get(self, count: int, size: int) -> None:
        self._put(count, "<I", 0)
        self._put(size, "<I", 0)

    def _environ_get(self, _pointers: int, _texts: int) -> None:
        return

    def _clock_res_get(self, _clock: int, result: int) -> None:
        self._put(result, "<Q", 1)

    def _clock_time_get(self, _clock: int, _precision: int, result: int) -> None:
        self._put(result, "<Q", CLOCK_NANOSECONDS)

    def _random_get(self, pointer: int, length: int) -> None:
        """Blocks SHA-256(seed || counter), one after the other."""
        whole = self._slice(pointer, length)
        for start in range(0, len(whole), RANDOM_BYTES):
            self.check()
            self._draw(whole[start : start + RANDOM_BYTES])

    def _draw(self, target: memoryview) -> None:
        filled = 0
        while filled < len(target):
            if not self._left:
                self._left = hashlib.sha256(self._seed + self._drawn.to_bytes(8)).digest()
                self._drawn += 1
            piece = self._left[: len(target) - filled]
            target[filled : filled + len(piece)] = piece
            self._left = self._left[len(piece) :]
            filled += len(piece)

    def _poll_oneoff(self, subscriptions: int, events: int, count: int, result: int) -> None:
        """Everything has happened: files are ready, and waiting takes no time where no time passes."""
        count &= _U32
        if not 0 < count <= SUBSCRIPTIONS:
            raise _Answer(INVAL)
        asked = bytes(self._slice(subscriptions, 48 * count))
        target = self._slice(events, 32 * count)
        for index in range(count):
            user, kind = struct.unpack_from("<QB", asked, 48 * index)
            target[32 * index : 32 * index + 32] = struct.pack("<QHB5xQH6x", user, SUCCESS, kind, 0, 0)
        self._put(result, "<I", count)

    def _sched_yield(self) -> None:
        return

    def _proc_exit(self, code: int) -> None:
        raise Exited(code & _U32)


def function(name: str) -> Callable[[Wasi, tuple[int, ...]], int]:
    """What `Wasi.call` does for this name, found once: modules call often. May raise `Exited` when it is called."""
    refused = _REFUSED.get(name)
    if refused is not None:
        number = refused
        return lambda world, arguments: number
    method: Callable[..., None] = getattr(Wasi, f"_{name}")

    def call(world: Wasi, arguments: tuple[int, ...]) -> int:
        try:
            method(world, *arguments)
        except _Answer as answer:
            return answer.number
        except OSError as error:
            if error.errno == errno.EFBIG:
                world.too_large = True
                return FBIG
            return INVAL if error.errno == errno.EINVAL else IO
        return SUCCESS

    return call


__all__ = ["CLOCK_NANOSECONDS", "OPEN_FILES", "VECTORS", "Exited", "Wasi", "function"]
