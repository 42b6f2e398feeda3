"""authorize: what may be added to a list, and that a list is only ever seen whole."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from federation.access.allowlist import parse_client_list
from federation.cli import main
from tests.access.page import connect
from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process import federation, serve
from tests.support.process_client import outcome


def authorize(*args: object) -> Result:
    return CliRunner().invoke(main, ["authorize", *map(str, args)])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def listed(path: Path) -> list[str]:
    return [
        each.subject for each in parse_client_list(path.read_bytes(), "").by_fingerprint.values()
    ]


def test_a_list_is_made_and_grows(tmp_path: Path) -> None:
    one, two = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    assert authorize(one.certificate).exit_code == 0
    assert listed(tmp_path / "authorized.crt") == ["CN=one"]
    done = authorize(two.certificate)
    assert f"{two.certificate}: added CN=two" in done.stdout
    assert listed(tmp_path / "authorized.crt") == ["CN=one", "CN=two"]


def test_what_is_listed_already_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    one = self_signed(tmp_path, "one")
    authorize(one.certificate)
    file = tmp_path / "authorized.crt"
    before = file.stat()
    done = authorize(one.certificate)
    assert done.exit_code == 0
    assert "listed already: CN=one" in done.stdout
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    facts = json.loads(authorize(one.certificate, "--json").stdout)
    assert facts["added"] == []
    assert facts["listed-already"][0]["subject"] == "CN=one"


def test_one_given_twice_is_added_once(tmp_path: Path) -> None:
    one = self_signed(tmp_path, "one")
    done = authorize(one.certificate, one.certificate)
    assert "added" in done.stdout
    assert "listed already" in done.stdout
    assert (tmp_path / "authorized.crt").read_text().count("BEGIN CERTIFICATE") == 1


def test_the_text_that_is_there_stays_and_a_missing_last_newline_does_no_harm(
    tmp_path: Path,
) -> None:
    one, two = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    file = tmp_path / "authorized.crt"
    text = b"# the build machines\r\n" + one.certificate.read_bytes().rstrip()
    file.write_bytes(text)
    file.chmod(0o640)
    assert authorize(two.certificate).exit_code == 0
    assert file.read_bytes().startswith(text + b"\n")
    assert listed(file) == ["CN=one", "CN=two"]
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_list_of_comments_only_may_be_begun_with(tmp_path: Path) -> None:
    (tmp_path / "authorized.crt").write_text("# nobody yet\n")
    assert authorize(self_signed(tmp_path, "one").certificate).exit_code == 0
    assert listed(tmp_path / "authorized.crt") == ["CN=one"]


def test_a_subject_cannot_forge_a_part_of_the_list(tmp_path: Path) -> None:
    evil = self_signed(tmp_path, "evil", cn="-----BEGIN CERTIFICATE-----\nx")
    assert authorize(evil.certificate).exit_code == 0
    assert len(listed(tmp_path / "authorized.crt")) == 1


def key_certificate(folder: Path, key: object) -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    like = x509.load_pem_x509_certificate(self_signed(folder, "like").certificate.read_bytes())
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)  # type: ignore[attr-defined]
    builder = builder.not_valid_before(like.not_valid_before_utc)
    builder = builder.not_valid_after(like.not_valid_after_utc)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = builder.sign(key, algorithm)  # type: ignore[arg-type]
    path = folder / "odd.crt"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def refusals(folder: Path) -> dict[str, tuple[bytes, str]]:
    one, two = self_signed(folder, "one"), self_signed(folder, "two")
    ed = key_certificate(folder, ed25519.Ed25519PrivateKey.generate()).read_bytes()
    p521 = key_certificate(folder, ec.generate_private_key(ec.SECP521R1())).read_bytes()
    weak = key_certificate(folder, rsa.generate_private_key(65537, 1024)).read_bytes()
    pem = one.certificate.read_bytes()
    return {
        "a private key": (one.key.read_bytes(), "a private key"),
        "both": (pem + one.key.read_bytes(), "block 2 (line"),
        "two": (pem + two.certificate.read_bytes(), "2 certificates (CN=one; CN=two)"),
        "expired": (
            self_signed(folder, "old", expired=True).certificate.read_bytes(),
            "CN=old expired on",
        ),
        "empty": (b"", "no certificate in it"),
        "rubbish": (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "not an X.509",
        ),
        "cut off": (pem[: len(pem) // 2], "it has no END"),
        "ed25519": (ed, "a Ed25519PublicKey. The client could not connect with it"),
        "p521": (p521, "a key on the curve secp521r1"),
        "weak": (weak, "an RSA key of 1024 bits"),
    }


def test_what_could_not_connect_or_must_not_be_here_is_refused(tmp_path: Path) -> None:
    good = self_signed(tmp_path, "good").certificate
    for name, (data, says) in refusals(tmp_path).items():
        bad = tmp_path / "bad.crt"
        bad.write_bytes(data)
        done = authorize(good, bad)
        assert done.exit_code == 2, name
        assert says in done.stderr, name
        assert str(bad) in done.stderr, name
        assert not (tmp_path / "authorized.crt").exists(), name


def test_one_that_is_not_valid_yet_is_added_and_said(tmp_path: Path) -> None:
    done = authorize(self_signed(tmp_path, "early", early=True).certificate)
    assert done.exit_code == 0
    assert "let in from" in done.stdout


def test_a07_a_broken_list_is_not_made_to_look_tended(tmp_path: Path) -> None:
    one = self_signed(tmp_path, "one")
    file = tmp_path / "authorized.crt"
    file.write_bytes(one.certificate.read_bytes()[:200])
    done = authorize(self_signed(tmp_path, "two").certificate)
    assert done.exit_code == 2
    assert f"{file}: block 1" in done.stderr
    assert file.stat().st_size == 200


def test_the_list_can_be_found_through_the_configuration(tmp_path: Path) -> None:
    server = self_signed(tmp_path)
    one, two = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.crt").write_bytes(one.certificate.read_bytes())
    file = tmp_path / "node.yaml"
    tls = f"server-cert: {server.certificate}, server-key: {server.key}"
    listener = f"listeners:\n- {{address: '[::1]:1', tls: {{{tls}"
    file.write_text(f"{listener}, client-certs: lists/a.crt}}}}\n")
    assert authorize(two.certificate, "--config", file).exit_code == 0
    assert listed(tmp_path / "lists/a.crt") == ["CN=one", "CN=two"]
    file.write_text(f"{listener}}}}}\n")
    done = authorize(two.certificate, "--config", file)
    assert done.exit_code == 2
    assert "its listeners name no list: say which with --list" in done.stderr


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "authorized.crt").symlink_to("real/list.crt")
    assert authorize(self_signed(tmp_path, "one").certificate).exit_code == 0
    assert (tmp_path / "authorized.crt").is_symlink()
    assert listed(tmp_path / "real/list.crt") == ["CN=one"]


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    names = [f"client{number}" for number in range(6)]
    paths = [self_signed(tmp_path, name).certificate for name in names]

    def add(path: Path) -> None:
        done = federation("authorize", str(path))
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, paths))
    assert sorted(listed(tmp_path / "authorized.crt")) == [f"CN={name}" for name in names]


def test_a_serving_node_lets_in_who_was_authorized(tmp_path: Path) -> None:
    server, one, two = (self_signed(tmp_path, name) for name in ("server", "one", "two"))
    authorize(one.certificate)
    tls = {
        "server-cert": str(server.certificate),
        "server-key": str(server.key),
        "client-certs": "authorized.crt",
    }
    settings = {"listeners": [{"address": "127.0.0.1:0", "push": True, "tls": tls}]}
    with serve(tmp_path / "data", settings) as node:
        with connect(node, server.certificate, two) as client:
            assert outcome(client.capabilities).name == "UNAVAILABLE"
        assert authorize(two.certificate).exit_code == 0
        wait_until(lambda: "tls_files_taken" in node.log, "the new list")
        with connect(node, server.certificate, two) as client:
            assert outcome(client.capabilities).name == "OK"
