"""A copy of the project to make mistakes in, and a run of tests there."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIED = ("federation", "tests", "protos", "docs", "benchmarks", "pyproject.toml")
_COPIED_FILES = ("config.example.yaml", "README.md")
_OUTPUT_SHOWN_CHARS = 3000


class Outcome(StrEnum):
    """How a run of tests ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    BROKEN = "broken"  # no test ran: nothing was found, or could be imported


class Tree:
    """One copy; used for one mutant after the other."""

    def __init__(self, folder: Path) -> None:
        """Copy the project as it is in the working tree."""
        self._folder = folder
        self._times = itertools.count(1)
        for name in (*_COPIED, *_COPIED_FILES):
            source, target = ROOT / name, folder / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
                shutil.copytree(source, target, ignore=ignored, symlinks=True)
            elif source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        self.output = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def failed(self) -> str:
        """The test that failed in the last run."""
        found = [line for line in self.output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return found[0].split()[1] if found else ""

    def end(self) -> None:
        """End a run that is under way."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def read(self, file: str) -> str:
        """Return a file's text."""
        return (self._folder / file).read_text()

    def write(self, file: str, text: str) -> None:
        """Replace a file's text; bytecode made from another one is never taken for it."""
        path = self._folder / file
        path.write_text(text)
        at_ns = path.stat().st_mtime_ns + next(self._times) * 2_000_000_000
        os.utime(path, ns=(at_ns, at_ns))

    def check_import(self) -> None:
        """Raise RuntimeError if tests here would run another copy of the program."""
        done = self._run([sys.executable, "-c", "import federation; print(federation.__file__)"])
        where = done.communicate(timeout=60)[0].strip()
        if not where.startswith(str(self._folder)):
            raise RuntimeError(f"the tests would import {where}")

    def test(self, tests: Sequence[str], limit_s: float, marked: str = "") -> Outcome:
        """Run tests until the first failure; what they print is kept in output.

        marked: only those with this mark; empty: those of the plain suite.
        """
        process = self._process = self._run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider"),
                *("--basetemp", str(self._folder / "tmp"), *tests),
                *(("-m", marked) if marked else ()),
            ]
        )
        try:
            self.output = process.communicate(timeout=limit_s)[0][-_OUTPUT_SHOWN_CHARS:]
        except subprocess.TimeoutExpired:
            _end(process)
            return Outcome.TIMED_OUT
        finally:
            if process.poll() is None:
                _end(process)
        return {0: Outcome.PASSED, 1: Outcome.FAILED}.get(process.returncode, Outcome.BROKEN)

    def _run(self, command: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env=_environment(self._folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _environment(folder: Path) -> dict[str, str]:
    """Return the variables for tests in the copy; they keep bytecode, whatever we were told."""
    found = {**os.environ, "PYTHONPATH": str(folder)}
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def _end(process: subprocess.Popen[str]) -> None:
    """End a run; the nodes it started die with it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
