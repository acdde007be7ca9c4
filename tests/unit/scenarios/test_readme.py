"""What the README shows is true: its scenario loads, and its test line is the one that CI finds."""

import re
from pathlib import Path

import pytest

from scenarios.loader import load_scenario

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("overrides", [(), ("slow",)])
def test_the_example_scenario_loads(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    loaded = load_scenario(path, overrides=overrides)
    assert loaded.spec.duration_s == 600
    assert loaded.plan is not None


def test_ci_finds_one_test_line() -> None:
    lines = re.findall(r"^    (python3 -m venv .* -m pytest .*)$", README, re.MULTILINE)
    assert len(lines) == 1


def test_every_command_it_names_exists() -> None:
    from scenarios.cli import app, import_app, net_app

    named = set(re.findall(r"helixemu ([a-z]+)", README)) - {"is"}
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {"import", "net"}
    assert import_app.registered_commands
    assert net_app.registered_commands
    assert named <= known, named - known
