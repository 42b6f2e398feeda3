"""The servers of this table."""

from __future__ import annotations

import os
import shutil
import socket

from benchmarks.process import Server, ServerFailedError
from benchmarks.servers import Node, free_port

_NGINX_CONFIG = """\
{user}daemon off;
worker_processes auto;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_max_body_size 0;
  client_body_temp_path {data_dir}/incoming;
  server {{
    listen {address};
    root {data_dir};
    dav_methods PUT DELETE;
    create_full_put_path on;
  }}
}}
"""


class HttpServer(Server):
    """A server whose answers come over HTTP."""

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 ")


class NodeOverHttp(HttpServer, Node):
    """This project's node with a listener for HTTP caches."""

    def settings(self) -> dict[str, object]:
        """See Node."""
        listeners = [{"address": "127.0.0.1:0", "protocol": "http", "push": True}]
        return {**super().settings(), "listeners": listeners}


class NodeOverGrpc(Node):
    """The same node over gRPC, for the same blobs."""

    name = "federation-grpc"


class Nginx(HttpServer):
    """nginx with a WebDAV folder, which verifies nothing."""

    name = "nginx"
    durability = "unsynced"

    def command(self) -> list[str]:
        """See Server."""
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise ServerFailedError("nginx is not installed: apt-get install nginx-light")
        self.address = f"127.0.0.1:{free_port()}"
        self.data_dir.mkdir(exist_ok=True)
        path = self.home / "nginx.conf"
        # Else its workers would be another user, who may not write to our folders.
        user = "user root;\n" if os.geteuid() == 0 else ""
        path.write_text(
            _NGINX_CONFIG.format(
                user=user, home=self.home, data_dir=self.data_dir, address=self.address
            )
        )
        return [program, "-c", str(path), "-e", str(self.home / "error.log")]


HTTP_SERVERS: dict[str, type[Server]] = {
    kind.name: kind for kind in (NodeOverHttp, NodeOverGrpc, Nginx)
}
