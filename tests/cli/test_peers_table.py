"""What `status` shows of peers, put together from the catalogue and from who replicates."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from federation.cli import main
from federation.cli.peers_table import shown
from federation.server.status.formats import span
from federation.server.status.peer_facts import notes_on, peers_together, without_peers
from tests.support.polling import wait_until
from tests.support.process import serve

STORED = {"name": "b", "state": "following", "lag-objects": 3, "lag-bytes": 5000, "parked": 0}
LIVE = {"name": "b", "state": "unreachable", "lag-objects": 2, "objects-per-s": 1.5}
PROCESS = {"pid": 7, "status": "serving", "replicates-here": True, "peers": [LIVE]}


def text_of(*peers: dict[str, Any]) -> str:
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(shown(peers))
    console.file.close()
    return console.export_text()


def test_who_replicates_knows_better_and_the_catalogue_knows_the_rest() -> None:
    (peer,) = peers_together([STORED], [{"pid": 6}, PROCESS], None)
    assert peer == {**STORED, **LIVE, "replicated-by": 7}
    assert without_peers(PROCESS) == {"pid": 7, "status": "serving", "replicates-here": True}


def test_that_nothing_is_lacking_is_not_believed_of_a_peer_that_needs_a_resync() -> None:
    stored = {**STORED, "state": "needs-resync", "lag-objects": None}
    (peer,) = peers_together([stored], [{**PROCESS, "peers": [{**LIVE, "lag-objects": 0}]}], None)
    assert peer["lag-objects"] is peer["lag-bytes"] is None


def test_a_peer_is_shown_before_it_was_met_and_after_it_was_taken_out() -> None:
    peers = peers_together([STORED], [], ["c"])
    assert [(peer["name"], peer.get("configured", True)) for peer in peers] == [
        ("b", False),
        ("c", True),
    ]
    assert peers[1]["state"] == "not met yet"
    left = {"pid": 1, "peers": [], "left-peers": [{"name": "b", "state": "following"}]}
    (peer,) = peers_together([STORED], [left], None)
    assert peer["configured"] is False
    assert "federation drop-peer b" in "\n".join(notes_on(peer))


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({"state": "itself", "reason": "new"}, "b: its url leads back to this node"),
        ({"state": "needs-resync", "reason": "new"}, "b: needs a resync: it is new"),
        ({"state": "reconciling", "reason": "wiped"}, "b: needs a resync: wiped"),
        ({"state": "following", "reason": "as complete as fits"}, "b: as complete as fits"),
        ({"forgets": True, "forgotten": 4}, "b: forgets what it acknowledged: 4 objects"),
        ({"unsupported": {"Remote Asset": 5}}, "b: has no Remote Asset: 5 entries were not sent"),
        ({"parked": 2}, "b: 2 objects are parked: federation parked --peer b"),
        ({"reconciles-waiting": 1}, "b: a reconcile is waiting or under way"),
        (
            {"state": "refused", "last-error": "denied", "last-error-at": "noon"},
            "b: last error at noon: denied",
        ),
    ],
)
def test_what_needs_attention_is_said_below_the_table(facts: dict[str, Any], note: str) -> None:
    (said,) = notes_on({**STORED, **facts})
    assert said.startswith(note)
    assert note in text_of({**STORED, **facts})


def test_there_is_nothing_to_say_about_a_peer_that_is_well() -> None:
    assert notes_on({**STORED, "last-error": "long ago", "last-error-at": "noon"}) == []


def test_what_is_not_known_is_a_dash() -> None:
    row = text_of({"name": "c", "state": "not met yet"}).splitlines()[1]
    assert row.split() == ["c", "not", "met", "yet", *["-"] * 6, "never"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.2, "0s"), (59, "59s"), (90, "1.5m"), (5400, "1.5h")]
)
def test_a_time_is_told_in_its_largest_unit(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


PEERS = {"peers": [{"name": "down", "url": "grpc://127.0.0.1:1"}]}


def test_a_running_node_tells_about_its_peers_and_watch_shows_them_live(tmp_path: Path) -> None:
    with serve(tmp_path / "data", PEERS) as node:
        args = ["status", "--data-dir", str(node.data_dir)]
        run = CliRunner().invoke
        wait_until(lambda: "unreachable" in run(main, args).stdout, "the peer is tried")
        shown_once = run(main, [*args, "--all"]).stdout
        assert "peers:\npeer  state" in shown_once
        assert "down: last error at" in shown_once
        ours, theirs = pty.openpty()
        watching = subprocess.Popen(
            [sys.executable, "-m", "federation", *args, "--watch"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "140"},
        )
        os.close(theirs)
        try:
            seen = b""
            while seen.count(b"unreachable") < 2:  # that is, it was drawn again
                seen += os.read(ours, 65536)
            assert b"serving; 0 blobs" in seen
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0
        finally:
            watching.kill()
            watching.wait()
            os.close(ours)


def test_watch_is_refused_where_nobody_looks(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["status", "--data-dir", str(tmp_path), "--watch"])
    assert done.exit_code == 2
    assert "needs a terminal" in done.stderr
