"""Makes the helper modules beside this file importable from every test, whatever pytest's import mode."""

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the programs that tests start would never see their Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

pytest_plugins = ["pytester"]
"""Tests of the pytest plugin run pytest."""

ALONE = {
    "kernel": ("netshape/kernel/", "test_net_", "test_real_time_namespaces", "test_kernel_backends"),
    "in step with the clock": ("test_agreement", "test_real_time_cli", "test_churn_in_real_time"),
}
"""Files whose tests run in one process, one after another, when pytest-xdist has several."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests apart that would measure each other."""
    for item in items:
        for group, files in ALONE.items():
            if any(part in item.nodeid for part in files):
                item.add_marker(pytest.mark.xdist_group(group))
