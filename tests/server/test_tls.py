"""A pair that cannot serve is refused with its listener and file, before anything starts."""

from pathlib import Path

import pytest

from federation.access.exposed_files import is_exposed
from federation.access.setup import load_access
from federation.access.tls import lacks_names, load_pair
from federation.config.model import Config, TlsConfig
from federation.core.errors import ConfigError
from tests.support.certificates import self_signed


def tls(certificate: Path, key: Path) -> TlsConfig:
    return TlsConfig(server_cert=certificate, server_key=key)


def test_a_good_pair_is_read(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    pair = load_pair(tls(*files), "here")
    assert pair.certificate == files.certificate.read_bytes()
    assert pair.key == files.key.read_bytes()


def test_a_plain_listener_has_no_files() -> None:
    assert load_access(Config()).listeners == [None]


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    one, two = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        load_pair(tls(one.certificate, two.key), "here")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    with pytest.raises(ConfigError, match=r"^here\.server-key: .*/nothing: No such file"):
        load_pair(tls(files.certificate, tmp_path / "nothing"), "here")
    with pytest.raises(ConfigError, match=r"^here\.server-cert: .*/nothing: No such file"):
        load_pair(tls(tmp_path / "nothing", files.key), "here")


@pytest.mark.parametrize("text", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_not_pem_is_refused(tmp_path: Path, text: bytes) -> None:
    files = self_signed(tmp_path)
    files.certificate.write_bytes(text)
    with pytest.raises(ConfigError, match="not a PEM certificate and its PEM key"):
        load_pair(tls(*files), "here")


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    files = self_signed(tmp_path, password=b"secret")
    with pytest.raises(ConfigError, match="needs a password"):
        load_pair(tls(*files), "here")


def test_a22_a_key_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    assert not is_exposed(files.key)
    files.key.chmod(0o644)
    assert is_exposed(files.key)


def test_a_certificate_without_alternative_names_is_noticed(tmp_path: Path) -> None:
    assert not lacks_names(self_signed(tmp_path).certificate)
    assert lacks_names(self_signed(tmp_path, hosts=()).certificate)
    broken = tmp_path / "broken.crt"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert lacks_names(broken)
