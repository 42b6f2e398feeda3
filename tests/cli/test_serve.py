"""`serve` as a process: how it starts, what it says, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, federation, serve

SERVED = {
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "google.bytestream.ByteStream",
    "build.bazel.remote.asset.v1.Fetch",
    "build.bazel.remote.asset.v1.Push",
    "grpc.health.v1.Health",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def check_health(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status
        return status


def events(node: Node) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.log.splitlines() if line.startswith("{")]


def free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def flags(data_dir: Path, *more: str) -> list[str]:
    return ["--data-dir", str(data_dir), "--address", "127.0.0.1:0", "--http", "127.0.0.1:0", *more]


def test_it_serves_and_a_sigterm_ends_it_with_0(data_dir: Path) -> None:
    with serve(data_dir) as node:
        assert node.facts.keys() >= {"pid", "node", "node_id", "listeners", "http", "version"}
        assert check_health(node.address) == health_pb2.HealthCheckResponse.SERVING
        for path in ("/", "/healthz", "/readyz"):
            assert node.http_get(path)[0] == 200
        measured = "federation_event_loop_lag_seconds_count"
        wait_until(lambda: node.metrics().value(measured) > 0, "the event loop's lag")
        assert node.stop() == 0
    assert list(data_dir.glob("run/*.json")) == []


def test_every_service_is_described_by_reflection(data_dir: Path) -> None:
    with serve(data_dir) as node, grpc.insecure_channel(node.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=60)
        assert {s.name for s in answer.list_services_response.service} >= SERVED


_OWN_NETWORK = ("unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
_ASK = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    print(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status)
"""


def test_without_anything_it_stores_in_the_xdg_directory_and_says_how_to_use_it(
    tmp_path: Path,
) -> None:
    # In a network of its own: the ports are the defaults, which others on this machine may have.
    data_dir = tmp_path / "federation"
    env = {"XDG_DATA_HOME": str(tmp_path)}
    with serve(data_dir, args=[], env=env, prefix=_OWN_NETWORK) as node:
        assert (node.addresses, node.http) == (["127.0.0.1:8980"], "127.0.0.1:8981")
        wait_until(lambda: "--remote_cache=grpc://127.0.0.1:8980" in node.log, "the hints")
        assert "push: true" in node.log
        inside = ["nsenter", "-t", str(node.facts["pid"]), "-n", "-U", "--preserve-credentials"]
        ask = [*inside, sys.executable, "-c", _ASK, "127.0.0.1:8980"]
        answer = subprocess.run(ask, check=True, capture_output=True, text=True, timeout=60)
        assert int(answer.stdout) == health_pb2.HealthCheckResponse.SERVING
        assert node.stop() == 0


def test_a_log_that_is_no_terminal_is_json_and_hints_come_once(data_dir: Path) -> None:
    with serve(data_dir, args=flags(data_dir)) as node:
        wait_until(lambda: "Bazel" in node.log, "the hints")
        assert node.stop() == 0
    found = [event["event"] for event in events(node)]
    assert found.index("serving") < found.index("draining") < found.index("stopped")
    assert node.log.count("Bazel") == 1


def test_tls(tmp_path: Path, data_dir: Path) -> None:
    files = self_signed(tmp_path)
    tls = ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    with serve(data_dir, args=flags(data_dir, *tls)) as node:
        trusted = grpc.ssl_channel_credentials(files.certificate.read_bytes())
        with grpc.secure_channel(node.address, trusted) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        wait_until(lambda: "grpcs://" in node.log, "the hints")


def test_o06_a_bad_configuration_ends_with_2_and_touches_nothing(
    tmp_path: Path, data_dir: Path
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(f"data-dir: {data_dir}\nstorage:\n  quota: -1\n")
    done = federation("serve", "--config", str(file))
    assert done.returncode == 2
    assert done.stderr == (f"federation: {file}:3: storage.quota: found -1; must be at least 0\n")
    assert done.stdout == ""
    assert not data_dir.exists()


def test_o06_a_bad_certificate_ends_with_2_and_touches_nothing(
    tmp_path: Path, data_dir: Path
) -> None:
    (tmp_path / "bad").write_text("rubbish")
    bad = str(tmp_path / "bad")
    done = federation("serve", *flags(data_dir, "--tls-cert", bad, "--tls-key", bad))
    assert done.returncode == 2
    assert "not a PEM certificate and its PEM key" in done.stderr
    assert "Traceback" not in done.stderr
    assert not data_dir.exists()


def test_o17_a_taken_port_ends_with_3_and_the_other_port_is_free(
    tmp_path: Path, data_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        settings = {
            "data-dir": str(data_dir),
            "listeners": [{"address": "127.0.0.1:0"}, {"address": taken}],
            "http": {"address": None},
        }
        file = tmp_path / "node.yaml"
        file.write_text(yaml.safe_dump(settings))
        done = federation("serve", "--config", str(file))
    assert done.returncode == 3
    assert f"federation: cannot listen on {taken}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(data_dir.glob("run/*.json")) == []


def test_o16_a_data_directory_that_cannot_be_made_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = federation("serve", *flags(tmp_path / "file" / "data"))
    assert done.returncode == 3
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_o03_a_second_signal_ends_at_once(data_dir: Path) -> None:
    settings = {"limits": {"drain": "1h"}}
    silent = threading.Event()
    with serve(data_dir, settings) as node, grpc.insecure_channel(node.address) as channel:
        write = channel.stream_unary("/google.bytestream.ByteStream/Write", None, None)
        held = write.future((silent.wait(60) and b"" for _ in range(1)), timeout=60)
        running = lambda: node.metrics().value("federation_requests_running") == 1  # noqa: E731
        wait_until(running, "the call that will not end")
        node.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in node.log, "the first signal")
        node.signal(signal.SIGTERM)
        assert node.wait_exit() == 128 + signal.SIGTERM
        silent.set()
        # The stubs forget that it takes one.
        assert held.exception(timeout=60)  # type: ignore[call-arg]


def test_o01_those_who_watch_health_hear_of_the_end_and_do_not_delay_it(data_dir: Path) -> None:
    settings = {"limits": {"drain": "1h"}}
    with serve(data_dir, settings) as node, grpc.insecure_channel(node.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        node.signal(signal.SIGTERM)
        assert [m.status for m in watching] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        assert node.wait_exit() == 0


def test_o03_hangups_and_broken_pipes_are_survived(data_dir: Path) -> None:
    with serve(data_dir) as node:
        for _ in range(100):
            node.signal(signal.SIGHUP)
            node.signal(signal.SIGPIPE)
        assert check_health(node.address) == health_pb2.HealthCheckResponse.SERVING
        assert node.stop() == 0


def test_o04_a_signal_during_the_start_ends_cleanly(data_dir: Path) -> None:
    # As soon as a signal is heard at all, and once the data directory is being made.
    for begun in (lambda: True, (data_dir / "run").exists):
        with Node(data_dir).launch() as node:
            wait_until(partial(_handles_sigterm, node.pid), "a handler for SIGTERM")
            wait_until(begun, "the data directory")
            node.signal(signal.SIGTERM)
            assert node.wait_exit() == 0
        assert list(data_dir.glob("run/*")) == []
    with serve(data_dir) as node:
        assert check_health(node.address) == health_pb2.HealthCheckResponse.SERVING


def _handles_sigterm(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    assert found is not None, status
    caught = int(found[1], 16)
    return caught >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_o19_closed_standard_files_do_not_stop_it(data_dir: Path, closed: str) -> None:
    node = Node(data_dir, args=flags(data_dir), prefix=["sh", "-c", f'exec "$@" {closed}', "sh"])
    with node.start():
        assert check_health(node.address) == health_pb2.HealthCheckResponse.SERVING
        assert node.stop() == 0


def test_o19_a_standard_error_that_nobody_reads_does_not_stop_it(data_dir: Path) -> None:
    reading, writing = os.pipe()
    command = [
        sys.executable,
        "-m",
        "federation",
        "serve",
        *flags(data_dir),
        "--log-level",
        "debug",
    ]
    with subprocess.Popen(command, stderr=writing, stdout=subprocess.DEVNULL) as process:
        try:
            os.close(writing)
            (path,) = wait_until(lambda: list(data_dir.glob("run/*.json")), "the announcement")
            address = json.loads(path.read_text())["listeners"][0]
            for _ in range(20):  # far more lines than the pipe holds
                with grpc.insecure_channel(address) as channel:
                    ask = channel.unary_unary(
                        "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities", None, None
                    )
                    for _ in range(50):
                        ask(b"", timeout=60)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            os.close(reading)
    assert code == 0


def test_o21_readiness_is_told_once_the_ports_answer(tmp_path: Path, data_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        node = Node(data_dir, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}).launch()
        with node:
            assert manager.recv(100) == b"READY=1"
            node.wait_ready(0)
            assert check_health(node.address) == health_pb2.HealthCheckResponse.SERVING
            assert node.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("workers", [1, 2])
def test_o21_the_watchdog_is_fed_while_the_event_loops_run(
    tmp_path: Path, data_dir: Path, workers: int
) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(env["NOTIFY_SOCKET"])
        manager.settimeout(60)

        def told(text: bytes) -> None:
            while manager.recv(100) != text:
                pass

        with Node(data_dir, {"workers": workers}, env=env).launch():
            told(b"READY=1")
            for _ in range(3):
                told(b"WATCHDOG=1")
            if workers > 1:  # one that hangs is enough to be ended for
                _, hung = (facts["pid"] for facts in runs(data_dir, workers))
                os.kill(hung, signal.SIGSTOP)
                manager.settimeout(3)
                try:
                    with pytest.raises(TimeoutError):
                        told(b"never said")
                finally:
                    os.kill(hung, signal.SIGCONT)
                manager.settimeout(60)
                told(b"WATCHDOG=1")


def runs(data_dir: Path, count: int) -> list[dict[str, Any]]:
    """What each process that serves says of itself."""

    def found() -> list[dict[str, Any]]:
        files = list((data_dir / "run").glob("*.json"))
        return [json.loads(file.read_text()) for file in files] if len(files) == count else []

    return list(wait_until(found, "the announcements"))


def test_what_a_node_makes_is_for_its_own_user(data_dir: Path) -> None:
    before = os.umask(0o022)
    try:
        with Node(data_dir, cold=True).start():
            made = [path for path in data_dir.rglob("*") if path.stat().st_mode & 0o077]
            assert made == []
    finally:
        os.umask(before)


def test_the_old_command_serves_all_addresses(tmp_path: Path, data_dir: Path) -> None:
    script = Path(sys.executable).with_name("bst-artifact-server")
    files = self_signed(tmp_path)
    command: list[str | Path] = [script, "--port", "0", "--enable-push", "--quota", "1G"]
    command += ["--server-key", files.key, "--server-cert", files.certificate, data_dir]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            (path,) = wait_until(lambda: list(data_dir.glob("run/*.json")), "the announcement")
            facts = json.loads(path.read_text())
            assert facts["http"] is None
            host, _, port = facts["listeners"][0].rpartition(":")
            assert host == "[::]"
            trusted = grpc.ssl_channel_credentials(files.certificate.read_bytes())
            with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert '"event": "anyone_may_push"' in log


def test_w43_handshakes_that_fail_do_not_fill_the_log(tmp_path: Path, data_dir: Path) -> None:
    files = self_signed(tmp_path)
    tls = ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    with serve(data_dir, args=flags(data_dir, *tls)) as node:
        wait_until(lambda: "Bazel" in node.log and '"serving"' in node.log, "the first lines")
        before = node.log
        host, _, port = node.address.rpartition(":")
        for rubbish in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03",
        ):
            for _ in range(20):
                with socket.create_connection((host, int(port)), timeout=60) as raw:
                    raw.sendall(rubbish)
        assert node.http_get("/readyz")[0] == 200
        wait_until(lambda: len(node.log) > len(before), "what gRPC said of them, as a line")
        lines = node.log.removeprefix(before).splitlines()
        assert all("tls_handshake_failed" in line for line in lines), lines
        assert 1 <= len(lines) <= 11
