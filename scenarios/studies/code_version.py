"""Which code makes the figures: results of different code do not belong into one study."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

PACKAGES = ("emulator", "netshape", "placement", "scenarios")
LIBRARIES = ("simpy", "numpy", "networkx", "highspy")
"""Libraries whose version can change a figure."""


@cache
def code_version() -> str:
    """SHA-256 of the sources of all packages, of Python's version and of the libraries that can change figures.

    The package's own version would not do: two working copies of one version differ.
    """
    digest = hashlib.sha256()
    digest.update(".".join(platform.python_version_tuple()[:2]).encode())
    for library in LIBRARIES:
        digest.update(f"\0{library} {version(library)}".encode())
    for package in PACKAGES:
        folder = Path(str(files(package)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"\0{package}/{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
