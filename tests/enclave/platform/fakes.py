"""The kernel's side of the attesters' interfaces, as its documents and sources say it behaves.

None of these devices exists where the tests run. The objects here stand for the kernel, not for anything of ours:
they follow addresses that they are given into this process's memory, keep state between calls, and refuse what the
kernel refuses.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import cbor2

ROOT = Path("/fake")


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class File:
    """An open file. Each device overrides what it can do."""

    def readinto(self, room: bytearray) -> int:
        raise error(errno.EINVAL)

    def write(self, data: bytes) -> int:
        raise error(errno.EINVAL)

    def ioctl(self, request: int, argument: bytearray) -> int:
        raise error(errno.ENOTTY)

    def map(self, size: int) -> mmap.mmap:
        raise error(errno.ENODEV)

    def close(self) -> None:
        """Nothing is left to do."""


class Bytes(File):
    """Fixed content, given in pieces."""

    def __init__(self, content: bytes, piece: int = 4096) -> None:
        self.content, self.piece, self.position = content, piece, 0

    def readinto(self, room: bytearray) -> int:
        part = self.content[self.position : self.position + min(self.piece, len(room))]
        room[: len(part)] = part
        self.position += len(part)
        return len(part)


class FakeKernel:
    """Paths below `ROOT` and what opens there."""

    def __init__(self) -> None:
        self.files: dict[str, Callable[[], File]] = {}
        self.folders: list[TsmFolder] = []
        self.handles: dict[int, File] = {}
        self.opened = 100

    def put(self, path: str, content: bytes, piece: int = 4096) -> None:
        self.files[path] = lambda: Bytes(content, piece)

    def open(self, path: Path, flags: int) -> int:
        name = path.relative_to(ROOT).as_posix()
        found: Callable[[], File] | None = self.files.get(name)
        for folder in self.folders:
            found = found or folder.find(name, flags)
        if found is None:
            raise error(errno.ENOENT)
        return self.hold(found())

    def hold(self, file: File) -> int:
        self.opened += 1
        self.handles[self.opened] = file
        return self.opened

    def close(self, handle: int) -> None:
        self.handles.pop(handle).close()

    def readinto(self, handle: int, room: bytearray) -> int:
        return self.handles[handle].readinto(room)

    def write(self, handle: int, data: bytes) -> int:
        return self.handles[handle].write(data)

    def ioctl(self, handle: int, request: int, argument: bytearray) -> int:
        return self.handles[handle].ioctl(request, argument)

    def map(self, handle: int, size: int) -> mmap.mmap:
        return self.handles[handle].map(size)

    def mkdir(self, path: Path) -> None:
        for folder in self.folders:
            return folder.mkdir(path.relative_to(ROOT).as_posix())
        raise error(errno.ENOENT)

    def rmdir(self, path: Path) -> None:
        for folder in self.folders:
            return folder.rmdir(path.relative_to(ROOT).as_posix())
        raise error(errno.ENOENT)


class Entry:
    def __init__(self) -> None:
        self.write_generation = 0
        self.read_generation = 0
        self.inblob = b""
        self.privlevel: int | None = None
        self.outblob: bytes | None = None


class TsmFolder:
    """configfs-tsm (drivers/virt/coco/guest/report.c)."""

    BASE = "sys/kernel/config/tsm/report"

    def __init__(self, provider: str | None = "sev_guest", aux: bytes | None = b"", piece: int = 700) -> None:
        self.provider, self.aux, self.piece = provider, aux, piece
        self.entries: dict[str, Entry] = {}
        self.failures: list[int] = []
        """Error numbers of the next reports."""
        self.interference = 0
        """How many more reports somebody else's write spoils."""
        self.floor = 0
        self.made = 0

    def report(self, entry: Entry) -> bytes:
        return b"report for %d:" % (entry.privlevel or 0) + entry.inblob + bytes(1000)

    def mkdir(self, name: str) -> None:
        if self.provider is None:
            raise error(errno.ENXIO)
        if name in self.entries:
            raise error(errno.EEXIST)
        self.entries[name] = Entry()

    def rmdir(self, name: str) -> None:
        del self.entries[name]

    def find(self, name: str, flags: int) -> Callable[[], File] | None:
        folder, _, attribute = name.rpartition("/")
        entry = self.entries.get(folder)
        if entry is None:
            return None
        writable = attribute in ("inblob", "privlevel")
        if writable != (flags & os.O_ACCMODE == os.O_WRONLY):
            raise error(errno.EACCES)
        match attribute:
            case "provider":
                return lambda: Bytes(f"{self.provider}\n".encode())
            case "generation":
                return lambda: Bytes(f"{entry.write_generation}\n".encode())
            case "privlevel":
                return lambda: PrivLevel(self, entry)
            case "inblob":
                return lambda: InBlob(entry)
            case "outblob":
                return lambda: OutBlob(self, entry, lambda: entry.outblob or b"")
            case "auxblob" if self.aux is not None:
                return lambda: OutBlob(self, entry, lambda: self.aux or b"")
        return None

    def generate(self, entry: Entry) -> None:
        if not entry.inblob:
            raise error(errno.EINVAL)
        if entry.outblob is not None and entry.read_generation == entry.write_generation:
            return
        if self.failures:
            raise error(self.failures.pop(0))
        if self.interference:
            self.interference -= 1
            entry.write_generation += 1
            entry.inblob = b"somebody else's"
        self.made += 1
        entry.outblob = self.report(entry)
        entry.read_generation = entry.write_generation


class PrivLevel(File):
    def __init__(self, folder: TsmFolder, entry: Entry) -> None:
        self.folder, self.entry = folder, entry

    def write(self, data: bytes) -> int:
        # kstrtouint: binary is refused.
        if not data.isdigit() or not self.folder.floor <= int(data) <= 3:
            raise error(errno.EINVAL)
        self.entry.write_generation += 1
        self.entry.privlevel = int(data)
        return len(data)


class InBlob(File):
    """A binary attribute: configfs collects what is written and hands it on at the close."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.content = entry, b""

    def write(self, data: bytes) -> int:
        if len(self.content) + len(data) > 64:
            raise error(errno.EFBIG)
        self.content += data
        return len(data)

    def close(self) -> None:
        if self.content:
            self.entry.write_generation += 1
            self.entry.inblob = self.content


class OutBlob(Bytes):
    def __init__(self, folder: TsmFolder, entry: Entry, content: Callable[[], bytes]) -> None:
        super().__init__(b"", folder.piece)
        self.folder, self.entry, self.get = folder, entry, content

    def readinto(self, room: bytearray) -> int:
        if not self.position:
            self.folder.generate(self.entry)
            self.content = self.get()
        return super().readinto(room)


class SevGuestDevice(File):
    """/dev/sev-guest (drivers/virt/coco/sev-guest/sev-guest.c)."""

    def __init__(self, table: bytes = b"", busy: int = 0) -> None:
        self.table, self.busy = table, busy
        self.status = 0
        self.fails: int | None = None
        self.size = 1184
        self.key = bytes(range(32))
        self.asked: list[tuple[int, ...]] = []

    def ioctl(self, request: int, argument: bytearray) -> int:
        version, where, answer, _ = struct.unpack("<B7xQQQ", argument)
        if not version:
            raise error(errno.EINVAL)
        if self.fails is not None:
            raise error(self.fails)
        if self.busy:
            self.busy -= 1
            return self._codes(argument, 0, 2, errno.EAGAIN)
        match request:
            case 0xC0205300 | 0xC0205302:
                data, vmpl, reserved = struct.unpack("<64sI28s", ctypes.string_at(where, 96))
                assert not any(reserved)
                if request == 0xC0205302 and not self._certificates(where):
                    return self._codes(argument, 0, 1, errno.EIO)
                report = (b"SNP%d" % vmpl).ljust(0x50, b"\0") + data
                head = struct.pack("<II24x", self.status, self.size)
                ctypes.memmove(answer, (head + report.ljust(1184, b"\1")).ljust(4000, b"\0"), 4000)
            case 0xC0205301:
                self.asked.append(struct.unpack("<IIQIIQ", ctypes.string_at(where, 32)))
                head = struct.pack("<I28x", self.status)
                ctypes.memmove(answer, head + self.key, 64)
            case _:
                raise error(errno.ENOTTY)
        return 0

    def _certificates(self, where: int) -> bool:
        address, size = struct.unpack("<QI", ctypes.string_at(where + 96, 12))
        assert size % 4096 == 0
        if len(self.table) > size:
            ctypes.memmove(where + 104, struct.pack("<I", -(-len(self.table) // 4096) * 4096), 4)
            return False
        ctypes.memmove(address, self.table, len(self.table))
        return True

    def _codes(self, argument: bytearray, firmware: int, host: int, code: int) -> int:
        argument[24:] = struct.pack("<II", firmware, host)
        raise error(code)


def certificate_table(entries: dict[str, bytes], little: bool = False) -> bytes:
    """As a host builds it (GHCB specification)."""
    start = 24 * (len(entries) + 1)
    head, body = b"", b""
    for guid, content in entries.items():
        name = uuid.UUID(guid)
        head += (name.bytes_le if little else name.bytes) + struct.pack(
            "<II", start + len(body), len(content)
        )
        body += content
    return head + bytes(24) + body


class Gramine:
    """/dev/attestation inside of an enclave."""

    def __init__(self, kernel: FakeKernel, kind: bytes = b"dcap", key: bytes = bytes(range(16))) -> None:
        self.data = bytes(64)
        self.quotes = lambda: bytes(368) + self.data + bytes(4000)
        kernel.put("dev/attestation/attestation_type", kind)
        kernel.files["dev/attestation/user_report_data"] = lambda: GramineData(self)
        kernel.files["dev/attestation/quote"] = lambda: Bytes(self.quotes(), 333)
        kernel.put("dev/attestation/keys/_sgx_mrenclave", key, 5)


class GramineData(File):
    def __init__(self, gramine: Gramine) -> None:
        self.gramine = gramine

    def write(self, data: bytes) -> int:
        if len(data) != 64:
            raise error(errno.EINVAL)
        self.gramine.data = bytes(data)
        return len(data)


class NsmDevice(File):
    """/dev/nsm (drivers/misc/nsm.c): a request of at most 4 KiB, a response of at most 12 KiB."""

    def __init__(self, answer: Callable[[dict[str, object]], bytes] | None = None) -> None:
        self.answer = answer or self.attest
        self.claimed: int | None = None

    @staticmethod
    def attest(wanted: dict[str, object]) -> bytes:
        return cbor2.dumps({"Attestation": {"document": b"document over " + wanted["user_data"]}})  # type: ignore[operator]

    def ioctl(self, request: int, argument: bytearray) -> int:
        if request != 0xC0200A00:
            raise error(errno.EINVAL)
        sent, size, room, space = struct.unpack("<QQQQ", argument)
        if size > 0x1000:
            raise error(errno.EMSGSIZE)
        asked = cbor2.loads(ctypes.string_at(sent, size))
        found = self.answer(asked["Attestation"])
        assert len(found) <= space
        ctypes.memmove(room, found, len(found))
        argument[24:] = struct.pack("<Q", self.claimed if self.claimed is not None else len(found))
        return 0


class OpteeDevice(File):
    """/dev/tee0 (drivers/tee/tee_core.c) with the attestation pseudo TA behind it."""

    def __init__(self, kernel: FakeKernel, sign: Callable[[bytes], bytes], modulus: bytes) -> None:
        self.kernel, self.sign, self.modulus = kernel, sign, modulus
        self.implementation = 1
        self.refuses = 0
        self.sessions: set[int] = set()
        self.memory: mmap.mmap | None = None
        self.overstates = 0

    def ioctl(self, request: int, argument: bytearray) -> int:
        if request == 0x800CA400:
            argument[:] = struct.pack("<III", self.implementation, 1, 1)
            return 0
        if request == 0xC010A401:
            size, flags, _ = struct.unpack("<QIi", argument)
            assert flags == 0
            argument[:] = struct.pack("<QIi", size, 1, 7)
            self.memory = mmap.mmap(-1, size)
            return self.kernel.hold(SharedMemory(self.memory))
        if request == 0x8004A405:
            self.sessions.remove(int.from_bytes(argument, "little"))
            return 0
        where, size = struct.unpack("<QQ", argument)
        content = bytearray(ctypes.string_at(where, size))
        if request == 0x8010A402:
            assert content[:16] == uuid.UUID("39800861-182a-4720-9b67-2bcd622bc0b5").bytes
            content[40:48] = struct.pack("<II", 5, self.refuses)
            self.sessions.add(5)
        elif request == 0x8010A403:
            self._invoke(content)
        else:
            raise error(errno.ENOTTY)
        ctypes.memmove(where, bytes(content), size)
        return 0

    def _invoke(self, content: bytearray) -> None:
        command, session, _, _, _, count = struct.unpack_from("<IIIIII", content)
        assert session in self.sessions
        assert len(content) == 24 + 32 * count
        given = [struct.unpack_from("<QQQQ", content, 24 + 32 * each) for each in range(count)]
        assert self.memory is not None
        if command == 0:
            assert [each[0] for each in given] == [6, 6, 2]
            self._out(content, 0, b"\x01\x00\x01")
            self._out(content, 1, self.modulus)
            struct.pack_into("<Q", content, 24 + 64 + 8, 0x70414930)
        elif command == 3:
            assert [each[0] for each in given] == [5, 6]
            nonce = self.memory[given[0][1] : given[0][1] + given[0][2]]
            digest = b"\xd1" * 32
            self._out(content, 1, digest + self.sign(nonce + digest))

    def _out(self, content: bytearray, index: int, found: bytes) -> None:
        attribute, offset, room, shared = struct.unpack_from("<QQQQ", content, 24 + 32 * index)
        assert (attribute, shared) == (6, 7)
        assert len(found) <= room
        assert self.memory is not None
        self.memory[offset : offset + len(found)] = found
        size = self.overstates or len(found)
        struct.pack_into("<QQQQ", content, 24 + 32 * index, attribute, offset, size, shared)


class SharedMemory(File):
    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory

    def map(self, size: int) -> mmap.mmap:
        assert size == len(self.memory)
        return self.memory
