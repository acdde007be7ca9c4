"""Pytest plugin: scenarios as tests, and emulated clusters in asynchronous tests.

Loaded by pytest wherever this package is installed, so it imports nothing but pytest until somebody uses it.

- ``@pytest.mark.scenario("spot-churn-24", clock="virtual")`` runs a test once for each scenario named, given to it by
  the fixtures ``scenario_file`` (the name or path) and ``emulated_cluster`` (the cluster, running). Marks of tests that
  take neither are somebody else's and left alone.
- ``pytest path/to/scenario.yaml`` runs a scenario and checks what it expects of its figures; so does a folder, for
  files that match the setting ``helixemu_scenarios``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from scenarios.cli_test import Tested

MARKER = "scenario"
FIXTURES = ("scenario_file", "emulated_cluster")
SUFFIXES = (".yaml", ".yml")
_SNIFFED_BYTES = 2_000_000
_OPTIONS = ("clock", "workload", "overrides", "sets", "dilation", "limit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Settings."""
    parser.addini(
        "helixemu_scenarios",
        "Patterns of scenario files that are tests when a folder is collected; without it only files named are.",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker, and the asynchronous fixture where pytest-asyncio is there."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(*names, clock='virtual', ...): run the test once for each scenario (library name, path or pattern); "
        "further keywords are those of EmulatedCluster.",
    )
    if config.pluginmanager.hasplugin("asyncio"):
        from scenarios import pytest_fixtures

        if not config.pluginmanager.is_registered(pytest_fixtures):
            config.pluginmanager.register(pytest_fixtures, "helixemu fixtures")


# ------------------------------------------------------------------------------------------------ the marker


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> None:
    """An asynchronous test of a scenario is one for pytest-asyncio, in its strict mode, too."""
    marks = [mark.name for mark in getattr(obj, "pytestmark", ()) if isinstance(mark, pytest.Mark)]
    if MARKER not in marks or "asyncio" in marks or not inspect.iscoroutinefunction(obj):
        return
    if collector.config.pluginmanager.hasplugin("asyncio") and any(
        name in FIXTURES for name in inspect.signature(obj).parameters
    ):
        pytest.mark.asyncio(obj)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    """One test for each scenario of the marker, on a virtual-time loop if its clock is virtual."""
    marks = list(metafunc.definition.iter_markers(MARKER))
    if not marks or "scenario_file" not in metafunc.fixturenames:
        yield
        return
    options = marker_options(metafunc.definition)
    names = [name for mark in reversed(marks) for name in _scenarios(mark, metafunc.definition)]
    metafunc.parametrize("scenario_file", list(dict.fromkeys(names)), ids=_short)
    if options["clock"] == "virtual" and _may_choose_loop(metafunc):
        with _virtual_loop(metafunc.config.pluginmanager):
            yield
    else:
        yield


def marker_options(item: pytest.Item) -> dict[str, Any]:
    """Keywords of a test's marks, the nearest mark first in line; checked."""
    options: dict[str, Any] = {"clock": "virtual"}
    for mark in reversed(list(item.iter_markers(MARKER))):
        options.update(mark.kwargs)
    for key in options:
        if key not in _OPTIONS:
            _wrong_mark(item, f"scenario takes no {key!r}; it takes {', '.join(_OPTIONS)}")
    if options["clock"] not in ("virtual", "real"):
        _wrong_mark(item, f"clock is {options['clock']!r}; it must be 'virtual' or 'real'")
    return options


def _wrong_mark(item: pytest.Item, rule: str) -> NoReturn:
    """Fail a test as pytest fails wrong marks of its own: in one sentence, without a traceback."""
    pytest.fail(f"{item.nodeid}: {rule}", pytrace=False)


def _scenarios(mark: pytest.Mark, item: pytest.Item) -> list[str]:
    """Names and paths of a mark; patterns and relative paths are looked for beside the test, then at the root."""
    if not mark.args or not all(isinstance(name, (str, Path)) for name in mark.args):
        _wrong_mark(item, "scenario takes names or paths of scenarios, for instance 'quickstart'")
    found: list[str] = []
    for given in map(str, mark.args):
        if not (given.lower().endswith(SUFFIXES) or "/" in given):
            found.append(given)
            continue
        for folder in (item.path.parent, item.config.rootpath):
            matches = sorted(folder.glob(given)) if not Path(given).is_absolute() else [Path(given)]
            if matches:
                found += [str(path) for path in matches]
                break
        else:
            where = f"{item.path.parent} or {item.config.rootpath}"
            _wrong_mark(item, f"no file in {where} matches {given!r}; correct the scenario's path")
    return found


def _short(name: str) -> str:
    return Path(name).stem if name.lower().endswith(SUFFIXES) else name


def _may_choose_loop(metafunc: pytest.Metafunc) -> bool:
    """Whether the test has an event loop of its own, so that nobody else's changes."""
    if not inspect.iscoroutinefunction(metafunc.function) or not metafunc.config.pluginmanager.hasplugin("asyncio"):
        return False
    mark = metafunc.definition.get_closest_marker("asyncio")
    scope = mark.kwargs.get("loop_scope") if mark is not None else None
    return bool((scope or metafunc.config.getini("asyncio_default_test_loop_scope")) == "function")


class _VirtualLoop:
    """Asks pytest-asyncio for a virtual-time loop; registered while one test's parameters are settled."""

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self, config: pytest.Config, item: pytest.Item) -> Mapping[str, Any]:
        """The one loop that there is."""
        from emulator.realtime.virtual_loop import VirtualTimeLoop

        return {"virtual": VirtualTimeLoop}


@contextmanager
def _virtual_loop(manager: pytest.PytestPluginManager) -> Iterator[None]:
    plugin = _VirtualLoop()
    manager.register(plugin)
    try:
        yield
    finally:
        manager.unregister(plugin)


@pytest.fixture
def scenario_file(request: pytest.FixtureRequest) -> str:
    """Name or path of the scenario that the mark names."""
    raise pytest.UsageError(
        f"{request.node.nodeid}: there is no scenario; mark the test with @pytest.mark.scenario('quickstart')"
    )


# ------------------------------------------------------------------------------------------------ YAML files


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Scenario files with expectations: those named on the command line, and those of ``helixemu_scenarios``."""
    if file_path.suffix.lower() not in SUFFIXES:
        return None
    named = parent.session.isinitpath(file_path)
    if not named and not any(
        fnmatch(str(file_path), str(parent.config.rootpath / pattern))
        for pattern in parent.config.getini("helixemu_scenarios")
    ):
        return None
    try:
        with file_path.open("rb") as stream:
            head = b"\n" + stream.read(_SNIFFED_BYTES)
    except OSError:
        return None  # Pytest itself tells about files that cannot be read.
    if b"\nschema_version:" not in head and b"\nexpect:" not in head:
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


class ScenarioFile(pytest.File):
    """A scenario file."""

    def collect(self) -> Iterator[pytest.Item]:
        """The run of it."""
        from scenarios.cli_test import scenario_files

        _, problems = scenario_files([str(self.path)])
        if problems:
            raise self.CollectError("\n".join(str(problem) for problem in problems))
        yield ScenarioItem.from_parent(self, name="expect")


class ScenarioItem(pytest.Item):
    """A run in virtual time, and what its scenario expects of it."""

    def runtest(self) -> None:
        """Run it; raises when a condition is not met, or the scenario is wrong."""
        from scenarios.cli_test import run_one

        tested = run_one(_relative(self.path))
        self.user_properties.append(("conditions", tested.conditions))
        if tested.interrupted:
            raise KeyboardInterrupt
        if tested.failure or tested.error:
            raise _NotMetError(tested)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Expected, actual, seed and command, without a traceback."""
        if isinstance(excinfo.value, _NotMetError):
            tested = excinfo.value.tested
            return tested.error or f"{tested.failure}\n             or: pytest {tested.path}"
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is."""
        return self.path, None, f"scenario {self.path.stem}"


class _NotMetError(Exception):
    def __init__(self, tested: Tested) -> None:
        super().__init__(tested.failure or tested.error)
        self.tested = tested


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
