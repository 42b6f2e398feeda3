"""The HTTP listener: metrics, health, and a status page."""

from federation.server.http.pages import Pages
from federation.server.http.server import HttpServer

__all__ = ["HttpServer", "Pages"]
