"""docs/faults.md and the tests agree: a label in a test's name is a case there, and is tested."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CASE = re.compile(r"^\| ([A-Z]\d\d) \|(.*)$", re.MULTILINE)
LABELS = re.compile(r"def test_((?:[a-z]\d\d_)+)")
NO_TEST = "[no test of its own]"


def labels_of_tests() -> set[str]:
    return {
        label.upper()
        for path in (ROOT / "tests").rglob("test_*.py")
        for found in LABELS.findall(path.read_text())
        for label in found.strip("_").split("_")
    }


def test_each_label_is_a_case_and_each_case_says_truly_whether_it_has_a_test() -> None:
    cases = CASE.findall((ROOT / "docs/faults.md").read_text())
    names = [name for name, _ in cases]
    assert len(names) == len(set(names)), "a case is listed twice"
    assert labels_of_tests() - set(names) == set(), "labels that are no case"
    untested = {name for name, text in cases if NO_TEST in text}
    assert untested == set(names) - labels_of_tests()
