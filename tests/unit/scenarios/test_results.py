"""Run directories on disks that are full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("blocks", [1, 60])
def test_a_run_that_cannot_write_its_files_says_so_and_is_none(blocks: int, tmp_path: Path) -> None:
    """A limit on the size of files (512 bytes a block) fails at the start, and in the middle of the event log."""
    command = (
        f"ulimit -f {blocks}; exec {sys.executable} -m scenarios.cli run quickstart --set output.event_log=hops "
        "--set output.token_times=true --set 'duration=20 s' --set 'warm_up=0 s' --out run"
    )
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert "name a" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
