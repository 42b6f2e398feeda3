"""Bazel with a node that pulls from another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.bazel import (
    ACTIONS,
    BIG_BYTES,
    Builder,
    executed,
    hits,
    write_workspace,
)
from tests.clients.mirror import Asked, mirror, upstream, wait_for_prefetch, writes
from tests.clients.tools import Counted, tree
from tests.support.process import serve

pytestmark = pytest.mark.clients

ONLY_PULL = "--remote_upload_local_results=false"


def test_a_mirror_gives_all_hits_and_goes_on_without_its_upstream(tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "workspace")
    # With index-ttl 0 the upstream is asked each time while it is there; afterwards, old is good.
    with (
        serve(tmp_path / "there") as there,
        mirror(tmp_path / "here", upstream(there.address), index_ttl=0) as here,
    ):
        first = Builder(tmp_path / "first", workspace, there.address)
        assert executed(first.build()) == ACTIONS

        asked, answered = Asked(here), Counted(there)
        second = Builder(tmp_path / "second", workspace, here.addresses[1], ONLY_PULL)
        through = second.build()
        assert (hits(through), executed(through)) == (ACTIONS, 0)
        assert tree(second.outputs) == tree(first.outputs)
        wait_for_prefetch(here)
        assert answered.calls("GetActionResult") == asked.of("GetActionResult") == ACTIONS
        assert asked.entries(kind="action_result", result="hit") == ACTIONS
        assert answered.calls("Read", None) == 1  # the big one
        assert answered.calls("BatchReadBlobs", None) > 0  # all others
        assert asked.bytes_out() >= BIG_BYTES

        there.kill()
        alone = Asked(here)
        third = Builder(tmp_path / "third", workspace, here.addresses[1], ONLY_PULL)
        again = third.build()
        assert (hits(again), executed(again)) == (ACTIONS, 0)
        assert tree(third.outputs) == tree(first.outputs)
        assert alone.bytes_out() >= BIG_BYTES
        assert alone.bytes_from() == 0


def test_what_is_built_upon_a_mirror_stays_there(tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "workspace")
    with (
        serve(tmp_path / "there") as there,
        mirror(tmp_path / "here", upstream(there.address)) as here,
    ):
        Builder(tmp_path / "first", workspace, there.address).build()
        (workspace / "in.txt").write_text("changed\n")
        pushed, answered = Counted(here), Counted(there)
        result = Builder(tmp_path / "second", workspace, here.addresses[0]).build()
        assert (hits(result), executed(result)) == (ACTIONS - 2, 2)  # two read what has changed
        assert pushed.calls("UpdateActionResult") == 2
        assert pushed.bytes_in() > 0
        assert answered.calls("GetActionResult", None) == ACTIONS
        assert writes(answered) == answered.bytes_in() == 0
