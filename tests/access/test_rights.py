"""Rights are what roles, instances and the listener leave of each other."""

from collections.abc import Callable
from functools import partial

import pytest

from federation.access.access import open_to_all
from federation.access.rights import ANONYMOUS, Instances, Rights, Role, everybody
from federation.config.model import ListenerConfig
from federation.core.errors import NotAllowed, NotAuthenticated
from tests.access.test_identity import Shown

M = "package.Service/Method"


def refusal(call: Callable[[], object], kind: type[Exception] = NotAllowed) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("role", "pulls", "pushes", "peers"),
    [
        (None, False, False, False),
        (Role.PULL, True, False, False),
        (Role.PUSH, True, True, False),
        (Role.PEER, True, True, True),
        (Role.ADMIN, True, True, True),
    ],
)
def test_a_role_includes_those_before_it(
    role: Role | None, pulls: bool, pushes: bool, peers: bool
) -> None:
    rights = Rights("somebody", role)
    assert (rights.may_pull("x"), rights.may_push("x"), rights.is_peer) == (pulls, pushes, peers)


def test_a01_a_listener_without_writes_leaves_nobody_more_than_pull() -> None:
    rights = Rights("somebody", Role.ADMIN, takes_writes=False)
    assert rights.may_pull("")
    assert not rights.may_push("")
    assert not rights.is_peer
    says = refusal(lambda: rights.check(Role.PUSH, M))
    assert says == f"this listener does not take writes ({M})"


def test_instances_are_patterns_over_the_whole_name() -> None:
    some = Instances(["main", "teams/*", "v?", ""])
    assert [name in some for name in ("main", "teams/a/b", "v1", "")] == [True] * 4
    assert [name in some for name in ("Main", "main/x", "teams", "v12", "x/teams/a")] == [False] * 5
    assert "anything" in Instances()
    assert "main" not in Instances([])


def test_what_is_remembered_of_instances_is_bounded() -> None:
    some = Instances(["a*"])
    for turn in range(5000):
        assert (f"a{turn}" in some, f"b{turn}" in some) == (True, False)
    assert len(some._known) <= 1000


def test_a15_a_right_in_one_instance_is_none_in_another() -> None:
    rights = Rights("token ci", Role.PUSH, Instances(["ci"]))
    rights.check_in("ci", Role.PUSH, M)
    for role in (Role.PULL, Role.PUSH):
        says = refusal(partial(rights.check_in, "main", role, M))
        assert "in instance 'main'; token ci may not do that" in says
    assert (rights.may_push("ci"), rights.may_push("main")) == (True, False)


def test_who_showed_nothing_is_asked_for_credentials_only_where_some_would_help() -> None:
    helped = Rights(ANONYMOUS, Role.PULL, credentials_help=True)
    says = refusal(lambda: helped.check(Role.PUSH, M), NotAuthenticated)
    assert says == f"{M} needs the right to push, and no credentials were shown"
    nobody = Rights(ANONYMOUS, Role.PULL)
    says = refusal(lambda: nobody.check_in("x", Role.PUSH, M))
    assert says.endswith("; callers without credentials may not do that")
    closed = Rights(ANONYMOUS, Role.PULL, takes_writes=False, credentials_help=True)
    refusal(lambda: closed.check_in("x", Role.PUSH, M), NotAllowed)


def test_without_authentication_whoever_may_push_is_a_peer() -> None:
    assert (everybody(push=True).may_push("x"), everybody(push=True).is_peer) == (True, True)
    assert (everybody(push=False).may_push("x"), everybody(push=False).is_peer) == (False, False)


@pytest.mark.parametrize(
    ("address", "believed"),
    [
        ("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True),
        ("0.0.0.0:1", False), ("10.0.0.5:1", False), ("cache.example.com:1", False),
    ],
)  # fmt: skip
def test_peers_that_nobody_knows_are_believed_on_loopback_alone(
    address: str, believed: bool
) -> None:
    listener = ListenerConfig(address=address, push=True)
    rights = open_to_all(listener).rights_of(Shown())
    assert rights.is_peer
    if believed:
        rights.check_known(M)
    else:
        assert "has to know who asks" in refusal(partial(rights.check_known, M))
