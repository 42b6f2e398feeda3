"""Everything that is wrong with a file is said at once, with its line and what is allowed."""

from pathlib import Path

import pytest

from federation.config.file import ConfigFileError, Problem, lines_of, load, loads
from federation.config.model import Config
from federation.config.peers import PeerConnectionConfig
from federation.core.errors import ConfigError

FILE = Path("/etc/federation/node.yaml")


def problems(text: str, **environment: str) -> list[Problem]:
    with pytest.raises(ConfigFileError) as caught:
        loads(text, FILE, environment)
    return caught.value.problems


def problem(text: str, **environment: str) -> Problem:
    (only,) = problems(text, **environment)
    return only


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "storage:\nlimits:\nlog:\n", "{}"])
def test_an_empty_file_means_the_defaults(text: str) -> None:
    assert loads(text, FILE, {}) == Config()


def test_one_key_of_a_section_leaves_its_others_at_their_defaults() -> None:
    peer = "peers: [{name: p, url: 'grpc://p:1', connection-config: {retry-limit: 9}}]"
    found = loads(peer, FILE, {}).peers[0].connection_config
    assert found == PeerConnectionConfig(retry_limit=9)
    assert (found.request_timeout, found.stall, found.concurrency) == (60, 30, 32)


def test_every_problem_is_reported_in_the_order_of_the_lines() -> None:
    text = """\
storage:
  quota: lots
  inline-max: 2M
listeners:
  - adress: 127.0.0.1:1
    push: "yes"
limits:
  streams: many
"""
    found = [(p.line, p.path) for p in problems(text)]
    assert found == [
        (2, "storage.quota"),
        (3, "storage.inline-max"),
        (5, "listeners[0].address"),
        (5, "listeners[0].adress"),
        (6, "listeners[0].push"),
        (8, "limits.streams"),
    ]


def test_a_message_names_file_line_path_found_and_allowed() -> None:
    text = "\nstorage:\n  quota: 10 gigs\n"
    assert str(problem(text)) == (
        '/etc/federation/node.yaml:3: storage.quota: found "10 gigs"; a size is a whole number of '
        "bytes, or a number with K, M, G or T, e.g. 500G"
    )


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("storge: {}", "storge", "unknown key; did you mean storage? known here: node-name, data-"),
        ("quota: 5G", "quota", "unknown key; did you mean storage.quota?"),
        ("data_dir: x", "data_dir", "unknown key; did you mean data-dir?"),
        ("log: {Level: info}", "log.Level", "did you mean level?"),
        ("zzz: 1", "zzz", "unknown key; known here: node-name, data-dir, workers, transport"),
        ("1: 1", "1", "unknown key; known here:"),
        ("wokers: 2", "wokers", "did you mean workers?"),
        ("<<: {}", "<<", "unknown key;"),
    ],
)
def test_an_unknown_key_is_refused_with_a_guess(text: str, path: str, says: str) -> None:
    found = problem(text)
    assert found.path == path
    assert says in found.message


def test_a_key_of_a_later_version_is_unknown() -> None:
    tls = "{server-cert: a, server-key: b,\n    client-crl: c}"
    text = f"listeners:\n- address: a:1\n  tls: {tls}"
    assert problem(text).line == 4
    assert problem(text).path == "listeners[0].tls.client-crl"
    known = "known here: server-cert, server-key, client-certs, peer-certs, "
    known += "invitations, client-ca"
    assert problem(text).message == f"unknown key; did you mean client-ca? {known}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("limits:\n  streams: 0", 2, "found 0; must be at least 1"),
        ("limits:\n  streams: true", 2, "found true; must be a whole number"),
        ("limits:\n  streams: 2.0", 2, "found 2.0; must be a whole number"),
        ('limits:\n  streams: "2"', 2, 'found "2"; must be a whole number'),
        ("limits:\n  stall: 0", 2, "found 0; must be more than 0"),
        ("limits:\n  stall: .nan", 2, "found NaN; must be "),
        ("limits:\n  stall: .inf", 2, "found Infinity; must be at most"),
        ("limits:\n  stall: true", 2, "found true; a duration is"),
        ("limits:\n  message: 1M", 2, 'found "1M"; must be at least 4160K'),
        ("limits:\n  batch-total: 8M", 2, 'found "8M"; must be at most 4M'),
        ("storage:\n  quota: -1", 2, "found -1; must be at least 0"),
        ("storage:\n  quota: 1.5", 2, "found 1.5; a size is"),
        ("storage:\n  quota: 9000000T", 2, 'found "9000000T"; must be at most 4194304T'),
        ("storage:\n  inline-max: 5M", 2, 'found "5M"; must be at most 256K'),
        ("storage:\n  high-watermark: 0.5", 1, "low-watermark (0.9) must be below high-watermark"),
        ("storage:\n  low-watermark: true", 2, "found true; must be a number"),
        ("storage:\n  low-watermark: 1.5", 2, "found 1.5; must be at most 1"),
        ("storage:\n  max-blob: 1", 2, "found 1; max-blob (1) must be at least inline-max (64K)"),
        ("storage: 7", 1, "found 7; must be a mapping (lines of key: value)"),
        ("storage: [a]", 1, "found a list; must be a mapping (lines of key: value)"),
        ("- storage", 1, "found a list; must be a mapping (lines of key: value)"),
        ("listeners: {address: a}", 1, "found a mapping; must be a list (lines that start with -)"),
        ("listeners: []", 1, "found an empty list; must not be empty"),
        ("listeners:\n- push: true", 2, "missing, and has no default"),
        ("listeners:\n- address: a:1\n- address: a:1", 1, "found a list; two listeners have the"),
        (
            "listeners:\n- address: a:1\n  acknowledge: one-peer",
            1,
            "the listener a:1 has acknowledge: one-peer, and there are no peers",
        ),
        ("http:\n  address: 127.0.0.1:8980", 1, "found a mapping; a listener has the address"),
        ("http:\n  address: 80", 2, "found 80; must be text (a number or date needs quotes)"),
        ("log:\n  level: loud", 2, 'found "loud"; must be debug, info, warning or error'),
        ("node-name: 7", 1, "found 7; must be text (a number or date needs quotes)"),
        ('node-name: ""', 1, 'found ""; must not be empty'),
        ('node-name: "a\\nb"', 1, 'found "a\\nb"; a name has printable characters only'),
        ("data-dir: 2020-01-01", 1, 'found "2020-01-01"; must be a path (a number or date needs'),
        ('data-dir: "a\\0b"', 1, 'found "a\\u0000b"; a path cannot contain a NUL byte'),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(text: str, line: int, message: str) -> None:
    found = problem(text)
    assert found.line == line
    assert found.message[: len(message)] == message


def test_a_long_value_is_clipped() -> None:
    assert len(problem(f"node-name: {'x' * 5000}").message) < 200


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("storage:\n  quota: 1G\n  lease: 1h\n  quota: 2G", 4, "given twice, first in line 2"),
        ("a: [", 1, "not YAML:"),
        ("log:\n\tlevel: info", 2, "not YAML:"),
        ("listeners:\n- address: [::1]:80", 2, "not YAML:"),
        ("log: {}\n---\nlog: {}", 2, "not YAML: expected a single document"),
        ("log: {}\n\x01", 2, "not YAML: special characters"),
        ("data-dir: &a [*a]", 1, "too much, too deep, or it contains itself"),
        ("node-name: !!python/name:os.system x", 1, "not a value that can stand here"),
        ("limits:\n  streams: !!int x", 2, "not a value that can stand here"),
        ("? [a]\n: b", 1, "a key must be a plain word"),
    ],
)
def test_what_is_not_usable_yaml_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    found = problems(text)
    assert any(p.line == line and says in p.message for p in found), found


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert any("too much" in p.message for p in problems("\n".join(lines)))


def test_variables_expand() -> None:
    text = 'node-name: "${NAME}-${NAME}"\ndata-dir: ${D}/x\nlimits:\n  streams: ${N}\n'
    found = loads(text, FILE, {"NAME": "p", "D": "/srv", "N": "7"})
    assert (found.node_name, found.data_dir, found.limits.streams) == ("p-p", Path("/srv/x"), 7)


def test_a_variable_in_quotes_stays_text() -> None:
    assert loads('node-name: "${N}"', FILE, {"N": "7"}).node_name == "7"
    assert problem("node-name: ${N}", N="7").message.startswith("found 7; must be text")


def test_a_variable_cannot_bring_structure() -> None:
    assert loads("node-name: ${N}", FILE, {"N": "{a: b}"}).node_name == "{a: b}"


def test_an_escaped_variable_is_plain_text() -> None:
    assert loads('node-name: "$${N} $x"', FILE, {}).node_name == "${N} $x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${NOPE}", "the environment variable NOPE is not set"),
        ("${}", "'${}' names no variable; write $${ for a plain ${"),
        ("${1a}", "'${1a}' names no variable"),
        ("x${open", "'${open' names no variable"),
    ],
)
def test_a_variable_that_is_not_there_is_an_error(text: str, says: str) -> None:
    assert problem(f'node-name: "{text}"').message.startswith(says)


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(
        "data-dir: data\nlisteners:\n- address: a:1\n  tls: {server-cert: c.crt, server-key: /k}\n"
    )
    found = load(tmp_path / "node.yaml")
    assert found.data_dir == tmp_path / "data"
    tls = found.listeners[0].tls
    assert tls is not None
    assert tls.server_cert == tmp_path / "c.crt"
    assert tls.server_key == Path("/k")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"none\.yaml:1: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigFileError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"a: b\nc: \xe9\n")
    with pytest.raises(ConfigFileError, match=r"latin:2: not UTF-8 text"):
        load(tmp_path / "latin")
    (tmp_path / "big").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigFileError, match=r"larger than 1M"):
        load(tmp_path / "big")


def test_the_data_directory_follows_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Config().data_dir == tmp_path / "federation"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Config().data_dir == tmp_path / ".local/share/federation"


def test_what_needs_tls_takes_its_scheme_in_any_letters() -> None:
    text = "traces: {{endpoint: '{}://collector:4317', access-token: token}}"
    assert loads(text.format("HTTPS"), FILE, {}).traces.endpoint == "HTTPS://collector:4317"
    assert "need an https or grpcs endpoint" in problem(text.format("HTTP")).message


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("listeners[1].tls.server-cert: a.crt: gone", "{}:4: listeners[1].tls.server-cert: a.crt"),
        ("storage.objects: no such bucket", "{}:5: storage.objects: no such bucket"),
        ("peers[7].auth.server-cert: of a member elsewhere", "peers[7].auth"),
        ("listeners[2].tls: beyond the list", "listeners[2].tls: beyond"),
        ("unheard-of: not in the file", "unheard-of: not"),
        ("Of no key: a sentence", "Of no key: a sentence"),
    ],
)
def test_an_error_about_a_key_that_is_found_later_gets_its_line(
    tmp_path: Path, said: str, shown: str
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        "listeners:\n- address: a:1\n- address: b:1\n  tls: {server-cert: a.crt}\n"
        "storage:\n  quota: 1T\n"
    )
    with pytest.raises(ConfigError) as why, lines_of(file):
        raise ConfigError(said)
    assert str(why.value).startswith(shown.format(file))
