"""The memory-safe Rust core. Keys are handles: no method returns a secret."""

from collections.abc import Callable, Sequence
from typing import Any

# -- custody and sealing (rust/custody, rust/sealing) ----------------------------------------------

class SecretKey:
    """A 32-byte key for AES-256-GCM."""

    @staticmethod
    def generate() -> SecretKey: ...
    @staticmethod
    def adopt(secret: bytearray) -> SecretKey:
        """The key of these 32 bytes, which are overwritten with zeros. Raises `Malformed` for another length."""
    @staticmethod
    def load(path: str) -> SecretKey:
        """Read a key file of mode 0600. Raises `NotFound`, `KeyRefused` (readable by others) or `Malformed`."""
    def save(self, path: str) -> None:
        """Create a key file of mode 0600. Raises `Conflict` if it exists."""
    def derive(self, label: str) -> SecretKey:
        """HKDF-SHA256 with `label` as info."""
    def derive_bytes(self, label: str) -> bytes:
        """32 bytes that follow from key and label, and are no key that `derive` gives."""
    @staticmethod
    def import_sealed(sealed: bytes, by: SecretKey, context: bytes) -> SecretKey: ...
    def export_sealed(self, by: SecretKey, context: bytes) -> bytes: ...
    def wrap_to(self, to: bytes, info: bytes, aad: bytes) -> bytes:
        """See `HpkeKey.wrap_to`."""
    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """version byte || 12-byte random nonce || ciphertext || 16-byte tag."""
    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Raises `SealedDataCorrupt`."""

class SigningKey:
    """An Ed25519 private key."""

    @staticmethod
    def generate() -> SigningKey: ...
    @staticmethod
    def load(path: str) -> SigningKey: ...
    def save(self, path: str) -> None: ...
    @staticmethod
    def import_sealed(sealed: bytes, by: SecretKey, context: bytes) -> SigningKey: ...
    def export_sealed(self, by: SecretKey, context: bytes) -> bytes: ...
    def wrap_to(self, to: bytes, info: bytes, aad: bytes) -> bytes:
        """See `HpkeKey.wrap_to`."""
    @property
    def public(self) -> bytes:
        """32 bytes."""
    def sign(self, message: bytes) -> bytes:
        """64 bytes."""

def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises `SignatureInvalid`; `Malformed` when a length is wrong."""

class HpkeKey:
    """An X-Wing private key."""

    @staticmethod
    def generate() -> HpkeKey: ...
    @staticmethod
    def load(path: str) -> HpkeKey: ...
    def save(self, path: str) -> None: ...
    @staticmethod
    def import_sealed(sealed: bytes, by: SecretKey, context: bytes) -> HpkeKey: ...
    def export_sealed(self, by: SecretKey, context: bytes) -> bytes: ...
    @property
    def public(self) -> bytes:
        """1216 bytes."""
    def unwrap_file_key(self, wrap: bytes, info: bytes, aad: bytes) -> FileKey:
        """Raises `KeyRefused` when the wrap was not made for this key, info and aad."""
    def unwrap_bytes(self, wrap: bytes, info: bytes, aad: bytes) -> bytes: ...
    def wrap_to(self, to: bytes, info: bytes, aad: bytes) -> bytes:
        """This private key itself, wrapped to another enclave's public key: 1168 bytes, bound to its kind."""
    def unwrap_signing_key(self, wrap: bytes, info: bytes, aad: bytes) -> SigningKey:
        """Raises `KeyRefused` when the wrap was not made for this key, kind, info and aad, or `Malformed`."""
    def unwrap_hpke_key(self, wrap: bytes, info: bytes, aad: bytes) -> HpkeKey:
        """Raises as `unwrap_signing_key`."""
    def unwrap_secret_key(self, wrap: bytes, info: bytes, aad: bytes) -> SecretKey:
        """Raises as `unwrap_signing_key`."""

def hpke_wrap_bytes(to: bytes, plaintext: bytes, info: bytes, aad: bytes) -> bytes: ...

class FileKey:
    """The file key of one age file."""

    def wrap(self, to: bytes, info: bytes, aad: bytes) -> bytes:
        """HPKE wrap to a public key of 1216 bytes: enc (1120 bytes) || ciphertext."""

class AgeKey:
    """An age X25519 identity."""

    @staticmethod
    def generate() -> AgeKey: ...
    @staticmethod
    def load(path: str) -> AgeKey:
        """A file that the `age` tool reads too (AGE-SECRET-KEY-1...)."""
    def save(self, path: str) -> None: ...
    @property
    def recipient(self) -> str:
        """``age1...``"""

class Sealed:
    """What `age_seal` made."""

    @property
    def file_key(self) -> FileKey: ...
    @property
    def digest(self) -> str:
        """SHA-256 of the sealed bytes, hex."""
    @property
    def size(self) -> int: ...
    @property
    def plain_size(self) -> int: ...

def age_seal(
    source: int, target: int, recipients: Sequence[str], progress: Callable[[int], None] | None = None
) -> Sealed:
    """Seal everything read from file descriptor `source` into `target` (both stay open).

    With no recipients the header has one unknown stanza, so that only a holder of the file key can open it.
    """

def age_open(source: int | bytes, target: int, key: FileKey | AgeKey, limit: int) -> int:
    """Stream and open `source` (a pipe will do, or the bytes themselves) into `target`; returns the plaintext's size.

    Raises `SealedDataCorrupt` (altered, cut, wrong key), `TooLarge` (over `limit` bytes), `Malformed` (not age v1).
    """

def age_file_key(source: int, key: AgeKey) -> FileKey:
    """The file key of one's own sealed file. Reads only the header."""

class AgeReader:
    """Random access to a sealed file by 64 KiB chunk."""

    def __init__(self, source: int, key: FileKey | AgeKey) -> None: ...
    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, length: int) -> bytes: ...

def protect_process() -> list[str]:
    """Not dumpable, no core file, memory locked where allowed. Returns the measures that are active."""

# -- strict JSON (rust/strictjson) -------------------------------------------------------------------

def parse_json(data: bytes, max_bytes: int, max_depth: int, *, foreign: bool = False) -> Any:
    """Parse RFC 8259 JSON strictly: UTF-8 only, no duplicate keys, no trailing bytes, no NaN, integers within i64 (or
    u64, in a foreign text), depth and size bounded.

    Raises `Malformed` or `TooLarge`.
    """

def write_json(value: object, max_depth: int) -> bytes:
    """The one text of a value: keys sorted by code point, no white space, UTF-8.

    Raises `Malformed` for what has no such text, and `TooLarge` beyond `max_depth` levels.
    """

# -- channel (rust/channel) --------------------------------------------------------------------------

class PeerCertificate:
    """What a peer presented, parsed in Rust; its signature over itself is checked."""

    @property
    def der(self) -> bytes: ...
    @property
    def spki(self) -> bytes:
        """DER of the SubjectPublicKeyInfo."""
    @property
    def public(self) -> bytes:
        """The raw Ed25519 key, 32 bytes."""
    @property
    def evidence(self) -> bytes | None:
        """The value of extension 2.23.133.5.4.9, if present."""
    @property
    def not_before(self) -> int: ...
    @property
    def not_after(self) -> int: ...

def parse_certificate(der: bytes) -> PeerCertificate:
    """Raises `Malformed`, `TooLarge`, `SignatureInvalid` or `UnsupportedVersion` (not an Ed25519 certificate)."""

def make_certificate(
    key: SigningKey, common_name: str, not_before: int, not_after: int, evidence: bytes | None
) -> bytes:
    """A self-signed X.509 v3 certificate in DER."""

def spki(public: bytes) -> bytes:
    """DER SubjectPublicKeyInfo of an Ed25519 key."""

class Connection:
    """A verified connection."""

    @property
    def peer(self) -> PeerCertificate: ...
    @property
    def appraisal(self) -> Any:
        """What `appraise` returned for this peer."""
    @property
    def exporter(self) -> bytes:
        """32 bytes of channel binding, equal on both ends."""
    @property
    def address(self) -> str: ...
    def detach(self) -> int:
        """The plaintext end of the socketpair, as a file descriptor that the caller now owns. Once only."""
    def close(self) -> None: ...

class Listener:
    """The only listening socket. Handshakes run on Rust threads."""

    def __init__(
        self,
        host: str,
        port: int,
        certificate: bytes,
        key: SigningKey,
        appraise: Callable[[PeerCertificate], Any],
        refused: Callable[[str, str], None] | None = None,
        max_connections: int = 1024,
        handshake_seconds: float = 10.0,
    ) -> None:
        """`refused(address, reason)` is told of each failed handshake. Port 0 picks one."""
    @property
    def port(self) -> int: ...
    def accept(self, timeout: float | None = None) -> Connection | None:
        """The next verified connection; None on time-out. Raises `Unavailable` once closed."""
    def close(self) -> None: ...

def connect(
    host: str,
    port: int,
    certificate: bytes,
    key: SigningKey,
    appraise: Callable[[PeerCertificate], Any],
    timeout: float = 10.0,
) -> Connection:
    """Raises what `appraise` raised, or `EvidenceRefused` (the peer refused us or broke the handshake), `HostFailed`
    (no connection), `TimedOut`.
    """

# -- merkle (rust/merkle) ----------------------------------------------------------------------------

def merkle_leaves(entries: Sequence[bytes]) -> bytes:
    """The leaf hashes of all entries, one after the other (RFC 6962, section 2.1)."""

def merkle_nodes(pairs: bytes) -> bytes:
    """The hashes of the nodes above neighbours. Raises `Malformed` unless `pairs` are whole pairs of 64 bytes."""

def first_altered_body(entries: Sequence[bytes], bodies: Sequence[bytes]) -> int | None:
    """Place of the first body that does not have the SHA-256 with which its entry ends, or that has no entry."""

# -- trees (rust/trees) ----------------------------------------------------------------------------------

class TreeModel:
    """A tree ensemble that is ready to predict."""

    def __new__(cls, data: bytes) -> TreeModel:
        """Reads a model of XGBoost (JSON or UBJ), LightGBM (text), or JSON of the kind `trees`.

        Raises `Malformed` for what is none or is broken, and `TooLarge` for what is over a limit of rust/trees.
        """

    @property
    def kind(self) -> str:
        """Of which library and version it is."""

    @property
    def names(self) -> list[str]:
        """The features' names; empty if the model has none."""

    @property
    def classes(self) -> list[str]:
        """The classes' names; empty if the model has none."""

    @property
    def features(self) -> int: ...
    @property
    def outputs(self) -> int:
        """Sums for each row: classes, or targets."""

    @property
    def trees(self) -> int: ...
    @property
    def single_values(self) -> bool:
        """Whether values are rounded to float32 before they are compared."""

    @property
    def single_sums(self) -> bool:
        """Whether sums are float32, and not float64."""

    def predict(
        self,
        columns: Sequence[Any],
        rows: int,
        *,
        output: str = "response",
        oblivious: bool = False,
        threads: int = 1,
        portable: bool = False,
    ) -> bytes:
        """Predictions as float64, row by row: `outputs` numbers for each, or one for ``class``.

        Each column has `rows` numbers of float32 or float64, NaN where there is none. `output` is ``margin``: the
        sums, ``response``: what the objective makes of them, or ``class``. `portable` is for tests: it does without
        AVX-512. Raises `Malformed` for columns that do not fit.
        """

# -- oblivious (rust/oblivious) ------------------------------------------------------------------------

class KeyRows:
    """Keys of several columns as rows of words: what is done with them shows their number and width only."""

    def __new__(cls, columns: Sequence[bytes | tuple[bytes, bytes, int]], valid: bytes) -> KeyRows:
        """A column is little-endian integers of 64 bits, or text: its bytes, 64-bit offsets (one more than rows), and
        how many words of 8 bytes a value may fill. `valid` has a byte for each row: 1, or 0 where a value is missing.

        Raises `Malformed` for columns that do not fit each other, or rows of over 32 words (a text's
        length takes one).
        """

    def __len__(self) -> int: ...
    def marked(self, marks: bytes, *, threads: int = 1, portable: bool = False) -> KeyRows:
        """The rows whose mark is 1, in their order. Raises `Malformed`."""

    def sorted(self, *, threads: int = 1, portable: bool = False) -> KeyRows:
        """The rows in ascending order of their values; text by its bytes."""

    def columns(self) -> list[bytes | tuple[bytes, bytes]]:
        """The columns as they were given, without the numbers of words."""

def oblivious_match(
    parties: Sequence[KeyRows], *, only_first: bool = False, threads: int = 1, portable: bool = False
) -> tuple[list[bytes], bytes, list[int], int, int]:
    """Which rows have a key that all parties have, or with `only_first` that none but the first has.

    Returns for each party a byte for each row, 1 where it is one; the same for the first party with only the first row
    of each key; how many different keys each party has; how many different keys are wanted; how many anybody has.

    Raises `Malformed` for parties whose keys differ in width, and for more than 32.
    """

def oblivious_sets(
    parties: Sequence[KeyRows],
    *,
    only_first: bool = False,
    listed: bool = True,
    threads: int = 1,
    portable: bool = False,
) -> tuple[KeyRows | None, list[int], int, int]:
    """The keys that all parties have, or with `only_first` that none but the first has.

    Returns them in ascending order, each once, or None unless `listed`; how many different keys each party has; how
    many different keys are wanted; how many anybody has. Takes less time than `oblivious_match` and what follows it.

    Raises `Malformed` for parties whose keys differ in shape, and for more than 32.
    """

class KeySpill:
    """Sets of keys that are matched in sealed pages of a file, with memory for eight of them."""

    def __new__(
        cls,
        fd: int,
        like: KeyRows,
        *,
        hold_bytes: int,
        file_bytes: int,
        threads: int = 1,
        portable: bool = False,
    ) -> KeySpill:
        """For keys of the shape of `like`. The descriptor stays the caller's. At most `hold_bytes` of memory are held,
        and `file_bytes` written.

        Raises `Malformed` for keys of over four words of 8 bytes, and for less memory than the smallest pages take.
        """

    def add(self, party: int, rows: KeyRows) -> None:
        """Take in rows of a party, numbered from 0. Raises `Malformed` for keys of another shape, `Unavailable`."""

    def combine(
        self, parties: int, *, only_first: bool = False, listed: bool = True
    ) -> tuple[list[int], int, int]:
        """As `oblivious_sets`, once. Raises `SealedDataCorrupt` if a page is not what was written, `Unavailable`."""

    def take(self) -> KeyRows | None:
        """The next wanted keys in ascending order; None at the end. Raises as `combine` does."""

# -- evidence (rust/evidence) ------------------------------------------------------------------------

def verify_signature(algorithm: str, spki: bytes, signature: bytes, message: bytes) -> None:
    """Check `signature` over `message` by the key in `spki`, a DER SubjectPublicKeyInfo.

    Algorithms: "ecdsa-CURVE-HASH" with the curves p256, p384, p521 and the hashes sha256, sha384, sha512, where the
    signature is r || s, each as long as the curve's field; the same with "-der", where it is ASN.1; "ecdsa-HASH" and
    "ecdsa-HASH-der" on whichever of these curves the key has; "rsa-pkcs1-HASH", also with sha1; "rsa-pss-HASH" with a
    salt as long as the hash; "ed25519"; "ed25519-sha3-512" (Keystone's, RFC 8032 with another hash).

    Raises `SignatureInvalid` (also when the key is of another kind), `UnsupportedVersion` (another algorithm or
    curve, RSA of fewer than 2048 or more than 8192 bits), `Malformed` or `TooLarge`.
    """

def verify_lasting_signature(algorithm: str, spki: bytes, signature: bytes, message: bytes) -> None:
    """As `verify_signature`, for signatures that come again and again: those of certificates, of revocation lists and
    of collateral. That one held is remembered by the SHA-256 of all four inputs, up to `limits.SIGNATURES_CACHED`.
    """

def forget_signatures() -> None:
    """Verify all lasting signatures anew from now on."""

def spki_from_point(curve: str, point: bytes) -> bytes:
    """DER SubjectPublicKeyInfo of `04 || x || y` or `x || y` on "p256", "p384" or "p521".

    Raises `Malformed` when the point is not on the curve, `UnsupportedVersion` for another curve.
    """

def spki_from_rsa(modulus: bytes, exponent: bytes) -> bytes:
    """DER SubjectPublicKeyInfo of an RSA key, from big-endian numbers. Raises `Malformed` or `TooLarge`."""

def pem_certificates(text: bytes) -> list[bytes]:
    """DER of each CERTIFICATE block of a PEM text, in order; empty when there is none.

    Raises `Malformed`; `TooLarge` over `PEM_BYTES` or `CHAIN_CERTIFICATES`.
    """

class X509:
    """A certificate that was read, and believed in nothing."""

    @staticmethod
    def parse(der: bytes, lenient: bool = False) -> X509:
        """Raises `Malformed` or `TooLarge`; algorithms that we cannot verify are read and refused when used.

        `lenient` accepts negative serial numbers, wrong parameters of algorithms, unusable keys, and unreadable basic
        constraints or key usage (which then allow nothing): certificates that enclaves make for themselves have such.
        """
    @property
    def der(self) -> bytes: ...
    @property
    def tbs(self) -> bytes:
        """The signed part, DER."""
    @property
    def signature(self) -> bytes: ...
    @property
    def signature_algorithm(self) -> str:
        """A name for `verify_signature` ("ecdsa-sha256-der": the curve is the issuer's), or "oid:1.2.3"."""
    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo."""
    @property
    def subject(self) -> str:
        """RFC 4514: the most specific part first, special characters escaped."""
    @property
    def issuer(self) -> str: ...
    @property
    def subject_der(self) -> bytes: ...
    @property
    def issuer_der(self) -> bytes: ...
    @property
    def serial(self) -> bytes:
        """The shortest big-endian two's complement: `int.from_bytes(serial, "big", signed=True)`."""
    @property
    def not_before(self) -> int:
        """Unix time of the first valid second."""
    @property
    def not_after(self) -> int:
        """Unix time of the last valid second."""
    @property
    def is_ca(self) -> bool | None:
        """The CA flag; None without basic constraints."""
    @property
    def path_length(self) -> int | None: ...
    @property
    def key_usage(self) -> int | None:
        """Bits of RFC 5280, section 4.2.1.3 (1 << 5 signs certificates, 1 << 6 signs CRLs); None without it."""
    @property
    def extensions(self) -> dict[str, tuple[bool, bytes]]:
        """Object identifier -> (critical, value)."""

class X509Crl:
    """A certificate revocation list that was read, and believed in nothing."""

    @staticmethod
    def parse(der: bytes) -> X509Crl:
        """Raises `Malformed`, `TooLarge`, or `UnsupportedVersion` for lists about other CAs' certificates."""
    @property
    def issuer(self) -> str: ...
    @property
    def issuer_der(self) -> bytes: ...
    @property
    def this_update(self) -> int:
        """Unix time."""
    @property
    def next_update(self) -> int | None: ...
    def revokes(self, serial: bytes) -> bool:
        """Whether `serial`, in the form of `X509.serial`, is in `revoked`."""
    @property
    def revoked(self) -> frozenset[bytes]:
        """Serial numbers in the form of `X509.serial`."""
    @property
    def extensions(self) -> dict[str, tuple[bool, bytes]]: ...
    @property
    def tbs(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...
    @property
    def signature_algorithm(self) -> str: ...

# -- sandbox (rust/sandbox) --------------------------------------------------------------------------

def sandbox_layers() -> dict[str, str]:
    """What this kernel offers: layer -> "yes" or the reason why not."""

def enter_namespaces(read_paths: Sequence[str], late: str) -> tuple[list[str], int | None]:
    """Unshare user, mount, pid, network, IPC and UTS namespaces where they work; enter a root of `read_paths` only.

    Returns the layers that are active, and with a private root the descriptor by which the empty file `late` in it is
    filled; by its path nobody can write it. Root becomes nobody when everybody may read `read_paths`. The caller has
    one thread and forks next. Raises `SandboxFailed` if it is left between two states.
    """

def prepare_sandbox(read_paths: Sequence[str], keep_fds: Sequence[int]) -> list[str]:
    """Lock the calling process in as far as it can be done before its job is known: close other fds, no capabilities,
    not dumpable, no_new_privs, Landlock; compile the seccomp filters.

    Returns the active layers; one that the kernel lacks is missing. Raises `SandboxFailed`.
    """

def narrow_sandbox(read_paths: Sequence[str]) -> None:
    """Leave of what `prepare_sandbox` made readable only these, for good; without Landlock nothing happens.

    Comes before `enter_sandbox`. Raises `SandboxFailed`.
    """

def enter_sandbox(
    address_space: int,
    compiled: int | None,
    cpu_seconds: int,
    file_bytes: int,
    threads: int,
    keep_fds: Sequence[int],
) -> list[str]:
    """Lock the calling process in for good: close other fds, rlimits, seccomp. `prepare_sandbox` comes first.

    Sizes in bytes. With `compiled` it may make memory executable that is no mapped file, and reserve that much address
    space without using it. At `cpu_seconds` the process ends with code 128 + SIGXCPU; when it took that signal for
    itself, it is killed a second later. Returns the layers that this adds; raises `SandboxFailed` if one cannot be had.
    """

def prepare_zygote() -> None:
    """No core file, not dumpable, no new privileges; orphans of children become ours. Raises `SandboxFailed`."""

def collapse_memory(maps: int | None = None) -> int:
    """Ask the kernel for large pages in place of what this process has written: it is forked faster, and finds its
    memory faster.

    `maps` is its file of that name in ``/proc``, where that is out of reach by now. Returns how many were made, 0
    before Linux 6.1. Contents stay as they are.
    """

def memfd(name: str) -> int: ...
def memfd_seal(fd: int) -> None:
    """Forbid writing, growing and shrinking for good."""

class Share:
    """One holder's share of a key, by handle."""

    @staticmethod
    def open(sealed: bytes, key: AgeKey) -> Share:
        """Open the age file of a share. Raises `KeyRefused`, `Malformed`, `TooLarge` or `SealedDataCorrupt`."""
    @staticmethod
    def unwrap(by: HpkeKey, wrap: bytes, info: bytes, aad: bytes) -> Share:
        """Raises `KeyRefused` or `Malformed`."""
    def wrap(self, to: bytes, info: bytes, aad: bytes) -> bytes:
        """HPKE wrap to the enclave that recovers."""
    @property
    def index(self) -> int:
        """From 1."""
    @property
    def context(self) -> bytes:
        """Which set it belongs to, 32 bytes."""
    @property
    def commitment(self) -> bytes:
        """SHA-256 of the share's record."""

def split_key(
    key: SecretKey, k: int, recipients: list[str], context: bytes
) -> list[tuple[int, bytes, bytes]]:
    """Shamir's k-of-n shares over GF(256), one per age recipient: index, commitment, age file.

    Raises `Malformed` (k below 2 or above n, a recipient twice) or `TooLarge`.
    """

def combine_shares(k: int, shares: list[Share]) -> SecretKey:
    """Raises `KeyRefused` for too few shares, one given twice, or shares of different sets."""

# -- crypto (rust/crypto) ------------------------------------------------------------------------------

def rsa_signature(algorithm: str, key: bytes, message: bytes) -> bytes:
    """Sign `message` by the RSA private key in `key`: one PEM block or DER, PKCS#8 or PKCS#1, 2048 to 8192 bits.

    Algorithms: "pkcs1-HASH", "pss-HASH" (random salt as long as the hash) with sha256, sha384 or sha512. As long as
    the modulus. Raises `Malformed` (no such key or algorithm, a key under a password) or `TooLarge`.
    """

def aead_open(cipher: str, key: bytes, nonce: bytes, aad: bytes, sealed: bytes) -> bytes:
    """Open ciphertext with its tag of 16 bytes: "aes-128-gcm", "aes-256-gcm" or "chacha20-poly1305"; nonce of 12 bytes.

    Raises `Malformed`: wrong lengths, no such cipher, or altered, or another key, nonce or associated data.
    """
