"""``helixemu net``: labs of the command line, as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from net_labs import PORT, mbit, needs_kernel, traffic

from netshape.kernel.lab import KernelLab
from netshape.kernel.namespaces import STATE_FOLDER, Namespace, Owner, existing
from netshape.kernel.topology import full_mesh
from scenarios.cli import main
from scenarios.schema_topology import read_topology

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
TOPOLOGY = """
schema_version: 1
description: Two sites and a slow way back
hosts:
  - {name: paris, address: 10.9.0.1}
  - {name: oslo}
links:
  - {source: paris, target: oslo, bandwidth: 100 Mbit/s, latency: 10 ms}
  - {source: oslo, target: paris, bandwidth: 20 Mbit/s, latency: 20 ms}
"""


def command(*arguments: str) -> list[str]:
    # The commands alone: the whole of helixemu takes seconds to import on a busy machine.
    return [sys.executable, "-c", "from scenarios.cli_net import net_app; net_app()", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}


def net(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), timeout=PATIENCE_S, check=False
    )


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``helixemu net ...`` in this process, as from its entry point."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["helixemu", "net", *arguments])
        monkeypatch.setenv("COLUMNS", "160")
        capsys.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return Done(code, out, err)

    return call


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(TOPOLOGY)
    return path


@contextmanager
def up(path: Path) -> Iterator[subprocess.Popen[str]]:
    """``net up`` in the foreground, ready; its process group is killed at the end."""
    reader, writer = os.pipe()
    program = subprocess.Popen(
        command("up", str(path), "--ready", str(writer)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        pass_fds=[writer],
        start_new_session=True,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            assert ready.readline().startswith(f"helixemu-{program.pid}-"), program.communicate()
        yield program
    finally:
        if program.poll() is None:
            program.kill()
        program.communicate()


def labs_of(pid: int) -> list[Namespace]:
    return [each for each in existing() if each.owner.pid == pid]


def test_the_doctor_tells_people_and_programs(tmp_path: Path, whole: Callable[..., Done]) -> None:
    told = whole("doctor")
    assert told.returncode == 0
    for word in ("netem", "TUN router", "SCHED_FIFO", "congestion controls", os.uname().release):
        assert word in told.stdout
    target = tmp_path / "doctor.json"
    written = whole("doctor", "--json", str(target))
    printed = whole("doctor", "--json", "-")
    report = json.loads(printed.stdout)
    assert [each["name"] for each in report["backends"]] == ["netem", "tun", "tbf"]
    assert [each["name"] for each in json.loads(target.read_text())["capabilities"]] == [
        each["name"] for each in report["capabilities"]
    ]
    assert "backends" in written.stdout
    refused = whole("doctor", "--json", str(tmp_path / "missing" / "x.json"))
    assert refused.returncode == 2
    assert "error: --json:" in refused.stderr
    assert "the file cannot be written" in refused.stderr


@needs_kernel
def test_a_network_in_the_foreground(topology: Path, whole: Callable[..., Done]) -> None:
    with up(topology) as program:
        pid = str(program.pid)
        names = net("exec", "--lab", pid, "paris", "--", "cat", "/etc/hosts")
        assert "10.77.0.1 oslo" in names.stdout
        assert "10.9.0.1 paris" in names.stdout
        # Options behind the host are the program's, also without --.
        assert net("exec", "--lab", pid, "oslo", "sh", "-c", "exit 7").returncode == 7
        assert net("exec", "--lab", pid, "oslo", "no-such-program").returncode == 127
        strange = whole("exec", "--lab", pid, "rome", "--", "true")
        assert strange.returncode == 2
        assert 'error: HOST: "rome": no network that is up has it; hosts are' in strange.stderr
        listed = whole("list")
        assert f"PID {pid}" in listed.stdout
        assert "oslo, paris" in listed.stdout
        os.killpg(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=30)
    assert program.returncode == 0, err
    assert "paris->oslo" in out
    assert "10.9.0.1" in out
    assert labs_of(program.pid) == []
    assert list(STATE_FOLDER.glob(f"helixemu-{pid}-*")) == []


@needs_kernel
def test_a_network_in_the_background_until_down(topology: Path, whole: Callable[..., Done]) -> None:
    started = whole("up", str(topology), "--detach")
    assert started.returncode == 0, started.stderr
    name = started.stdout.split()[0]
    try:
        echo = subprocess.Popen(
            command("exec", "--lab", name, "oslo", "--", *traffic("echo", PORT)),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        asked = net("exec", "--lab", name, "paris", "--", *traffic("ask", "oslo", PORT, 5, 0.01))
        assert min(json.loads(asked.stdout)) >= 0.03
    finally:
        ended = whole("down", "--lab", name)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{name} is down\n"
    assert [each for each in existing() if each.lab == name] == []
    # The program inside went with it.
    assert echo.wait(10) == -9
    echo.stdout.close()
    again = whole("down", "--lab", name)
    assert again.returncode == 2
    assert "there is none of that name among the networks that `helixemu net up` keeps up" in again.stderr


@needs_kernel
def test_down_leaves_labs_of_other_programs_alone(whole: Callable[..., Done]) -> None:
    with KernelLab(full_mesh(["a", "b"], mbit(10))) as lab:
        refused = whole("down", "--lab", str(os.getpid()))
        assert refused.returncode == 2
        assert lab.run("a", ["true"]).returncode == 0
        assert whole("clean").returncode == 0
        assert lab.run("a", ["true"]).returncode == 0
        assert net("exec", "--lab", str(os.getpid()), "a", "true").returncode == 0


@needs_kernel
def test_clean_removes_what_is_stale(whole: Callable[..., Done]) -> None:
    from pyroute2 import netns

    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ""]) as program:
        pass
    stale = Namespace(owner=Owner(pid=program.pid, start_ticks=1), serial=1, host="x")
    netns.create(stale.name)
    stale.marker_path.touch()
    assert "ended; `helixemu net clean` removes it" in whole("list").stdout
    cleaned = whole("clean")
    assert cleaned.returncode == 0
    assert f"removed {stale.name}\n" in cleaned.stdout
    assert not stale.path.exists()
    assert not stale.marker_path.exists()


@needs_kernel
def test_schedules_run(tmp_path: Path) -> None:
    path = tmp_path / "changing.yaml"
    path.write_text("""
hosts: [{name: a}, {name: b}]
links:
  - between: [a, b]
    latency: 1 ms
    schedule: {steps: [{at: 300 ms, latency: 40 ms}]}
""")
    with up(path) as program:
        pid = str(program.pid)
        with subprocess.Popen(
            command("exec", "--lab", pid, "b", "--", *traffic("echo", PORT)),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as echo:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "ready\n"
            time.sleep(0.5)
            asked = net("exec", "--lab", pid, "a", "--", *traffic("ask", "b", PORT, 3, 0.01))
            echo.kill()
        assert min(json.loads(asked.stdout)) >= 0.08


@needs_kernel
def test_a_detached_start_that_fails_says_why(tmp_path: Path, whole: Callable[..., Done]) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text("backend: tbf\nhosts: [{name: a}, {name: b}]\nlinks: [{between: [a, b], latency: 1 ms}]\n")
    refused = whole("up", str(path), "-d")
    assert refused.returncode == 2
    told = "error: link a->b: latency_s: backend tbf has rates only; use backend tun or netem\n"
    assert refused.stderr == told


def test_a_file_becomes_a_topology(topology: Path, tmp_path: Path) -> None:
    file = read_topology(topology)
    assert [(host.name, host.address) for host in file.topology.hosts] == [("paris", "10.9.0.1"), ("oslo", "10.77.0.1")]
    assert [link.name for link in file.topology.links] == ["paris->oslo", "oslo->paris"]
    assert file.topology.links[1].conditions == mbit(20, 0.02)
    assert (file.backend, file.seed, file.schedules) == ("tun", 0, {})
    path = tmp_path / "more.yaml"
    path.write_text("""
backend: netem
seed: 5
congestion_control: reno
tcp_buffer: 1 MiB
hosts: [{name: a}, {name: b}]
links:
  - between: [a, b]
    mtu: 9000 B
    schedule: {steps: [{at: 1 s, up: false}], repeat: 2 s}
""")
    file = read_topology(path)
    assert (file.backend, file.seed) == ("netem", 5)
    assert (file.topology.congestion_control, file.topology.buffer_bytes) == ("reno", 1 << 20)
    assert [link.mtu_bytes for link in file.topology.links] == [9000, 9000]
    assert sorted(file.schedules) == [("a", "b"), ("b", "a")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hosts: [{name: a}]\nlinkz: []\n", "bad.yaml:2: linkz: there is no such key"),
        ("hosts: []\n", "bad.yaml:1: hosts: "),
        ("hosts:\n  - {name: A}\n", "bad.yaml:2: hosts.0: host name 'A': it must be 1 to 32 lower-case letters"),
        ("hosts:\n  - {name: a, address: x}\n", "bad.yaml:2: hosts.0: host a: address 'x': it must be IPv4"),
        ("hosts: [{name: a}, {name: a}]\n", "host name 'a' stands there more than once; each must differ"),
        ("hosts: [{name: a}]\nlinks:\n  - {between: [a, b]}\n", "link a->b: there is no host 'b'; add it to hosts"),
        ("hosts: [{name: a}]\nlinks:\n  - {source: a}\n", "bad.yaml:3: links.0: source and target belong together"),
        ("hosts: [{name: a}]\nlinks:\n  - {latency: 5}\n", "latency: 5: it is a bare number, but a duration"),
        (
            "hosts: [{name: a}, {name: b}]\nlinks:\n  - {between: [a, b], mtu: 100 B}\n",
            "bad.yaml:3: links.0: link a->b: mtu_bytes must be from 576 to 65535",
        ),
        (
            "hosts: [{name: a}, {name: b}]\nlinks:\n"
            "  - {between: [a, b], mtu: 1500 B, schedule: {steps: [{at: 1 s, mtu: 900 B}]}}\n",
            "the MTU of a kernel's link cannot change; leave mtu out of the steps",
        ),
        ("a: [\n", "bad.yaml:"),
    ],
)  # fmt: skip
def test_bad_files_are_told_with_place_and_rule(
    text: str, told: str, tmp_path: Path, whole: Callable[..., Done]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    done = whole("up", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert told in done.stderr


def test_a_missing_file(whole: Callable[..., Done]) -> None:
    done = whole("up", "no/such/file.yaml")
    assert done.returncode == 2
    assert "there is no such file" in done.stderr
