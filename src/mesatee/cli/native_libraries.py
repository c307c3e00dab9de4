"""Which native code may be in which process, and why (design, "Hybrid memory safety").

Gateway and worker supervisor are the trusted base: what they may map is listed here one by one, each with
its reason, and anything else is refused by `mesatee inventory` and by a test. Host and zygote are untrusted
or confined; there it is enough to know what a file is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

RoleName = Literal["gateway", "worker", "zygote", "wasm_zygote", "host"]
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)
TRUSTED: Final[frozenset[RoleName]] = frozenset({"gateway", "worker"})
"""Processes that hold keys or decide: only the lists below may be mapped there."""

Origin = Literal["interpreter", "stdlib", "package", "system", "kernel", "memory", "unknown"]
"""Where executable memory comes from; `memory` is code in no file, `unknown` a file of no known package."""

CONFINED: Final[Mapping[RoleName, str]] = MappingProxyType(
    {
        "gateway": "nowhere: a trusted process, so that only the listed libraries may be here",
        "worker": "nowhere: a trusted process, so that only the listed libraries may be here",
        "zygote": "the sandbox: holds no key and no network; each function runs in a fork of it under "
        "namespaces, Landlock, seccomp and limits",
        "wasm_zygote": "the sandbox: as the zygote; what compiles and runs WebAssembly modules is forked from it",
        "host": "outside of the trusted base: sees ciphertext and signed statements only; what it says is "
        "parsed again as hostile",
    }
)
"""Where native code of a process is confined."""


@dataclass(frozen=True, slots=True)
class Known:
    """One allowed library: its languages, and why it may be in a trusted process."""

    language: str
    reason: str


_INTERPRETER: Final = (
    "the interpreter itself: everything that decides is Python, so that it can be read and audited"
)
INTERPRETER: Final = Known("C", _INTERPRETER)

_PLUMBING: Final = (
    "part of the standard library that the interpreter's own modules import; works on values of ours"
)
_UNUSED: Final = (
    "mapped because asyncio or the standard library's modules import it; no received byte reaches it"
)
_SYSTEM: Final = "part of the interpreter's system interface"

STDLIB: Final[Mapping[str, Known]] = MappingProxyType(
    {
        name: Known("C", reason)
        for names, reason in (
            (
                "_asyncio _bisect _contextvars _datetime _decimal _heapq _opcode _queue _random _statistics "
                "_struct _typing _zoneinfo array math",
                _PLUMBING,
            ),
            ("_posixshmem _posixsubprocess _socket fcntl grp mmap resource select syslog termios", _SYSTEM),
            (
                "_json",
                "only writes: our canonical JSON is made with it. Received JSON is parsed by the Rust core",
            ),
            (
                "binascii",
                "base64 and hex of bounded, already checked strings; it has no nested format to get lost in",
            ),
            ("unicodedata", "look-ups in fixed tables, e.g. for invisible characters in a policy"),
            (
                "_blake2 _md5 _sha1 _sha2 _sha256 _sha3 _sha512",
                "hash functions over bytes: no format is parsed, input and output have fixed shapes",
            ),
            ("_hashlib", "SHA-256 of the system's OpenSSL by hashlib: hashing only, no format is parsed"),
            (
                "_ssl",
                f"{_UNUSED}: TLS is made by rustls in the Rust core",
            ),
            ("_bz2 _lzma zlib", f"{_UNUSED}: nothing that is received is ever decompressed here"),
            ("_csv", f"{_UNUSED}: it comes with importlib.metadata; tables are read in the sandbox only"),
            ("_multiprocessing _pickle", f"{_UNUSED}: nothing is ever unpickled"),
            ("_uuid", _UNUSED),
        )
        for name in names.split()
    }
)
"""Extension modules of the standard library, which CPython keeps as files of their own or builds in."""

PACKAGES: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "mesatee": Known(
            "Rust; C and assembly of AWS-LC inside",
            "our own core: memory-safe; primitives of AWS-LC work on inputs whose lengths Rust has checked",
        ),
        "cedarpy": Known("Rust", "evaluates Cedar policies; memory-safe"),
        "pydantic-core": Known("Rust", "validates wire models and statements; memory-safe"),
        "cbor2": Known("Rust", "CBOR of evidence, within bounds that are checked first; memory-safe"),
    }
)
"""Distributions whose native modules may be in a trusted process."""

SYSTEM: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "ld-linux-x86-64": Known("C, assembly", "the dynamic loader"),
        "ld-linux-aarch64": Known("C, assembly", "the dynamic loader"),
        "ld-musl-x86_64": Known("C, assembly", "the dynamic loader and the C library"),
        "ld-musl-aarch64": Known("C, assembly", "the dynamic loader and the C library"),
        "libc": Known(
            "C, assembly", "the C library, under the interpreter and under Rust's standard library"
        ),
        "libm": Known("C, assembly", "the C library's mathematics: numbers in, numbers out"),
        "libdl": Known("C", "an empty shell of the C library"),
        "libpthread": Known("C", "an empty shell of the C library"),
        "librt": Known("C", "an empty shell of the C library"),
        "libutil": Known("C", "an empty shell of the C library"),
        "libgcc_s": Known("C, assembly", "stack unwinding, which Rust's panics need"),
        "libcrypto": Known(
            "C, assembly",
            "OpenSSL under hashlib: SHA-256 over bytes. None of its parsers or keys is used, TLS is rustls's",
        ),
        "libssl": Known("C", f"under _ssl: {_UNUSED}"),
        "libz": Known("C", f"under zlib and the interpreter: {_UNUSED}"),
        "libbz2": Known("C", f"under _bz2: {_UNUSED}"),
        "liblzma": Known("C", f"under _lzma: {_UNUSED}"),
        "libuuid": Known("C", f"under _uuid: {_UNUSED}"),
    }
)
"""Libraries of the system, by name without version."""

KERNEL: Final = Known("C", "mapped by the kernel into every process: the clock without a system call")

LANGUAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "duckdb": "C++",
        "lightgbm": "C++",
        "numpy": "C, C++, assembly",
        "onnxruntime": "C++",
        "pandas": "C (Cython)",
        "pillow": "C",
        "polars-runtime-32": "Rust",
        "pyarrow": "C++",
        "scikit-image": "C, C++ (Cython)",
        "scikit-learn": "C, C++ (Cython)",
        "pydantic-monty": "Rust",
        "scipy": "C, C++, Fortran (Cython)",
        "wasmtime": "Rust",
        "xgboost-cpu": "C++",
        "libgfortran": "C, Fortran",
        "libgomp": "C",
        "libopenblas": "C, Fortran, assembly",
        "libscipy_openblas64_": "C, Fortran, assembly",
        "libscipy_openblas": "C, Fortran, assembly",
        "libsqlite3": "C",
        "libstdc++": "C++",
    }
)
"""Languages of what no trusted process may load, by distribution or library; else it is taken for C."""


def known(origin: Origin, name: str, package: str | None) -> Known | None:
    """The entry of the allow-list for trusted processes, or None."""
    match origin:
        case "interpreter":
            return INTERPRETER
        case "stdlib":
            return STDLIB.get(name)
        case "package":
            return PACKAGES.get(package or "")
        case "system":
            return SYSTEM.get(name)
        case "kernel":
            return KERNEL
    return None


def language(origin: Origin, name: str, package: str | None) -> str:
    """In which languages it is written, as far as is known; `unknown` for what no package owns."""
    found = known(origin, name, package)
    if found is not None:
        return found.language
    if origin in ("memory", "unknown"):
        return "unknown"
    return LANGUAGES.get(name) or LANGUAGES.get(package or "") or "C"


def judge(role: RoleName, origin: Origin, name: str, package: str | None) -> tuple[bool, str]:
    """Whether it may be mapped by a process of this role, and why or why not."""
    found = known(origin, name, package)
    if name == "[anonymous]" and origin == "memory" and role == "wasm_zygote":
        return True, "made by wasmtime, for its calls back into Python; modules run in the sandbox"
    if origin == "memory":
        return False, "executable memory that stands in no file: nobody can say what it is"
    if origin == "unknown":
        return False, "the file belongs to no installed package and is no library of the system"
    if role in TRUSTED:
        if found is None:
            return False, "not on the list of what a process that holds keys may load"
        return True, found.reason
    if role in ("zygote", "wasm_zygote"):
        return True, "for functions, in the sandbox; the zygote itself reads no foreign byte"
    return True, "the host is trusted with nothing"


__all__ = [
    "CONFINED",
    "INTERPRETER",
    "KERNEL",
    "LANGUAGES",
    "PACKAGES",
    "ROLES",
    "STDLIB",
    "SYSTEM",
    "TRUSTED",
    "Known",
    "Origin",
    "RoleName",
    "judge",
    "known",
    "language",
]
