"""Settings that pytest and nbval need to run the tests, and the notebooks as tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from helpers import get_profile
from helpers.server import Server, connect

ATTACHING = ("05", "06", "08")  # notebooks that call a server, and join one that runs already

os.environ.setdefault("TUTORIAL_ROUNDS", "1")  # 07 and 08 measure twice, for their numbers; a test reads none of them

signal.signal(signal.SIGINT, signal.default_int_handler)  # run in the background, Python and its children ignore it

SHARED = pytest.StashKey[Server]()
_start_kernel = IPyNbFile.setup


def _start_kernel_without_pytest_marks(notebook: IPyNbFile) -> Any:
    notebook.skip_compare += ("stderr",)  # progress bars and warnings; what the prose says goes to stdout
    # ipykernel sees PYTEST_CURRENT_TEST and then leaves the real stdout alone: `sys.stdout.fileno()` raises in the
    # notebook and the output of child processes is lost.
    marks = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        return _start_kernel(notebook)
    finally:
        if marks is not None:
            os.environ["PYTEST_CURRENT_TEST"] = marks


IPyNbFile.setup = _start_kernel_without_pytest_marks


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if isinstance(item, IPyNbCell) and report.failed:
        item.parent.failed_cell = item.name
    return report


def attaches(item: pytest.Item) -> bool:
    return isinstance(item, IPyNbCell) and item.path.name[:2] in ATTACHING


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=attaches)  # last, and so side by side: one server for all of them, and for no other


def pytest_runtest_setup(item: pytest.Item) -> None:
    failed = getattr(item.parent, "failed_cell", None) if isinstance(item, IPyNbCell) else None
    if failed:
        pytest.skip(f"{failed} failed, and later cells build on it")
    if attaches(item) and SHARED not in item.config.stash:
        item.config.stash[SHARED] = connect(get_profile())  # ends with this process, whatever happens to it


def pytest_sessionfinish(session: pytest.Session) -> None:
    if SHARED in session.config.stash:
        session.config.stash[SHARED].stop()
