"""What people see of peers and ask for, beside a node or without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.cli.options import Place
from federation.cli.reconcile import wait_until_done
from federation.config.model import StorageConfig
from federation.core.clock import utc_text
from federation.core.digest import digest_of
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.storage.contract import Operations
from federation.storage.replication_log import CatalogueLog
from federation.storage.reports import KnownPeer
from federation.storage.storage import Storage
from tests.storage.conftest import opened, short

BLOBS = [(digest_of(data), data) for data in (b"one", b"two", b"three" * 1000)]
FOLLOWING = PeerState.FOLLOWING


def run(*args: str, code: int = 0) -> Any:
    done = CliRunner().invoke(main, [*args, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def in_storage(data: Path, work: Callable[[Storage], Awaitable[None]]) -> None:
    async def go() -> None:
        async with opened(data, short()) as storage:
            await work(storage)

    asyncio.run(go())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with three blobs; one peer has two of them and another needs a resync."""

    async def fill(storage: Storage) -> None:
        await storage.write_small(BLOBS)
        await storage.ledger.save(
            [
                PeerRecord(
                    "tokyo",
                    cursor=2,
                    state=FOLLOWING,
                    reason="",
                    sent_objects=2,
                    sent_bytes=6,
                    last_success_s=1_800_000_000.0,
                ),
                PeerRecord("lima", reason="new", last_error="no route", last_error_s=1.0),
                PeerRecord("lima", Lane.WINDOW, cursor=1, state=FOLLOWING, reason=""),
            ]
        )
        await storage.ledger.park(
            [Parked("tokyo", 3, BLOBS[2][0], None, str(BLOBS[2][0]), "it says no", 1.0)]
        )

    in_storage(tmp_path / "data", fill)
    return tmp_path / "data"


def peer(data: Path, name: str) -> dict[str, Any]:
    (found,) = [p for p in run("status", "--data-dir", str(data))["peers"] if p["name"] == name]
    assert isinstance(found, dict)
    return found


def test_status_says_how_far_each_peer_is(data: Path) -> None:
    tokyo = peer(data, "tokyo")
    assert tokyo.pop("lag-s") >= 0
    assert tokyo == {
        "name": "tokyo",
        "state": "following",
        "lag-objects": 1,
        "lag-bytes": 5000,
        "parked": 1,
        "sent-objects-total": 2,
        "sent-bytes-total": 6,
        "last-success": utc_text(1_800_000_000),
        "last-error": None,
        "last-error-at": None,
        "node-id": None,
        "reconciles-waiting": 0,
    }
    lima = peer(data, "lima")
    assert (lima["state"], lima["reason"], lima["lag-objects"]) == ("needs-resync", "new", None)
    assert lima["last-error"] == "no route"
    assert lima["window"]["lag-objects"] == 2


def test_parked_objects_are_listed_with_their_reason(data: Path) -> None:
    (row,) = run("parked", "--data-dir", str(data))["parked"]
    assert (row["object"], row["peer"], row["reason"]) == (str(BLOBS[2][0]), "tokyo", "it says no")
    assert (row["kind"], row["tries"], row["retry-asked"]) == ("blob", 1, False)
    assert run("parked", "--data-dir", str(data), "--peer", "lima")["parked"] == []
    shown = CliRunner().invoke(main, ["parked", "--data-dir", str(data)]).stdout
    assert "reason: it says no" in shown


def test_a_retry_is_asked_for_of_one_peer_or_all(data: Path) -> None:
    for args, asked in ((["--peer", "lima"], 0), ([], 1)):
        facts = run("parked", "retry", "--data-dir", str(data), *args)
        assert (facts["retry-asked"], facts["processes"]) == (asked, 0)
    (row,) = run("parked", "--data-dir", str(data))["parked"]
    assert row["retry-asked"] is True


def test_options_of_retry_in_front_of_it_are_not_silently_ignored(data: Path) -> None:
    done = CliRunner().invoke(main, ["parked", "--data-dir", str(data), "retry"])
    assert done.exit_code == 2
    assert "options go after retry" in done.stderr


class Ending(Place):
    """A place whose only process ends its work, and itself, as it is asked about."""

    ended: Any

    @property
    def operations(self) -> Any:
        return self

    def processes(self) -> list[dict[str, Any]]:
        self.ended = True
        return []

    def peers(self) -> list[KnownPeer]:
        served = int(getattr(self, "ended", False))
        return [
            KnownPeer(
                "tokyo", {Lane.ALWAYS: PeerRecord("tokyo", wanted=1, served=served)}, {}, parked=0
            )
        ]


def test_a_process_that_ends_behind_its_work_has_done_it(tmp_path: Path) -> None:
    where = Ending(tmp_path, StorageConfig())
    (asked,) = where.peers()
    assert wait_until_done(where, asked, lambda _done, _total: None).done == 1


def test_a_reconcile_is_asked_for_and_waits_for_a_process(data: Path) -> None:
    facts = run("reconcile", "tokyo", "--data-dir", str(data))
    assert (facts["reconcile-asked"], facts["processes"]) == (True, 0)
    assert peer(data, "tokyo")["reconciles-waiting"] == 1
    assert peer(data, "lima")["reconciles-waiting"] == 0
    facts = run("reconcile", "tokyo", "--wait", "--data-dir", str(data), code=3)
    assert "no process serves" in facts["error"]


def test_waiting_for_a_reconcile_ends_with_it_and_says_what_was_sent(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(_operations: Operations) -> list[dict[str, Any]]:
        """Do, between two looks of the command, what a process that replicates does."""
        in_storage(data, done)
        return [{"pid": 1, "peers": [{"name": "tokyo", "lanes": {"always": {"offered": 2}}}]}]

    async def done(storage: Storage) -> None:
        for record in await storage.ledger.peers():
            if record.name == "tokyo":
                await storage.ledger.save([record._replace(served=record.wanted, sent_objects=9)])

    monkeypatch.setattr("federation.cli.reconcile.facts_of_processes", serve)
    facts = run("reconcile", "tokyo", "--wait", "--data-dir", str(data), code=1)
    assert facts == {
        "peer": "tokyo",
        "reconciled": True,
        "sent-objects": 7,
        "sent-bytes": 0,
        "parked": 1,
    }


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("tokyo", "1 objects (5000 bytes) are not acknowledged, 1 are parked"),
        ("lima", "what is missing is unknown, as it needs a resync, 2 objects"),
    ],
)
def test_a_peer_that_lacks_something_is_dropped_only_when_that_is_said(
    data: Path, capfd: pytest.CaptureFixture[str], name: str, lacks: str
) -> None:
    facts = run("drop-peer", name, "--data-dir", str(data), code=2)
    assert f"not everything has been replicated to {name}: {lacks}" in facts["error"]
    args = ["drop-peer", name, "--data-dir", str(data), "--lose-unacknowledged"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0
    assert f"dropped: {name}\n" in done.stdout
    assert '"event": "peer_dropped"' in capfd.readouterr().err
    (left,) = run("status", "--data-dir", str(data))["peers"]
    assert left["name"] != name
    parked = run("parked", "--data-dir", str(data))["parked"]
    assert len(parked) == (0 if name == "tokyo" else 1)


def test_a_peer_that_has_everything_is_dropped_at_once(data: Path) -> None:
    async def catch_up(storage: Storage) -> None:
        ledger: CatalogueLog = storage.ledger
        records = await ledger.peers()
        await ledger.save([r._replace(cursor=3) for r in records if r.name == "tokyo"])
        await ledger.unpark(await ledger.parked("tokyo"))

    in_storage(data, catch_up)
    facts = run("drop-peer", "tokyo", "--data-dir", str(data))
    assert facts == {
        "dropped": "tokyo",
        "unacknowledged-objects": 0,
        "unacknowledged-bytes": 0,
        "needed-resync": False,
        "parked": 0,
    }


def test_a_peer_that_is_still_configured_is_not_dropped(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    peers = "peers: [{name: tokyo, url: 'grpc://127.0.0.1:1'}]"
    file.write_text(f"data-dir: {data}\n{peers}\n")
    args = ("drop-peer", "tokyo", "--config", str(file), "--lose-unacknowledged")
    assert "is in the configuration" in run(*args, code=2)["error"]
    assert peer(data, "tokyo")["parked"] == 1


def test_a_process_that_cannot_be_asked_may_still_have_the_peer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [{"pid": 7, "not-known": "it has no HTTP listener"}]
    monkeypatch.setattr("federation.cli.drop_peer.facts_of_processes", lambda _: silent)
    facts = run("drop-peer", "tokyo", "--data-dir", str(data), "--lose-unacknowledged", code=2)
    assert "process 7 does not say which peers it has (it has no HTTP listener)" in facts["error"]
    file = tmp_path / "node.yaml"
    file.write_text(f"data-dir: {data}\n")
    args = ("drop-peer", "tokyo", "--config", str(file), "--lose-unacknowledged")
    assert run(*args)["dropped"] == "tokyo"


@pytest.mark.parametrize(
    "command", [["parked", "--peer"], ["parked", "retry", "--peer"], ["reconcile"], ["drop-peer"]]
)
def test_a_name_that_no_peer_has_is_wrong_usage_and_names_those_there_are(
    data: Path, command: list[str]
) -> None:
    facts = run(*command, "rome", "--data-dir", str(data), code=2)
    assert "no peer 'rome' is known" in facts["error"]
    assert "known: lima, tokyo" in facts["error"]
