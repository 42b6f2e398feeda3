"""Ceph's S3 server for tests, without a cluster: its objects are in an SQLite file (dbstore).

It answers requests for parts of objects with other bytes, which the storage has to do without.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which

import obstore

from tests.support.guard import guarded
from tests.support.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.support.polling import wait_until
from tests.support.ports import held_ports

_CONFIG = """\
[client]
rgw backend store = dbstore
rgw config store = dbstore
dbstore db dir = {folder}
dbstore config uri = file:{folder}/config.db
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}
run dir = {folder}
admin socket = {folder}/admin.sock
keyring = /dev/null
"""
_ADMIN_S = 60.0


class RadosGateway(S3Server):
    """One radosgw in a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder)
        self._port = port
        config = folder / "ceph.conf"
        config.write_text(_CONFIG.format(folder=folder, port=self._port))
        self._options = ["--no-mon-config", "-c", str(config), "-n", "client.rgw"]

    def start_first(self) -> None:
        """Make the user and BUCKET, and start."""
        self._admin("user", "create", "--uid=tests", "--display-name=tests",
                    f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}")  # fmt: skip
        self.start()
        # A bucket is made by a PUT of its name below the root of the server. What obstore misses in
        # the answer is the ETag of an object.
        root = self.store(BUCKET, virtual_hosted_style_request=True)
        with suppress(obstore.exceptions.GenericError):
            obstore.put(root, BUCKET, b"", use_multipart=False)
        obstore.put(self.store(BUCKET), "probe", b"probe")

    @property
    def endpoint(self) -> str:
        """See S3Server."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """See S3Server."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                guarded([_program("radosgw"), "-d", *self._options]), stdout=log, stderr=log
            )
        process = self._process
        wait_until(lambda: process.poll() is not None or self._answers(), "radosgw answers")
        assert process.poll() is None, self._log()

    def _answers(self) -> bool:
        try:
            obstore.head(self.store(BUCKET), "probe")
        except FileNotFoundError:
            return True
        except obstore.exceptions.BaseError:
            return False
        return True

    def _admin(self, *arguments: str) -> None:
        subprocess.run(
            [_program("radosgw-admin"), *self._options, *arguments],
            capture_output=True,
            check=True,
            timeout=_ADMIN_S,
        )


def _program(name: str) -> str:
    found = which(name)
    assert found is not None, f"no {name} here: run tests/servers/install"
    return found


@contextmanager
def rados_gateway(folder: Path) -> Iterator[RadosGateway]:
    """Run radosgw in a folder until the context ends."""
    with held_ports(1) as (port,):
        server = RadosGateway(folder, port)
        try:
            server.start_first()
            yield server
        finally:
            server.kill()
