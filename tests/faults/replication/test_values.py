"""One name written differently at two sites that were apart, with clocks that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.digest import Digest, digest_of
from tests.faults.replication import skewed
from tests.faults.replication.link import Mode
from tests.faults.replication.mesh import MUTUAL, RING, Edge, Mesh, full
from tests.faults.replication.work import action_of, noise, settle
from tests.support.polling import pass_time, wait_until
from tests.support.process_client import Client, action_result

HOUR_S, DAY_S = 3600, 86400
NAMES = 10


CLOCKS_APART = {"clock-drift": "30d"}  # else nobody takes what such a clock has dated


def set_clock(mesh: Mesh, name: str, offset_s: float) -> None:
    """Let a node's wall clock, from its next start on, be wrong by so much."""
    node = mesh.nodes[name]
    node.run_program(skewed.PROGRAM, {skewed.VARIABLE: str(offset_s)})


def write_names(client: Client, who: object, number: int) -> Digest:
    """Push one value under an action and under a URI that others write, too."""
    data = noise(f"{who} {number}", 500)
    digest = digest_of(data)
    client.batch_update([data])
    client.update_action_result(action_of("shared", number), action_result([("out", digest)]))
    client.push_blob(f"urn:example:shared:{number}", digest)
    return digest


def values(client: Client) -> list[Digest | None]:
    """What each of these names has as its value."""
    found: list[Digest | None] = []
    for number in range(NAMES):
        found.append(client.fetch_blob(f"urn:example:shared:{number}"))
        result = client.get_action_result(action_of("shared", number))
        assert result is not None
        found.append(Digest(bytes.fromhex(result.output_files[0].digest.hash), 500))
    return found


TOPOLOGIES: dict[str, list[Edge]] = {
    "pair": list(MUTUAL),
    "ring": list(RING),
    "three": full("abc"),
}


@pytest.mark.parametrize(
    ("topology", "skew_s"),
    [("pair", 2 * DAY_S), ("three", HOUR_S), ("ring", -2 * DAY_S)],
)
def test_r15_r19_written_apart_with_clocks_apart_ends_as_one_value(
    tmp_path: Path, topology: str, skew_s: float
) -> None:
    with Mesh(tmp_path, TOPOLOGIES[topology], storage=CLOCKS_APART) as mesh:
        set_clock(mesh, "a", skew_s)
        mesh.start()
        mesh.wait_until_idle()
        clients = {name: mesh.client(name) for name in mesh.nodes}
        for number in range(NAMES):  # known everywhere
            write_names(clients["b"], "old", number)
        settle(mesh)
        for link in mesh.links.values():
            link.set(Mode.CUT)
        for number in range(NAMES):
            order = list(clients) if number % 2 else list(reversed(clients))
            for name in order:
                write_names(clients[name], name, number)
        for link in mesh.links.values():
            link.set(Mode.OPEN)
        settle(mesh)
        found = [values(client) for client in clients.values()]
        assert found == [found[0]] * len(found)
        old = {digest_of(noise(f"old {number}", 500)) for number in range(NAMES)}
        assert not old & {value for value in found[0] if value is not None}

        heads = {name: mesh.head(name) for name in mesh.nodes}
        pass_time(1)
        assert {name: mesh.head(name) for name in mesh.nodes} == heads  # nobody plays ping-pong
        newest = write_names(clients["b"], "newest", 0)  # a right clock is not outdone for days
        settle(mesh)
        for client in clients.values():
            assert client.fetch_blob("urn:example:shared:0") == newest
            client.channel.close()


def test_r19_a_clock_put_right_evicts_and_expires_nothing(tmp_path: Path) -> None:
    with Mesh(tmp_path, MUTUAL, storage=CLOCKS_APART) as mesh:
        for offset_s in (2 * DAY_S, -2 * DAY_S):
            set_clock(mesh, "a", offset_s)
            mesh.start(*(["a"] if mesh.nodes["b"].running else []))
            with mesh.client("a") as here, mesh.client("b") as there:
                mine = [write_names(here, offset_s, number) for number in range(NAMES)]
                settle(mesh)
                assert not there.find_missing(mine)
                theirs = write_names(there, f"after {offset_s}", 0)
                settle(mesh)
                assert here.fetch_blob("urn:example:shared:0") == theirs
                assert mesh.nodes["a"].metrics().value("federation_evicted_total") == 0
            assert mesh.nodes["a"].stop() == 0


def test_r19_one_moment_of_a_wrong_clock_holds_up_nothing(tmp_path: Path) -> None:
    with Mesh(tmp_path, MUTUAL) as mesh:
        set_clock(mesh, "a", 400 * DAY_S)
        mesh.start()
        with mesh.client("a") as client:
            wrong = write_names(client, "wrong", 0)
        assert mesh.nodes["a"].stop() == 0
        set_clock(mesh, "a", 0)
        mesh.start("a")
        with mesh.client("a") as here, mesh.client("b") as there:
            right = [write_names(here, "right", number) for number in range(1, 41)]

            def came() -> bool:
                return [there.fetch_blob(f"urn:example:shared:{n}") for n in range(1, 41)] == right

            wait_until(came, "what a right clock dated")
            settle(mesh, within_s=90)
            assert there.fetch_blob("urn:example:shared:0") == wrong
            newest = write_names(there, "newest", 0)
            settle(mesh)
            assert here.fetch_blob("urn:example:shared:0") == newest
        assert mesh.nodes["a"].metrics().value("federation_redated_entries_total") == 2
        assert "entries_redated" in mesh.nodes["a"].log
