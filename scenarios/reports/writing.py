"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scenarios.errors import Problem, ScenarioError


@contextmanager
def whole_file(out: Path) -> Iterator[IO[str]]:
    """A text file that takes its name when all of it is written.

    Raises:
        ScenarioError: It cannot be written.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(out)
    except OSError as error:
        rule = f"the file cannot be written: {error.strerror}"
        raise ScenarioError(Problem(str(out), None, "--out", None, rule, "name another file")) from error
    finally:
        part.unlink(missing_ok=True)
