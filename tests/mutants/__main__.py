"""Make one mistake after the other in a copy of the program, and see that a test notices each.

    python -m tests.mutants                     all of them
    python -m tests.mutants --only NAME...      some
    python -m tests.mutants --list
    python -m tests.mutants --check             only whether the table fits the program

A mutant whose tests all pass has survived: a mistake of that kind could get in unseen. The exit
code is 1 when one did that is not explained in the table, 2 when the table does not fit the
program, or its tests fail without any mistake.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import click

from tests.mutants.mutant import Mutant, Stale, mutated
from tests.mutants.table import MUTANTS
from tests.mutants.tree import ROOT, Outcome, Tree

_CHANCE_MAX = 5  # failures that do not come again, of one mutant's tests


@click.command()
@click.option("--only", multiple=True, help="A mutant's name, or how it begins.")
@click.option("--list", "lists", is_flag=True, help="Show them, and do nothing.")
@click.option("--check", is_flag=True, help="See only whether their old texts are there.")
@click.option("--jobs", default=1, show_default=True, help="How many at once.")
@click.option("--limit", default=240.0, show_default=True, help="Seconds for one's tests.")
@click.option("--verbose", is_flag=True, help="Show what the tests printed.")
@click.option("--no-baseline", is_flag=True, help="Do not run the tests without a mistake first.")
def main(
    only: tuple[str, ...],
    lists: bool,
    check: bool,
    jobs: int,
    limit: float,
    verbose: bool,
    no_baseline: bool,
) -> None:
    """Make mistakes on purpose, and see that tests notice."""
    chosen = [each for each in MUTANTS if not only or each.name.startswith(only)]
    if lists:
        for each in chosen:
            click.echo(f"{each.name:34} {each.file}\n    {each.why}")
        return
    if stale := [text for each in chosen if (text := _stale(each))]:
        click.echo("\n".join(stale))
        sys.exit(2)
    if check:
        click.echo(f"{len(chosen)} mutants fit the program")
        return
    with tempfile.TemporaryDirectory(prefix="federation-mutants-") as folder:
        sys.exit(_run(chosen, Path(folder), jobs, limit, verbose=verbose, baseline=not no_baseline))


def _stale(mutant: Mutant) -> str | None:
    try:
        mutated(mutant, (ROOT / mutant.file).read_text())
    except (Stale, OSError) as error:
        return str(error)
    missing = [t for t in mutant.tests if not (ROOT / t.partition("::")[0]).exists()]
    return f"{mutant.name}: no tests at {missing}" if missing else None


def _run(
    chosen: list[Mutant], folder: Path, jobs: int, limit_s: float, *, verbose: bool, baseline: bool
) -> int:
    trees: SimpleQueue[Tree] = SimpleQueue()
    made = [Tree(folder / str(number)) for number in range(jobs)]
    for tree in made:
        tree.check_import()
        trees.put(tree)
    if baseline:
        tree = trees.get()
        for mark in sorted({each.marked for each in chosen}):
            tests = sorted({t for each in chosen if each.marked == mark for t in each.tests})
            outcome = tree.test(tests, limit_s * 10, mark)
            if outcome is not Outcome.PASSED:
                click.echo(f"without any mistake: {outcome}\n{tree.output}")
                return 2
        trees.put(tree)
    with ThreadPoolExecutor(jobs) as pool:

        def stop(*_: object) -> None:
            pool.shutdown(wait=False, cancel_futures=True)
            for tree in made:
                tree.end()
            sys.exit("ended by SIGTERM")

        signal.signal(signal.SIGTERM, stop)
        ends = list(pool.map(lambda each: _try(each, trees, limit_s, verbose=verbose), chosen))
    survived = [each for each, end in zip(chosen, ends, strict=True) if end is Outcome.PASSED]
    broken = [each for each, end in zip(chosen, ends, strict=True) if end is Outcome.BROKEN]
    unexplained = [each for each in survived if not each.survives]
    click.echo(f"\n{len(chosen)} mutants, {len(survived)} survived, {len(broken)} broken")
    for each in survived:
        click.echo(f"survived: {each.name}: {each.survives or each.why}")
    for each in broken:
        click.echo(f"broken: {each.name}: its tests could not be run with it")
    return 2 if broken else int(bool(unexplained))


def _try(mutant: Mutant, trees: SimpleQueue[Tree], limit_s: float, *, verbose: bool) -> Outcome:
    tree = trees.get()
    before = tree.read(mutant.file)
    began_s = time.perf_counter()
    try:
        tree.write(mutant.file, mutated(mutant, before))
        outcome, failed = _test(tree, mutant, limit_s)
        output = tree.output
    finally:
        tree.write(mutant.file, before)
        trees.put(tree)
    taken_s = time.perf_counter() - began_s
    word = {Outcome.PASSED: "SURVIVED", Outcome.FAILED: "killed"}.get(outcome, outcome.value)
    click.echo(f"{word:10} {taken_s:5.0f} s  {mutant.name}  {failed}")
    if verbose or outcome is Outcome.BROKEN:
        click.echo(output)
    return outcome


def _test(tree: Tree, mutant: Mutant, limit_s: float) -> tuple[Outcome, str]:
    """Run its tests; what fails has to fail twice, or it is a test that fails now and then."""
    chance: list[str] = []
    while True:
        args = [*mutant.tests, *(f"--deselect={test}" for test in chance)]
        outcome = tree.test(args, limit_s, mutant.marked)
        failed = tree.failed
        if outcome is not Outcome.FAILED or not failed or len(chance) == _CHANCE_MAX:
            return outcome, failed
        if tree.test([failed], limit_s, mutant.marked) is not Outcome.PASSED:
            return outcome, failed
        click.echo(f"{'by chance':10}          {mutant.name}  {failed}")
        chance.append(failed)


if __name__ == "__main__":
    main()
