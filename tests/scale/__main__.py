"""`python -m tests.scale`: print the tables that docs/scaling.md quotes, or write them there."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

import structlog

from tests.scale.tables import TABLES

SEED = 1
SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"


def _place(name: str) -> re.Pattern[str]:
    """Match a table in the page, behind the comment that says how it is made."""
    return re.compile(rf"(?<=<!-- python -m tests\.scale --table {name} -->\n\n)(\|.*\n)*")


def quoted(name: str) -> str:
    """Return a table as the page has it. Raises LookupError if there is no place for it."""
    found = _place(name).search(SCALING.read_text())
    if found is None:
        raise LookupError(f"{SCALING.name} has no place for the table {name}")
    return found[0]


def _write(name: str, table: str) -> None:
    SCALING.write_text(_place(name).sub(lambda _: table, SCALING.read_text()))


def main() -> int:
    """Print some or all tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    parser.add_argument("--table", choices=TABLES, action="append", help="only this one")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name in args.table or TABLES:
        table = TABLES[name](args.seed, quick=args.quick)
        if args.write:
            _write(name, table)
        sys.stdout.write(f"{name}\n\n{table}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
