"""`helixemu proxy` as its users start and stop it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from proxy_rig import ROOT, TIMEOUT_S, connect, echo, receive_all, running_proxy, upstream


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a proxy that is not going to start."""
    done = subprocess.run(
        [sys.executable, "-m", "scenarios.cli", "proxy", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_everything_and_is_no_failure(number: signal.Signals) -> None:
    with upstream(echo) as server, running_proxy() as process:
        _, proxy = process.call("POST", "/proxies", {"name": "a", "upstream": server.address})
        process.call("POST", "/proxies/a/toxics", {"type": "latency", "attributes": {"latency": 60_000}})
        with connect(proxy["listen"]) as client:
            client.sendall(b"x" * 100_000)
            assert process.call("GET", "/version")[0] == 200
            code, _, err = process.stop(number)
            assert (code, err) == (0, "")
            # What was on its way is not waited for; the client gets an end, or a reset.
            got = b""
            with contextlib.suppress(ConnectionResetError):
                got = receive_all(client)
            assert got == b""
        with pytest.raises(ConnectionRefusedError):
            connect(proxy["listen"])


def test_it_listens_on_the_loopback_interface_only() -> None:
    with running_proxy() as process:
        _, proxy = process.call("POST", "/proxies", {"name": "a", "upstream": "127.0.0.1:1", "listen": ":0"})
        assert proxy["listen"].startswith("127.0.0.1:")
        bound = {line.split()[1] for line in Path(f"/proc/{process.process.pid}/net/tcp").read_text().splitlines()[1:]}
        for port in (process.port, int(proxy["listen"].rpartition(":")[2])):
            assert f"0100007F:{port:04X}" in bound
            assert f"00000000:{port:04X}" not in bound


def test_a_port_in_use_is_bad_input() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = run("--port", str(port))
    assert code == 2
    assert err == (
        f'error: --port: "127.0.0.1:{port}": cannot listen: Address already in use; '
        "choose another --port, or 0 for any free one\n"
    )


def test_toxiproxys_config_file_makes_its_proxies(tmp_path: Path) -> None:
    with upstream(echo) as server:
        config = tmp_path / "toxiproxy.json"
        entries = [
            {"name": "one", "listen": "127.0.0.1:0", "upstream": server.address, "enabled": True},
            {"name": "two", "listen": "127.0.0.1:0", "upstream": server.address, "enabled": False},
        ]
        config.write_text(json.dumps(entries))
        with running_proxy("--config", str(config)) as process:
            assert process.started_with == 2
            _, proxies = process.call("GET", "/proxies")
            assert [(name, proxy["enabled"]) for name, proxy in proxies.items()] == [("one", True), ("two", False)]
            with connect(proxies["one"]["listen"]) as client:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                assert receive_all(client) == b"hello"


def test_a_yaml_config_brings_toxics_along(tmp_path: Path) -> None:
    with upstream(echo) as server:
        config = tmp_path / "proxies.yaml"
        config.write_text(
            f"""
            proxies:
              - name: one
                upstream: {server.address}
                toxics:
                  - {{type: latency, attributes: {{latency: 200}}}}
                  - {{type: limit_data, attributes: {{bytes: 3}}}}
            """
        )
        with running_proxy("--config", str(config)) as process:
            _, proxy = process.call("GET", "/proxies/one")
            assert [toxic["name"] for toxic in proxy["toxics"]] == ["latency_downstream", "limit_data_downstream"]
            start = time.monotonic()
            with connect(proxy["listen"]) as client:
                client.sendall(b"hello")
                assert receive_all(client) == b"hel"
            assert time.monotonic() - start >= 0.200


def test_a_bad_config_is_bad_input(tmp_path: Path) -> None:
    config = tmp_path / "proxies.yaml"
    config.write_text("proxies:\n  - {name: a, upstream: 'h:1', colour: red}\n")
    code, err = run("--port", "0", "--config", str(config))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {config}:2: proxies.0.colour")


def test_a_config_that_is_not_there_and_one_whose_port_is_taken(tmp_path: Path) -> None:
    code, err = run("--port", "0", "--config", str(tmp_path / "none.json"))
    assert (code, "none.json: cannot be read: No such file or directory" in err) == (2, True)
    config = tmp_path / "taken.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config.write_text(json.dumps([{"name": "a", "listen": address, "upstream": "127.0.0.1:1"}]))
        code, err = run("--port", "0", "--config", str(config))
    assert code == 2
    assert f"proxy a: listen tcp {address}: address already in use" in err
