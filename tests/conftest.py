"""What holds for every test run: it says at its end what it left out."""

from __future__ import annotations

from collections import Counter

import pytest

_HOW = {
    "clients": "real build clients: tests/clients/install, then pytest -m clients",
    "heavy": "take minutes, need root, or both: pytest -m heavy",
}
_LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = Counter()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in _HOW:
            if item.get_closest_marker(mark):
                item.config.stash[_LEFT_OUT][mark] += 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for mark, count in config.stash[_LEFT_OUT].items():
        terminalreporter.write_line(f"left out: {count} tests marked {mark} ({_HOW[mark]})")
