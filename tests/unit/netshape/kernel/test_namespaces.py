"""Whose namespaces are whose, and that only stale ones of this tool go away."""

import os
import subprocess
import sys
import time

import pytest
from net_labs import needs_kernel

from netshape.kernel.namespaces import (
    FOLDER,
    STATE_FOLDER,
    Namespace,
    Owner,
    existing,
    parse_name,
    processes_inside,
    remove_all,
    remove_stale,
    start_ticks,
    this_process,
)

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def ended() -> Owner:
    """A process that has ended."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as program:
        started = start_ticks(program.pid)
        assert started is not None
        owner = Owner(pid=program.pid, start_ticks=started)
        assert owner.alive
        program.communicate(b"\n")
    return owner


def test_a_name_tells_owner_lab_and_host() -> None:
    namespace = Namespace(owner=Owner(pid=42, start_ticks=1234), serial=3, host="edge-1")
    assert namespace.name == "helixemu-42-1234-3-edge-1"
    assert parse_name(namespace.name) == namespace
    assert namespace.path == FOLDER / namespace.name


@pytest.mark.parametrize(
    "name",
    ["helixemu", "helixemu-x", "helixemu-1-2-3", "helixemu-01-2-3-a", "helixemu-1-2-03-a", "helixemu-1-2-3-A",
     "helixemu-1-2-3-a/b", "helixemu-1-2-3-", "helixemu-1-2-3-a-", "nothelixemu-1-2-3-a", "helixemu-1-2-3-a\n", ""],
)  # fmt: skip
def test_other_names_are_none_of_ours(name: str) -> None:
    assert parse_name(name) is None


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    me = this_process()
    assert me.alive
    assert not Owner(pid=me.pid, start_ticks=me.start_ticks + 1).alive


def test_an_ended_process_is_not_alive_even_before_it_is_waited_for() -> None:
    program = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    started = start_ticks(program.pid)
    deadline = time.monotonic() + 20
    while start_ticks(program.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        # Still there, as a zombie.
        os.kill(program.pid, 0)
        assert started is None or not Owner(pid=program.pid, start_ticks=started).alive
    finally:
        program.wait()


@needs_kernel
def test_stale_namespaces_go_with_their_processes_and_nothing_else_does(ended: Owner) -> None:
    from pyroute2 import netns

    stale = Namespace(owner=ended, serial=1, host="gone")
    living = Namespace(owner=this_process(), serial=99, host="here")
    foreign = [f"helixemu-foreign-{os.getpid()}", f"{stale.name}_not"]
    left: list[str] = []
    for name in (stale.name, living.name, *foreign):
        netns.create(name)
        left.append(name)
    STATE_FOLDER.mkdir(exist_ok=True)
    stale.hosts_path.write_text("")
    living.hosts_path.write_text("")
    try:
        with (
            subprocess.Popen(["nsenter", f"--net={stale.path}", *SLEEP], stdout=subprocess.PIPE) as inside,
            subprocess.Popen(["nsenter", f"--net={FOLDER / foreign[0]}", *SLEEP], stdout=subprocess.PIPE) as outside,
        ):
            try:
                for program in (inside, outside):
                    assert program.stdout is not None
                    assert program.stdout.readline() == b"up\n"
                assert list(processes_inside({stale.path.stat().st_ino})) == [inside.pid]
                assert stale in remove_stale()
                assert inside.wait(10) == -9
                assert outside.poll() is None
            finally:
                inside.kill()
                outside.kill()
        assert not stale.path.exists()
        assert not stale.hosts_path.exists()
        assert living in existing()
        assert living.hosts_path.exists()
        assert all((FOLDER / name).exists() for name in foreign)
        assert stale not in remove_stale()
    finally:
        remove_all([living, stale])
        for name in foreign:
            netns.remove(name)
    assert not living.path.exists()


@needs_kernel
def test_a_file_without_a_namespace_goes_too(ended: Owner) -> None:
    # What a maker leaves that is killed between making the file and mounting the namespace on it.
    half_made = Namespace(owner=ended, serial=1, host="half")
    FOLDER.mkdir(exist_ok=True)
    half_made.path.touch()
    assert half_made in remove_stale()
    assert not half_made.path.exists()


@needs_kernel
def test_the_machines_own_network_is_never_taken_for_a_labs(ended: Owner) -> None:
    # Its own namespace mounted under a stale name: the name goes, no process is touched.
    posing = Namespace(owner=ended, serial=1, host="root")
    FOLDER.mkdir(exist_ok=True)
    posing.path.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(posing.path)], check=True)
    assert posing in remove_stale()
    assert not posing.path.exists()
    assert this_process().alive
