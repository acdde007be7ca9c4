"""The probe, on this machine as it is, without root, and without pyroute2."""

import json
import os
import subprocess
import sys

import pytest

from netshape.kernel.probe import probe, report

NAMES = (
    "root",
    "pyroute2",
    "netns",
    "veth",
    "bridge",
    "tun",
    "ifb",
    "tbf",
    "htb",
    "netem",
    "iptables loss",
    "SCHED_FIFO",
    "timerfd",
    "congestion controls",
)
FOUND: dict[str, tuple[bool | None, str]] = dict.fromkeys(NAMES, (True, ""))


def test_the_first_thing_missing_is_the_reason() -> None:
    everything = report("6.1", FOUND)
    assert [backend.name for backend in everything.backends] == ["netem", "tun", "tbf"]
    assert all(backend.usable and not backend.reason for backend in everything.backends)
    no_netem = report("6.1", FOUND | {"netem": (False, "not in this kernel")})
    assert not no_netem.backend("netem").usable
    assert no_netem.backend("netem").reason == "netem: not in this kernel"
    assert no_netem.backend("tun").usable
    assert no_netem.backend("tbf").usable
    no_root = report("6.1", FOUND | {"root": (False, "not root"), "netem": (None, "not tried"), "tun": (None, "")})
    assert {backend.reason for backend in no_root.backends} == {"root: not root"}


def test_this_machine() -> None:
    found = probe()
    assert found.kernel == os.uname().release
    assert [each.name for each in found.capabilities] == list(FOUND)
    # Where something does not work, or was not tried, it says why.
    assert all(each.detail for each in found.capabilities if not each.available)
    assert found.capability("root").available == (os.geteuid() == 0)
    for backend in found.backends:
        assert backend.usable == (not backend.reason)
    # It tried in namespaces of its own: nothing is left here.
    cards = subprocess.run(["cat", "/proc/net/dev"], capture_output=True, text=True, check=True).stdout
    assert "probe-peer" not in cards
    assert "tun0" not in cards


def run_probe(preparation: str) -> dict[str, tuple[bool | None, str]]:
    """What the probe finds in a process that is prepared by some lines of Python."""
    code = (
        f"import json, os, sys\nfrom netshape.kernel import probe\n{preparation}\nprint(json.dumps(probe._try_all()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name: (available, detail) for name, (available, detail) in json.loads(done.stdout).items()}


def test_without_pyroute2_it_says_so() -> None:
    found = run_probe("sys.modules['pyroute2'] = None")
    assert found["pyroute2"] == (False, "not installed; pip install 'helix-emulator[kernel]'")
    assert found["veth"][0] is None
    assert "not tried" in found["veth"][1]
    verdict = report("6.1", found).backend("tun")
    assert not verdict.usable
    if os.geteuid() == 0:
        assert verdict.reason.startswith("pyroute2: not installed")
        assert found["timerfd"][0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; the other tests run without root")
def test_without_root_it_says_so() -> None:
    # Imported before: somebody else may not be able to read the sources.
    found = run_probe("import shutil, encodings.ascii, pyroute2\nos.setgid(65534); os.setuid(65534)")
    assert found["root"] == (False, "not root; run with sudo")
    assert found["netns"] == (False, "not permitted; run as root")
    for name in ("veth", "tun", "netem"):
        assert found[name] == (None, "not tried: no namespace to try it in")
    assert {each.reason for each in report("6.1", found).backends} == {"root: not root; run with sudo"}
    assert found["timerfd"][0]
    assert found["congestion controls"][0]
