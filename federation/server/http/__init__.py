"""The HTTP face: metrics, health, and a page that says where what is."""

from federation.server.http.pages import Pages
from federation.server.http.server import HttpServer

__all__ = ["HttpServer", "Pages"]
