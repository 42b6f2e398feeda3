"""Unary calls with any bytes as their message, and servers that answer with any bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from tests.support.process_client import Client, code_of

REAPI = "build.bazel.remote.execution.v2"
CAS = f"{REAPI}.ContentAddressableStorage"
ACTIONS = f"{REAPI}.ActionCache"
ASSET = "build.bazel.remote.asset.v1"
REFERENCES = "buildstream.v2.ReferenceStorage"


def call_raw(client: Client, method: str, message: bytes, timeout_s: float = 60) -> str:
    """Call a method with these bytes; returns the name of the status that it ends with."""
    channel: Any = client.channel  # the stubs want serializers, which raw bytes need not
    calling = channel.unary_unary(f"/{method}")
    try:
        calling(message, timeout=timeout_s)
    except grpc.RpcError as error:
        return code_of(error).name
    return "OK"


@contextmanager
def kept_up(attack: Callable[[], object], threads: int = 4) -> Iterator[list[int]]:
    """Attack again and again in threads; gives how often that was done, as a list of one number."""
    over = threading.Event()
    done = [0]

    def run() -> None:
        while not over.is_set():
            attack()
            done[0] += 1

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run) for _ in range(threads)]
        try:
            yield done
        finally:
            over.set()
        for each in running:
            each.result(120)


@contextmanager
def hostile_server(answers: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Answer these methods with these bytes; gives the address and the list of what is asked."""
    asked: list[str] = []

    def handler_of(method: str, answer: bytes) -> Any:
        def serve(_request: bytes, _context: object) -> bytes:
            asked.append(method)
            return answer

        return grpc.unary_unary_rpc_method_handler(serve)

    handlers: dict[str, dict[str, Any]] = {}
    for path, answer in answers.items():
        service, _, name = path.partition("/")
        handlers.setdefault(service, {})[name] = handler_of(path, answer)
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(*each) for each in handlers.items())
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", asked
    finally:
        server.stop(0).wait()
