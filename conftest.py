"""A test that is tried again finds nothing of its first try: every fixture it shared with others is made anew."""

from __future__ import annotations

import pytest
from pytest_timeout import Settings

_limit = pytest.StashKey[Settings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-first",
        action="store_true",
        help="Let the first try of each test fail once it has run, to see that tests pass when they are tried again.",
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    done = yield
    if item.config.getoption("fail_first") and _tries(item) == 1:
        pytest.fail("made to fail by --fail-first", pytrace=False)
    return done


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> object:
    """Tear down what the test shared with others, too, when it failed and will be tried again.

    A server keeps the records of the try that failed, and may be what failed.
    """
    if any(_failures(item)):
        _tear_all_down(item)
    try:
        return (yield)
    except (Exception, pytest.fail.Exception):
        _tear_all_down(item)
        raise


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The timeout is of each try: a second one that hangs is ended, too."""
    if _tries(item) > 1:
        _start_timer(item)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> None:
    item.stash[_limit] = settings


def _tries(item: pytest.Item) -> int:
    """How often the test was begun, as pytest-rerunfailures counts."""
    return getattr(item, "execution_count", 1)


def _failures(item: pytest.Item) -> list[bool]:
    """Whether the phases of this try failed, as pytest-rerunfailures keeps it."""
    return list(getattr(item, "_test_failed_statuses", {}).values())


def _tear_all_down(item: pytest.Item) -> None:
    if _tries(item) <= (item.config.getoption("reruns", None) or 0):
        _start_timer(item)
        item.session._setupstate.teardown_exact(None)


def _start_timer(item: pytest.Item) -> None:
    if item.stash.get(_limit, None) is not None:
        item.config.hook.pytest_timeout_cancel_timer(item=item)
        item.config.hook.pytest_timeout_set_timer(item=item, settings=item.stash[_limit])
