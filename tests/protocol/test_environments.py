from __future__ import annotations

import hashlib

import pytest

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import environments as e
from mesatee.protocol import limits

HASH = "ab" * 32
FACTS = e.FileFacts(0o644, HASH, 3)


def test_what_pip_compile_and_uv_write_is_read() -> None:
    text = f"""
# made by a tool
Demo_Pack[extra]==1.0.post1 \\
    --hash=sha256:{HASH} \\
    --hash=sha256:{"cd" * 32}
    # via something
other==2!1.0+local --hash=sha256:{HASH}
"""
    lock = e.parse_lock(text.encode())
    assert [(item.name, item.version, len(item.hashes)) for item in lock] == [
        ("demo-pack", "1.0.post1", 2),
        ("other", "2!1.0+local", 1),
    ]
    assert e.parse_lock(e.lock_text(lock)) == lock, "the canonical text says the same"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("demo==1.0", "no hash"),
        ("demo", "pin"),
        (f"demo>=1.0 --hash=sha256:{HASH}", "pin"),
        (f"demo==1.* --hash=sha256:{HASH}", "pin"),
        (f"demo===1.0 --hash=sha256:{HASH}", "pin"),
        (f"demo==1.0,<2 --hash=sha256:{HASH}", "pin"),
        (f"https://example.org/demo.whl --hash=sha256:{HASH}", "place"),
        (f"demo @ file:///tmp/demo.whl --hash=sha256:{HASH}", "place"),
        ("git+ssh://example.org/demo", "place"),
        (f"./demo.whl --hash=sha256:{HASH}", "place"),
        (f"/tmp/demo.whl --hash=sha256:{HASH}", "place"),
        ("-e .", "option"),
        ("-r other.txt", "option"),
        ("--index-url https://example.org", "option"),
        ("--extra-index-url=https://example.org", "option"),
        ("--no-binary :all:", "option"),
        (f"demo==1.0 --hash=md5:{'a' * 32}", "SHA-256"),
        (f"demo==1.0 --hash=sha256:{HASH.upper()}", "SHA-256"),
        (f"demo==1.0 --hash=sha256:{HASH} --config-settings=a=b", "option"),
        (f"demo==1.0 --global-option=x --hash=sha256:{HASH}", "option"),
        (f'demo==1.0; python_version < "4" --hash=sha256:{HASH}', "marker"),
        (f"démo==1.0 --hash=sha256:{HASH}", "ASCII"),
        (f"demo==1.0 --hash=sha256:{HASH}\ndemo==1.0 --hash=sha256:{HASH}", "second time"),
        (f"de_mo==1.0 --hash=sha256:{HASH}\nde.mo==1.1 --hash=sha256:{HASH}", "second time"),
        ("", "no package"),
        ("# nothing", "no package"),
    ],
)
def test_a_lock_names_releases_by_hash_and_nothing_else(line: str, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        e.parse_lock(line.encode())


def test_limits_of_a_lock() -> None:
    line = f"p{{}}==1 --hash=sha256:{HASH}\n"
    most = "".join(line.format(number) for number in range(limits.LOCK_PACKAGES))
    assert len(e.parse_lock(most.encode())) == limits.LOCK_PACKAGES
    with pytest.raises(TooLarge):
        e.parse_lock((most + line.format("x")).encode())
    padded = line.format(1).encode().ljust(limits.LOCK_BYTES, b"\n")
    assert len(e.parse_lock(padded)) == 1
    with pytest.raises(TooLarge):
        e.parse_lock(padded + b"\n")


@pytest.mark.parametrize("name", ["stats", "a", "nlp-2", "a" * limits.NAME_CHARS])
def test_names(name: str) -> None:
    assert e.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "base",
        "../x",
        "..",
        ".new-x",
        "a/b",
        "A",
        "a_b",
        "-a",
        "a-",
        "a--b",
        "a\n",
        "ä",
        "1a",
        "a" * 65,
        "a\0",
    ],
)
def test_names_that_could_be_something_else(name: str) -> None:
    with pytest.raises(Malformed):
        e.check_name(name)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../outside.py",
        "a/../../outside.py",
        "a/./b.py",
        "a//b.py",
        "a\\..\\b.py",
        "c:/b.py",
        "a\0.py",
        "a\n.py",
        "a\u202egnp.py",
        "cafe\u0301.py",
        "late.pth",
        "Late.PTH",
        "a/__pycache__/b.cpython-311.pyc",
        "a/b.pyc",
        "a/" + "b" * limits.ENVIRONMENT_PATH_BYTES,
        "a\udcff.py",
    ],
)
def test_paths_that_no_environment_has(path: str) -> None:
    with pytest.raises(Malformed):
        e.check_path(path)


def test_longest_path() -> None:
    path = "a/" + "b" * (limits.ENVIRONMENT_PATH_BYTES - 2)
    assert e.check_path(path) == path
    assert e.check_path("a/data.pth") == "a/data.pth", "only at the top it is run"


@pytest.mark.parametrize(
    "path",
    [
        "numpy/__init__.py",
        "numpy.py",
        "numpy.cpython-311-x86_64-linux-gnu.so",
        "NumPy/__init__.py",
        "numpy-9.0.dist-info/METADATA",
        "numpy.egg-info/PKG-INFO",
    ],
)
def test_what_would_pass_for_the_base_is_refused(path: str) -> None:
    modules, distributions = frozenset({"numpy"}), frozenset({"numpy"})
    with pytest.raises(Malformed, match=r"shadow|pass for"):
        e.check_files([path], modules, distributions)
    e.check_files(["numpy_more/numpy.py", "numpy.libs/x.so", "pkg/numpy/a.py"], modules, distributions)


def test_names_that_differ_in_case_only() -> None:
    with pytest.raises(Malformed, match="case"):
        e.check_files(["pkg/a.py", "pkg/A.py"], frozenset(), frozenset())


def test_the_digest_depends_on_base_lock_paths_modes_and_bytes() -> None:
    lock = b"demo==1 --hash=sha256:" + b"0" * 64 + b"\n"
    files = {"a.py": FACTS, "b/c.py": e.FileFacts(0o755, "cd" * 32, 4)}
    first = e.digest("0a" * 32, lock, files)
    others = {
        e.digest("0b" * 32, lock, files),
        e.digest("0a" * 32, lock + b"\n", files),
        e.digest("0a" * 32, lock, {"a.py": FACTS}),
        e.digest("0a" * 32, lock, {**files, "a.py": e.FileFacts(0o755, HASH, 3)}),
        e.digest("0a" * 32, lock, {**files, "a.py": e.FileFacts(0o644, "cd" * 32, 3)}),
        e.digest("0a" * 32, lock, {"z.py": FACTS, "b/c.py": files["b/c.py"]}),
    }
    assert first not in others
    assert len(others) == 6
    assert e.digest("0a" * 32, lock, dict(reversed(files.items()))) == first


def test_the_digest_is_as_documented() -> None:
    """Recomputed from the text of the module's docstring, so that others can."""
    listing = f"0644 {HASH} 3 a.py\n".encode()
    facts = (
        f'{{"base":"{"0a" * 32}","files":"{hashlib.sha256(listing).hexdigest()}",'
        f'"lock":"{hashlib.sha256(b"lock").hexdigest()}"}}'
    )
    expected = hashlib.sha256(b"mesatee environment v1\0" + facts.encode()).hexdigest()
    assert e.digest("0a" * 32, b"lock", {"a.py": FACTS}) == expected
