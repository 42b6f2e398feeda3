"""What `federation join` shows of what others say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.cli.join import _join, _line, _show
from federation.cli.mesh_options import MeshNode, mesh_node
from federation.config.types import Address
from federation.core.errors import ConfigError
from federation.mesh.invitation import Invitation
from federation.mesh.joining import problems_of
from federation.wire.mesh import Joining
from tests.mesh.sites import NOW_S, MeshSite

INVITATION = Invitation(Address("paris.example.com", 11002), b"f" * 32, b"s" * 16, int(NOW_S) + 60)
DRAWS = "tokyo\x1b[2J\x1b]0;Join? yes\x07"


def node_of(folder: Path) -> MeshNode:
    config = folder / "node.yaml"
    config.write_text(
        f"node-name: lyon\ndata-dir: {folder}/lyon\nmesh: {{url: 'https://lyon.a:1'}}\n"
    )
    return mesh_node(config)


class ChangedInviter:
    """Answers another node's facts than were shown."""

    def __init__(self, answer: Joining) -> None:
        self._answer = answer

    async def join(self) -> Joining:
        return self._answer


def test_an_inviter_that_was_not_shown_is_not_written(tmp_path: Path) -> None:
    paris, tokyo = MeshSite(tmp_path, "paris"), MeshSite(tmp_path, "tokyo")
    node = node_of(tmp_path)
    with pytest.raises(ConfigError, match="another one than was shown"):
        _join(node, ChangedInviter(Joining(tokyo.me, [])), Joining(paris.me, []), NOW_S)
    assert node.folder.members() == []


def test_a_name_that_would_draw_on_the_terminal_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paris, tokyo = MeshSite(tmp_path, "paris"), MeshSite(tmp_path, "tokyo")
    found = Joining(paris.me, [tokyo.me._replace(name=DRAWS, url=f"https://{DRAWS}:1")])
    problems = problems_of(found, NOW_S)
    assert list(problems) == [DRAWS]
    _show(node_of(tmp_path), found, INVITATION, problems)
    shown = capsys.readouterr().out
    assert "cannot be taken" in shown
    assert "paris  https://paris.example.com:11002" in shown
    assert not {"\x1b", "\x07"} & set(shown)
    assert "\x1b" not in _line(found.others[0], DRAWS)
