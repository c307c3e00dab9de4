"""The environments of converters: packages that a lock pins by hash, each set in a folder of its own.

They are tools of a model's owner and part of nothing that is measured: no task runs in one, and nothing of them is
imported into a process of MesaTEE but the confined child that reads one model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...errors import Conflict, NotFound, TimedOut, Unavailable
from ...protocol import limits
from ...protocol.digests import sha256
from ...protocol.environments import lock_text, parse_lock

FOLDER: Final = "converters"
"""Where they are kept, in the home folder."""
PACKAGES: Final = "packages"
LOCKS: Final = Path(__file__).parent / "locks"
SECONDS: Final = 3_600
"""For all wheels of one lock, by a slow connection: PyTorch's are some gigabytes."""
DIGEST_CHARS: Final = 16
_NEW: Final = ".new-"


def packages(home: Path, name: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder with the packages of the lock `name`; built if it is not there.

    Wheels alone, each by its hash, without their code being run. Raises `NotFound` for a lock that is none of ours,
    and `Unavailable` or `TimedOut` if the wheels cannot be had.
    """
    file = LOCKS / f"{name}.lock"
    if not file.is_file():
        raise NotFound(f"there is no lock {name}")
    text = lock_text(parse_lock(file.read_bytes()[: limits.LOCK_BYTES + 1]))
    folder = home / FOLDER
    target = folder / f"{name}-{sha256(text)[:DIGEST_CHARS]}"
    if not (target / PACKAGES).is_dir():
        say(f"building the environment of the converter for {name}: this is done once")
        _build(folder, target, text)
    return target / PACKAGES


def _build(folder: Path, target: Path, text: bytes) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=_NEW, dir=folder))
    try:
        lock = made / "lock.txt"
        lock.write_bytes(text)
        command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        command += ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"]
        command += ["--no-warn-conflicts", "--target", str(made / PACKAGES), "--requirement", str(lock)]
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise TimedOut("the converter's packages were not downloaded in time") from None
        if ended.returncode:
            said = ended.stderr.decode("utf-8", "replace").splitlines()
            errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
            raise Unavailable(
                f"the converter's packages could not be had: {(errors or said or ['pip failed'])[0][:300]}",
                hint="it needs the package index once; --packages DIR takes them from an environment of your own",
            )
        # The child that reads them is nobody.
        for path, names, files in os.walk(made):
            Path(path).chmod(0o755)
            for name in files:
                found = Path(path, name)
                if not found.is_symlink():
                    found.chmod(found.stat().st_mode | 0o444)
            del names
        try:
            made.rename(target)
        except OSError:
            if not (target / PACKAGES).is_dir():
                raise Conflict(f"{target} is in the way", hint="remove it") from None
            # Somebody else built the same meanwhile.
            shutil.rmtree(made, ignore_errors=True)
    except BaseException:
        # Also when somebody interrupts it: half an environment stays nowhere.
        shutil.rmtree(made, ignore_errors=True)
        raise


__all__ = ["FOLDER", "LOCKS", "packages"]
