"""The judge of a run of rounds tells a loss from what a node could not promise for a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from federation.core.digest import Digest, digest_of
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.schema import connect
from federation.storage.shared_memory import Epoch
from tests.faults.replication.judging import Withheld, judge, withheld_by
from tests.faults.replication.work import push
from tests.faults.storage.clean import catalogue
from tests.support.oracle import Oracle
from tests.support.polling import pass_time, wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result

ACTION = digest_of(b"action")


class Held(NamedTuple):
    """A node, and what it acknowledged: a few blobs and an action result that names them."""

    node: Node
    client: Client
    oracle: Oracle
    digests: list[Digest]


@contextmanager
def holding(folder: Path, lease: str) -> Iterator[Held]:
    with (
        serve(folder / "data", {"storage": {"lease": lease}}) as node,
        Client(node.address) as client,
        Oracle(folder / "journal") as oracle,
    ):
        digests = push(client, "judged", 5, size=500)
        oracle.acknowledged(*digests)
        result = action_result([("out", digest) for digest in digests])
        client.update_action_result(ACTION, result)
        oracle.action_acknowledged(ACTION, result)
        yield Held(node, client, oracle, digests)


def test_what_is_gone_is_a_loss(tmp_path: Path) -> None:
    withheld = Withheld()
    with holding(tmp_path, "1h") as (node, client, oracle, digests):
        judge(node, client, [oracle], withheld)
        with catalogue(node.data_dir, write=True) as connection:
            connection.execute("DELETE FROM blob WHERE key = ?", (key_of(digests[0]),))
            assert connection.changes() == 1
        epoch = Epoch(node.data_dir / "epoch")
        epoch.bump()  # as whoever removes something does
        epoch.close()
        with pytest.raises(AssertionError, match="lacks 2"):
            judge(node, client, [oracle], withheld)
    assert withheld.misses == 0


def test_s33_what_is_not_promised_while_the_catalogue_cannot_be_written_is_no_loss(
    tmp_path: Path,
) -> None:
    withheld = Withheld()
    with holding(tmp_path, "2s") as (node, client, oracle, digests):
        pass_time(0.5)  # their access times have to be renewed
        stuck = connect(node.data_dir / "catalogue.sqlite")
        stuck.execute("BEGIN IMMEDIATE")
        assert not client.find_missing(digests)
        pass_time(1.2)  # more than half the lease, so that no new one is given
        before = withheld_by(node)

        def release() -> None:
            wait_until(lambda: withheld_by(node) > before, "no lease to be given")
            stuck.close()

        releasing = threading.Thread(target=release)
        releasing.start()
        judge(node, client, [oracle], withheld)
        releasing.join()
    assert 0 < withheld.misses <= len(digests) + 1
