"""What gets into the mesh's folder, what does not, and what remains after an end half-way."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from federation.access import tls
from federation.access.live_tls import LiveTls
from federation.access.new_files import replace_file
from federation.access.tls import load_pair
from federation.config.listeners import TlsConfig
from federation.config.members import MEMBERS_MAX, read_members
from federation.core.clock import SystemClock
from federation.core.errors import ConfigError, InvalidRequest, NotAllowed
from federation.mesh import folder as folder_module
from federation.mesh.folder import INVITATIONS_MAX, MeshFolder
from tests.mesh.sites import NOBODY, NOW_S, MeshSite


@pytest.fixture
def paris(tmp_path: Path) -> MeshSite:
    return MeshSite(tmp_path, "paris")


@pytest.fixture
def tokyo(tmp_path: Path) -> MeshSite:
    return MeshSite(tmp_path, "tokyo")


def test_keys_are_for_the_owner_alone_and_are_made_once(paris: MeshSite) -> None:
    files = paris.folder.files
    for key in (files.client_key, files.server_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.root.stat().st_mode) == 0o700
    before = files.server_cert.read_bytes()
    assert not paris.folder.prepare("paris", paris.url, NOW_S)
    assert files.server_cert.read_bytes() == before


def test_another_name_or_host_is_refused_as_others_know_the_first(paris: MeshSite) -> None:
    for name, url in (("lyon", paris.url), ("paris", "https://lyon.example.com:11002")):
        with pytest.raises(ConfigError, match="must stay"):
            paris.folder.prepare(name, url, NOW_S)
    assert not paris.folder.prepare("paris", "https://paris.example.com:12345", NOW_S)


def test_an_invitation_admits_once(paris: MeshSite, tokyo: MeshSite) -> None:
    pair = paris.invite()
    assert paris.folder.is_invitation(pair.fingerprint)
    paris.admit(tokyo.me, pair)
    assert paris.knows() == {"tokyo": "invited"}
    assert not paris.folder.is_invitation(pair.fingerprint)
    with pytest.raises(NotAllowed, match="used before"):
        paris.admit(MeshSite(tokyo.data_dir.parent, "osaka").me, pair)
    assert paris.knows() == {"tokyo": "invited"}


def test_what_the_first_process_used_up_the_next_does_not_take(
    paris: MeshSite, tokyo: MeshSite
) -> None:
    pair = paris.invite()
    paris.admit(tokyo.me, pair)
    again = MeshFolder(paris.data_dir)  # as after a restart
    assert not again.is_invitation(pair.fingerprint)
    with pytest.raises(NotAllowed):
        again.admit(tokyo.me, pair.fingerprint, paris.me, NOBODY, NOW_S)


def test_an_end_after_the_invitation_was_used_admits_nobody(
    paris: MeshSite, tokyo: MeshSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = paris.invite()

    def no_space(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "replace_file", no_space)
        with pytest.raises(OSError, match="No space"):
            paris.admit(tokyo.me, pair)
    assert paris.knows() == {}
    assert not paris.folder.is_invitation(pair.fingerprint)
    assert [each.name for each in paris.folder.files.accepted.iterdir()] == ["_self.crt"]


def test_an_end_before_the_last_file_gives_no_rights_and_can_be_mended(
    paris: MeshSite, tokyo: MeshSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def two_files(path: Path, data: bytes, mode: int) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        written.append(path.name)
        replace_file(path, data, mode)

    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "replace_file", two_files)
        with pytest.raises(OSError, match="No space"):
            paris.introduce(tokyo.me)
    assert written == ["tokyo.crt", "tokyo.yaml"]
    assert not (paris.folder.files.accepted / "tokyo.crt").exists()
    assert [each.member.client_der for each in paris.folder.members()] == [b""]
    assert paris.introduce(tokyo.me)
    assert paris.folder.members()[0].member == tokyo.me


def test_a_joiner_that_is_refused_leaves_the_invitation_open(
    paris: MeshSite, tokyo: MeshSite
) -> None:
    pair = paris.invite()
    with pytest.raises(InvalidRequest, match="in its configuration"):
        paris.admit(tokyo.me, pair, {"tokyo"})
    with pytest.raises(InvalidRequest, match="has the name paris itself"):
        paris.admit(paris.me, pair)
    assert paris.folder.is_invitation(pair.fingerprint)
    paris.admit(tokyo.me, pair)


def test_a_name_belongs_to_the_first_who_has_it(
    paris: MeshSite, tokyo: MeshSite, tmp_path: Path
) -> None:
    paris.admit(tokyo.me, paris.invite())
    stranger = MeshSite(tmp_path / "elsewhere", "tokyo")
    with pytest.raises(InvalidRequest, match="another member has the name tokyo"):
        paris.admit(stranger.me, paris.invite(b"2" * 16))
    assert paris.folder.members()[0].member == tokyo.me


def test_a_member_that_is_introduced_again_is_left_as_its_owner_edited_it(
    paris: MeshSite, tokyo: MeshSite
) -> None:
    assert paris.introduce(tokyo.me)
    path = paris.folder.files.members / "tokyo.yaml"
    path.write_text(path.read_text() + "  send: all\n")
    assert not paris.introduce(tokyo.me)
    assert read_members(paris.folder.files)["tokyo"].peer.send == "all"


def test_a_removed_member_comes_back_by_invitation_only(paris: MeshSite, tokyo: MeshSite) -> None:
    paris.introduce(tokyo.me)
    paris.folder.remove("tokyo")
    assert paris.knows() == {}
    assert [each.name for each in paris.folder.files.accepted.iterdir()] == ["_self.crt"]
    with pytest.raises(NotAllowed, match="was removed here"):
        paris.introduce(tokyo.me)
    paris.admit(tokyo.me, paris.invite())
    paris.folder.remove("tokyo")
    with pytest.raises(ConfigError, match="no member"):
        paris.folder.remove("tokyo")


def test_invitations_are_bounded_and_those_that_ended_make_room(paris: MeshSite) -> None:
    ended = paris.invite(b"e" * 16, NOW_S - 5)
    for number in range(INVITATIONS_MAX):
        paris.invite(bytes([number]) * 16)
    assert not paris.folder.is_invitation(ended.fingerprint)
    with pytest.raises(ConfigError, match="20 invitations are open"):
        paris.invite(b"z" * 16)


def test_members_are_bounded(paris: MeshSite, tokyo: MeshSite) -> None:
    names = {f"peer-{number}" for number in range(MEMBERS_MAX)}
    with pytest.raises(InvalidRequest, match="at most 64"):
        paris.folder.check(tokyo.me, paris.me, names, NOW_S)


def test_a_file_that_its_owner_broke_is_named(paris: MeshSite, tokyo: MeshSite) -> None:
    paris.introduce(tokyo.me)
    path = paris.folder.files.members / "tokyo.yaml"
    path.write_text(path.read_text().replace("url:", "ulr:"))
    with pytest.raises(ConfigError, match=r"tokyo.yaml:\d+: peer.ulr: unknown key; did you mean"):
        paris.folder.members()


def listener_of(site: MeshSite) -> LiveTls:
    files = site.folder.files
    tls = TlsConfig(
        server_cert=files.server_cert,
        server_key=files.server_key,
        peer_certs=files.accepted,
        invitations=files.invitations,
    )
    return LiveTls(tls, "mesh", load_pair(tls, "mesh"), SystemClock())


def test_the_list_of_the_listener_is_never_empty_so_it_always_asks(paris: MeshSite) -> None:
    pair = listener_of(paris).pair
    assert pair.roots_pem is not None
    assert pair.invitations is None


def test_the_listener_takes_over_an_invitation_and_a_member(
    paris: MeshSite, tokyo: MeshSite
) -> None:
    live = listener_of(paris)
    invitation = paris.invite()
    look_twice(live)
    listed = live.pair.invitations
    assert listed is not None
    assert list(listed.by_fingerprint) == [invitation.fingerprint]
    paris.admit(tokyo.me, invitation)
    look_twice(live)
    assert live.pair.invitations is None
    assert live.pair.peers is not None
    assert len(live.pair.peers.by_fingerprint) == 2


def look_twice(live: LiveTls) -> None:
    for _ in range(2):
        live.refresh(asked=False)


def test_invitations_that_cannot_be_read_are_an_error_that_says_so(
    paris: MeshSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener_of(paris)

    names_in = tls.certificates_in

    def refused(folder: Path) -> list[Path]:  # root may read everything
        if folder.name == "invitations":
            raise PermissionError(13, "Permission denied", str(folder))
        return names_in(folder)

    monkeypatch.setattr(tls, "certificates_in", refused)
    with pytest.raises(ConfigError, match=r"invitations: .*Permission denied.*able to read"):
        listener_of(paris)
