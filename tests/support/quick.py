"""Which tests are quick: they start no process and need no real disk.

A test is quick if neither its file nor the files of tests that this one imports from use anything
that starts processes. This cannot see a process that `federation` starts: it fails the test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# The modules that start processes.
_STARTERS = frozenset(
    {
        "subprocess",
        "multiprocessing",
        "federation.remote.helper_process",
        "tests.support.process",
    }
)
_STARTING = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system"})
_FIXTURES = frozenset({"node", "shared_node", "client"})  # of tests/conftest.py
_LEFT_OUT = ("heavy", "clients", "servers", "slow", "disk")

MEMORY = Path("/dev/shm")  # where a file system in memory is mounted on most systems


def is_quick(item: pytest.Item) -> bool:
    """Whether a test belongs to the quick tier."""
    if any(item.get_closest_marker(mark) for mark in _LEFT_OUT):
        return False
    names = getattr(item, "fixturenames", ())
    return not _FIXTURES & set(names) and not _starts(_all_of(item))


def _all_of(item: pytest.Item) -> frozenset[str]:
    """Return the names of the modules that define a test and its fixtures."""
    found = {item.getparent(pytest.Module).obj.__name__}  # type: ignore[union-attr]
    definitions: dict[str, Any] = getattr(item, "_fixtureinfo", None).name2fixturedefs  # type: ignore[union-attr]
    for several in definitions.values():
        found |= {each.func.__module__ for each in several}
    return frozenset(found - {"tests.conftest"})


@cache
def _starts(names: frozenset[str]) -> bool:
    return any(_STARTERS & _reached(name) for name in names)


@cache
def _reached(name: str) -> frozenset[str]:
    """Return the modules that define what this module uses, through all files of tests."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            if module.startswith("tests."):
                waiting += _named_in(module) - found
    return frozenset(found)


@cache
def _named_in(name: str) -> frozenset[str]:
    found = set()
    for value in vars(sys.modules[name]).values():
        if isinstance(value, ModuleType):
            found.add(value.__name__)
        elif isinstance(where := getattr(value, "__module__", None), str) and where in sys.modules:
            found.add(where)
    return frozenset(found)


class _Guard:
    """Refuses new processes while a quick test runs. One for all: audit hooks cannot be removed."""

    def __init__(self) -> None:
        self.closed = False
        sys.addaudithook(self._look)

    def _look(self, event: str, _args: tuple[Any, ...]) -> None:
        if self.closed and event in _STARTING:
            raise AssertionError("a test of the quick tier starts a process; see tests/README.md")


_guard = _Guard()


@contextmanager
def no_processes() -> Iterator[None]:
    """Make starting a process an error."""
    _guard.closed = True
    try:
        yield
    finally:
        _guard.closed = False
