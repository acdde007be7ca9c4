"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

# Pytester forgets modules that are first imported in a run of its own, and numpy cannot be loaded twice.
import scenarios.cli_test
import scenarios.emulated_cluster  # noqa: F401

ROOT = Path(__file__).resolve().parents[3]
# The working tree may be newer than what is installed.
INSTALLED = any(point.value == "scenarios.pytest_plugin" for point in entry_points(group="pytest11"))
PLUGIN = [] if INSTALLED else ["-p", "scenarios.pytest_plugin"]
# Plugins that have no part in this, and take seconds to load anew in every run.
PLUGIN += ["-p", "no:hypothesispytest", "-p", "no:benchmark"]
GOOD = """\
schema_version: 1
name: good
duration: 10 s
model: llama-1-30b
cluster: small-6
placement: {planner: uniform}
workload: {kind: closed, refill: constant, initial_requests: 2, lengths: {prompt_tokens: 100, output_tokens: 5}}
expect: {requests.failed: 0, requests.finished: ">= 1"}
"""
FAILING = GOOD.replace("name: good", "name: failing\nseed: 3").replace('">= 1"', '">= 100000"')
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest in the folder of the test, in this process."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def go(*arguments: str, mode: str = "auto") -> pytest.RunResult:
        options = ["-p", "no:cacheprovider", "-o", f"asyncio_mode={mode}"]
        options += ["-o", "asyncio_default_fixture_loop_scope=function", "--strict-markers"]
        return pytester.runpytest_inprocess(*PLUGIN, *options, *arguments)

    return go


def test_the_package_registers_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"helixemu": "scenarios.pytest_plugin"}


def test_loading_it_imports_nothing_but_pytest() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import scenarios.pytest_plugin; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "['scenarios']"


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_marked_tests_run_on_a_virtual_loop_and_others_on_their_own(
    pytester: pytest.Pytester, run: Run, mode: str
) -> None:
    pytester.makepyfile("""
        import asyncio
        import pytest
        from emulator.realtime.virtual_loop import VirtualTimeLoop
        from scenarios.emulated_cluster import EmulatedCluster

        @pytest.mark.asyncio
        async def test_before():
            assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)

        @pytest.mark.scenario("quickstart", "small-6-30b", sets=["seed=4"])
        async def test_named(scenario_file, emulated_cluster):
            assert emulated_cluster.spec.name == scenario_file
            assert emulated_cluster.spec.seed == 4
            assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
            await asyncio.sleep(60)
            assert emulated_cluster.now_s == 60
            stream = await emulated_cluster.submit(prompt_tokens=10, output_tokens=3)
            assert len(await stream.rest()) == 3

        @pytest.mark.scenario("quickstart")
        async def test_context(scenario_file):
            async with EmulatedCluster(scenario_file, workload=False) as cluster:
                await asyncio.sleep(5)
                assert cluster.now_s == 5

        @pytest.mark.asyncio
        async def test_unmarked():
            assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
            async with EmulatedCluster("quickstart") as cluster:
                await cluster.run_for("1 min")

        @pytest.mark.asyncio(loop_scope="module")
        @pytest.mark.scenario("quickstart")
        async def test_shared_loop(scenario_file):
            # A loop that others use is left alone; the cluster's time is virtual all the same.
            assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
            async with EmulatedCluster(scenario_file) as cluster:
                await cluster.run_for("1 min")
    """)
    result = run("-v", mode=mode)
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*::test_named[[]quickstart]*PASSED*", "*::test_named[[]small-6-30b]*PASSED*"])


def test_a_real_clock_has_an_ordinary_loop(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import asyncio
        import time
        import pytest
        from emulator.realtime.virtual_loop import VirtualTimeLoop

        @pytest.mark.scenario("quickstart", clock="real", dilation=8.0, workload=False)
        async def test_it(emulated_cluster):
            assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
            begun_s = time.monotonic()
            await emulated_cluster.run_for("2 s")
            assert time.monotonic() - begun_s >= 0.249
            stream = await emulated_cluster.submit(prompt_tokens=10, output_tokens=2)
            assert len(await stream.rest()) == 2
    """)
    run().assert_outcomes(passed=1)


def test_files_are_found_beside_the_test_and_below_the_root(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makefile(".yaml", **{"suite/one": GOOD, "suite/two": FAILING, "tests/own": GOOD})
    pytester.makeini("[pytest]\n")
    (pytester.path / "tests" / "test_files.py").write_text(
        "import pytest\n"
        "@pytest.mark.scenario('own.yaml', 'suite/*.yaml', 'quickstart')\n"
        "def test_file(scenario_file):\n"
        "    assert scenario_file\n"
    )
    result = run("-v", "tests")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines([f"*::test_file[[]{name}]*" for name in ("own", "one", "two", "quickstart")])


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("scenario()", "scenario takes names or paths of scenarios"),
        ("scenario('no/such.yaml')", "matches 'no/such.yaml'; correct the scenario's path"),
        ("scenario('quickstart', clock='wall')", "clock is 'wall'; it must be 'virtual' or 'real'"),
        ("scenario('quickstart', clocks='real')", "scenario takes no 'clocks'"),
        ("skipif(False, reason='')", "there is no scenario; mark the test with @pytest.mark.scenario"),
        ("scenario('quikstart')", "did you mean quickstart?"),
    ],
)
def test_wrong_marks_are_told(mark: str, told: str, pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(f"""
        import pytest
        from scenarios.loader import load_scenario

        @pytest.mark.{mark}
        def test_it(scenario_file):
            load_scenario(scenario_file)
    """)
    result = run()
    assert result.ret != 0
    output = result.stdout.str() + result.stderr.str()
    assert told in output
    assert "_hookexec" not in output


def test_somebody_elses_mark_of_the_same_name_is_left_alone(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.scenario(1, other=True)
        def test_it():
            pass

        @pytest.mark.scenario
        class TestThat:
            def test_it(self):
                pass
    """)
    run(mode="strict").assert_outcomes(passed=2)


def test_without_the_marker_a_hook_for_loops_is_whoever_elses_it_is(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest("""
        import asyncio

        class OwnLoop(asyncio.SelectorEventLoop):
            pass

        def pytest_asyncio_loop_factories(config, item):
            return {"own": OwnLoop}
    """)
    pytester.makepyfile("""
        import asyncio
        import pytest

        async def test_own():
            assert type(asyncio.get_running_loop()).__name__ == "OwnLoop"

        @pytest.mark.scenario("quickstart")
        async def test_virtual(emulated_cluster):
            assert type(asyncio.get_running_loop()).__name__ == "VirtualTimeLoop"

        async def test_own_again():
            assert type(asyncio.get_running_loop()).__name__ == "OwnLoop"
    """)
    run().assert_outcomes(passed=3)


# ------------------------------------------------------------------------------------------------ YAML files


def test_a_scenario_file_is_a_test_when_it_is_named(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makefile(".yaml", good=GOOD, failing=FAILING)
    result = run("good.yaml", "failing.yaml", "--junitxml=report.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "requests.finished: expected >= 100000, got *",
            "seed 3; the same again: helixemu test failing.yaml",
            "*or: pytest failing.yaml",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    report = (pytester.path / "report.xml").read_text()
    assert "expected &gt;= 100000" in report
    assert '<property name="conditions" value="2"' in report


def test_folders_are_searched_for_the_files_of_the_setting_only(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makefile(".yaml", **{"suite/good": GOOD, "other/good": GOOD, "other/list": "- [", "ci": "on: push\n"})
    pytester.makepyfile("def test_it(): pass")
    run().assert_outcomes(passed=1)
    run("-o", "helixemu_scenarios=suite/*.yaml").assert_outcomes(passed=2)


def test_files_that_are_no_tests_are_told(pytester: pytest.Pytester, run: Run) -> None:
    calm = GOOD.split("expect:")[0]
    pytester.makefile(".yaml", calm=calm, broken=GOOD.replace("10 s", "10"), other="a: 1\n")
    run("calm.yaml").stdout.fnmatch_lines(["*it expects nothing: there is no expect section*"])
    result = run("broken.yaml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["broken.yaml:3: duration: 10: it is a bare number*"])
    # Somebody else's YAML is left to whoever collects it.
    assert "expects nothing" not in run("other.yaml").stdout.str()


def test_it_works_where_pytest_asyncio_is_not(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makefile(".yaml", good=GOOD)
    pytester.makepyfile(
        test_plain="""
        import pytest

        @pytest.mark.scenario("quickstart")
        def test_it(scenario_file):
            assert scenario_file == "quickstart"
    """
    )
    plain = pytester.runpytest_subprocess(
        *PLUGIN, "-p", "no:asyncio", "-p", "no:cacheprovider", "test_plain.py", "good.yaml"
    )
    plain.assert_outcomes(passed=2)
