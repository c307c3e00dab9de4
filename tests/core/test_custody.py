"""Keys by handle and key files (`rust/custody`)."""

import base64
import copy
import os
import pickle
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from mesatee import _core
from mesatee.errors import (
    Conflict,
    InputError,
    KeyRefused,
    Malformed,
    NotFound,
    SealedDataCorrupt,
    SignatureInvalid,
)
from mesatee.protocol import limits

KINDS: list[Any] = [_core.SecretKey, _core.SigningKey, _core.HpkeKey, _core.AgeKey]


def secret_of(path: Path) -> str:
    """The last line of a key file: the secret in text."""
    return path.read_text().splitlines()[-1]


def raw_secret(path: Path) -> bytes:
    return base64.b64decode(secret_of(path), validate=True)


def write_key(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def handles(tmp_path: Path) -> list[Any]:
    source, target = os.memfd_create("s"), os.memfd_create("t")
    sealed = _core.age_seal(source, target, [])
    reader = _core.AgeReader(target, sealed.file_key)
    os.close(source)
    os.close(target)
    return [kind.generate() for kind in KINDS] + [sealed, sealed.file_key, reader]


# -- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_comes_back_from_its_file(kind: Any, tmp_path: Path) -> None:
    path, again = tmp_path / "key", tmp_path / "again"
    old = os.umask(0)
    try:
        key = kind.generate()
        key.save(str(path))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = kind.load(str(path))
    loaded.save(str(again))
    assert again.read_bytes() == path.read_bytes()
    for public in ("public", "recipient"):
        assert getattr(loaded, public, None) == getattr(key, public, None)
    assert path.stat().st_size <= limits.KEY_FILE_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_save_never_overwrites(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("kept")
    with pytest.raises(Conflict):
        kind.generate().save(str(path))
    assert path.read_text() == "kept"
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        kind.generate().save(str(dangling))
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(NotFound):
        kind.generate().save(str(tmp_path / "no" / "key"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o620, 0o602])
def test_files_that_others_may_touch_are_refused(kind: Any, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    kind.generate().save(str(path))
    path.chmod(mode)
    with pytest.raises(KeyRefused, match="chmod 600"):
        kind.load(str(path))
    path.chmod(0o400)
    kind.load(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(kind: Any, tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "key", tmp_path / "link", tmp_path / "pipe"
    kind.generate().save(str(path))
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    for wrong in (link, pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(KeyRefused):
            kind.load(str(wrong))
    for missing in (tmp_path / "missing", path / "below"):
        with pytest.raises(NotFound):
            kind.load(str(missing))


def test_size_one_above_and_one_below(tmp_path: Path) -> None:
    path = tmp_path / "key"
    _core.AgeKey.generate().save(str(path))
    text = path.read_bytes()
    fits = b"#" * (limits.KEY_FILE_BYTES - len(text) - 1) + b"\n" + text
    _core.AgeKey.load(str(write_key(path, fits)))
    with pytest.raises(Malformed, match="longer"):
        _core.AgeKey.load(str(write_key(path, b"#" + fits)))


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_malformed(kind: Any, tmp_path: Path) -> None:
    for index, other in enumerate(KINDS):
        if other is not kind:
            path = tmp_path / f"key{index}"
            other.generate().save(str(path))
            with pytest.raises(Malformed):
                kind.load(str(path))


@pytest.mark.parametrize("kind", [_core.SigningKey, _core.HpkeKey])
def test_public_part_and_secret_must_fit(kind: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    kind.generate().save(str(one))
    kind.generate().save(str(two))
    head, public, _ = one.read_text().splitlines()
    for text in (f"{head}\n{public}\n{secret_of(two)}\n", f"{head}\n{secret_of(one)}\n"):
        with pytest.raises(Malformed, match="differ"):
            kind.load(str(write_key(one, text)))


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_mutated_files_raise_input_errors_without_the_secret(
    kind: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("keys") / "key"
    kind.generate().save(str(path))
    secret, text = secret_of(path), bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        shown = repr(kind.load(str(write_key(path, bytes(text)))))
    except InputError as error:
        shown = f"{error} {error!r} {error.as_dict()} {error.__cause__} {error.__context__}"
    assert not any(secret[i : i + 10] in shown for i in range(16, len(secret) - 10))


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    program = """if True:
        import resource, sys
        from mesatee import _core, errors
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            _core.SecretKey.generate().save(sys.argv[1])
        except errors.HostFailed:
            sys.exit(7)
    """
    path = tmp_path / "key"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 7
    assert not path.exists()
    with pytest.raises(InputError):
        _core.SecretKey.load("nul\0byte")


def test_age_files_are_those_of_the_age_tools(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = _core.AgeKey.generate()
    key.save(str(path))
    comment, secret = path.read_text().splitlines()
    assert comment == f"# public key: {key.recipient}"
    theirs = pyrage.x25519.Identity.from_str(secret)
    assert str(theirs.to_public()) == key.recipient
    other = pyrage.x25519.Identity.generate()
    keygen = f"# created: 2026-01-01T00:00:00Z\n# public key: {other.to_public()}\n{other}\n"
    assert _core.AgeKey.load(str(write_key(path, keygen))).recipient == str(other.to_public())
    assert _core.AgeKey.load(str(write_key(path, f"\r\n{other}\r\n\n"))).recipient == str(other.to_public())
    for bad in (
        "",
        "# only a comment\n",
        f"{other}\n{other}\n",
        f" {other}\n",
        f"{other}x\n",
        str(other)[:-1],
    ):
        with pytest.raises(Malformed):
            _core.AgeKey.load(str(write_key(path, bad)))


# -- handles ----------------------------------------------------------------------------------------


def test_handles_cannot_be_copied_or_pickled(tmp_path: Path) -> None:
    attempts: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle.dumps]
    attempts += [
        lambda handle, p=p: pickle.dumps(handle, protocol=p) for p in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for handle in handles(tmp_path):
        for attempt in attempts:
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                attempt(handle)
        with pytest.raises(TypeError):
            handle.__reduce__()
        with pytest.raises(TypeError):
            type("Sub", (type(handle),), {})
        with pytest.raises(AttributeError):
            handle.anything = 1


def test_handles_show_public_parts_only(tmp_path: Path) -> None:
    shown = [repr(handle) for handle in handles(tmp_path)]
    patterns = [
        r"<SecretKey>",
        r"<SigningKey public [0-9a-f]{16}\.\.\.>",
        r"<HpkeKey public [0-9a-f]{16}\.\.\.>",
        r"<AgeKey age1[a-z0-9]{58}>",
        r"<Sealed [0-9a-f]{64} of \d+ bytes>",
        r"<FileKey>",
        r"<AgeReader of 0 bytes>",
    ]
    for text, pattern in zip(shown, patterns, strict=True):
        assert re.fullmatch(pattern, text), text
    signing = _core.SigningKey.generate()
    assert signing.public.hex()[:16] in repr(signing)


def test_derived_bytes_are_no_derived_key(tmp_path: Path) -> None:
    """They are for somebody else, who must not get a key of ours by asking for its label."""
    key = _core.SecretKey.generate()
    sealed = key.derive("label").seal(b"secret", b"")
    given = key.derive_bytes("label")
    assert given == key.derive_bytes("label") != key.derive_bytes("other")
    assert len(given) == 32
    with pytest.raises(SealedDataCorrupt):
        _core.SecretKey.adopt(bytearray(given)).open(sealed, b"")


def test_handles_have_no_method_that_gives_the_secret() -> None:
    """A new public name needs a look: the list is the whole surface."""
    surface = {
        cls.__name__: sorted(name for name in vars(cls) if not name.startswith("_"))
        for cls in [*KINDS, _core.FileKey]
    }
    assert surface == {
        "SecretKey": [
            "adopt",
            "derive",
            "derive_bytes",
            "export_sealed",
            "generate",
            "import_sealed",
            "load",
            "open",
            "save",
            "seal",
            "wrap_to",
        ],
        "SigningKey": [
            "export_sealed",
            "generate",
            "import_sealed",
            "load",
            "public",
            "save",
            "sign",
            "wrap_to",
        ],
        "HpkeKey": [
            "export_sealed",
            "generate",
            "import_sealed",
            "load",
            "public",
            "save",
            "unwrap_bytes",
            "unwrap_file_key",
            "unwrap_hpke_key",
            "unwrap_secret_key",
            "unwrap_signing_key",
            "wrap_to",
        ],
        "AgeKey": ["generate", "load", "recipient", "save"],
        "FileKey": ["wrap"],
    }


def test_a_forked_child_has_no_keys() -> None:
    key = _core.SecretKey.generate()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            key.seal(b"", b"")
        except BaseException as error:
            os._exit(7 if type(error).__name__ == "PanicException" else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    key.seal(b"", b"")


# -- SecretKey --------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_records_are_aes_256_gcm(plaintext: bytes, aad: bytes) -> None:
    sealed = SECRET.seal(plaintext, aad)
    assert len(sealed) == 29 + len(plaintext)
    assert sealed[0] == 1
    assert SECRET.open(sealed, aad) == plaintext
    assert AESGCM(SECRET_RAW).decrypt(sealed[1:13], sealed[13:], aad) == plaintext
    theirs = b"\x01" + b"n" * 12 + AESGCM(SECRET_RAW).encrypt(b"n" * 12, plaintext, aad)
    assert SECRET.open(theirs, aad) == plaintext


@given(st.binary(max_size=40), st.data())
def test_altered_records_do_not_open(plaintext: bytes, data: st.DataObject) -> None:
    sealed = bytearray(SECRET.seal(plaintext, b"aad"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    bad = bytes(sealed[:at] + bytes([sealed[at] ^ data.draw(st.integers(1, 255))]) + sealed[at + 1 :])
    for wrong in (bad, bytes(sealed[:at]), bytes(sealed) + b"\0"):
        with pytest.raises(SealedDataCorrupt):
            SECRET.open(wrong, b"aad")
    with pytest.raises(SealedDataCorrupt):
        SECRET.open(bytes(sealed), b"aae")
    with pytest.raises(SealedDataCorrupt):
        _core.SecretKey.generate().open(bytes(sealed), b"aad")


def test_nonces_differ() -> None:
    assert len({SECRET.seal(b"", b"")[1:13] for _ in range(256)}) == 256


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_derived_keys_are_hkdf_sha256(label: str) -> None:
    expected = HKDF(SHA256(), 32, salt=None, info=label.encode()).derive(SECRET_RAW)
    sealed = SECRET.derive(label).seal(b"x", b"")
    assert AESGCM(expected).decrypt(sealed[1:13], sealed[13:], b"") == b"x"
    with pytest.raises(InvalidTag):
        AESGCM(SECRET_RAW).decrypt(sealed[1:13], sealed[13:], b"")


# -- SigningKey -------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_signatures_are_ed25519(message: bytes) -> None:
    signature = SIGNING.sign(message)
    assert Ed25519PrivateKey.from_private_bytes(SIGNING_RAW).sign(message) == signature
    Ed25519PublicKey.from_public_bytes(SIGNING.public).verify(signature, message)
    _core.verify_ed25519(SIGNING.public, signature, message)
    with pytest.raises(SignatureInvalid):
        _core.verify_ed25519(SIGNING.public, signature, message + b"x")


def test_wrong_lengths_are_malformed() -> None:
    for public, signature in (
        (b"", b"s" * 64),
        (b"p" * 31, b"s" * 64),
        (b"p" * 32, b"s" * 63),
        (b"p" * 33, b""),
    ):
        with pytest.raises(Malformed):
            _core.verify_ed25519(public, signature, b"")


@pytest.mark.parametrize("kind", [_core.SigningKey, _core.HpkeKey])
def test_exported_keys_are_bound_to_kind_key_and_context(kind: Any) -> None:
    key, by = kind.generate(), _core.SecretKey.generate()
    sealed = key.export_sealed(by, b"epoch 1")
    assert kind.import_sealed(sealed, by, b"epoch 1").public == key.public
    other = _core.HpkeKey if kind is _core.SigningKey else _core.SigningKey
    for wrong in (
        lambda: kind.import_sealed(sealed, by, b"epoch 2"),
        lambda: kind.import_sealed(sealed, _core.SecretKey.generate(), b"epoch 1"),
        lambda: kind.import_sealed(sealed[:-1], by, b"epoch 1"),
        lambda: kind.import_sealed(by.seal(b"x" * 32, b"epoch 1"), by, b"epoch 1"),
        lambda: other.import_sealed(sealed, by, b"epoch 1"),
        lambda: by.open(sealed, b"epoch 1"),
    ):
        with pytest.raises(SealedDataCorrupt):
            wrong()


def _with_raw(kind: Any, folder: Path) -> tuple[Any, bytes]:
    path = folder / kind.__name__
    key = kind.generate()
    key.save(str(path))
    return key, raw_secret(path)


@pytest.fixture(scope="module", autouse=True)
def _known_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys whose secret the tests know, for the comparison with other implementations."""
    global SECRET, SECRET_RAW, SIGNING, SIGNING_RAW
    folder = tmp_path_factory.mktemp("known")
    SECRET, SECRET_RAW = _with_raw(_core.SecretKey, folder)
    SIGNING, SIGNING_RAW = _with_raw(_core.SigningKey, folder)


SECRET: _core.SecretKey
SECRET_RAW: bytes
SIGNING: _core.SigningKey
SIGNING_RAW: bytes
