"""The HTTP face: metrics, health, and a page that says where what is."""

from federation.web.pages import Pages
from federation.web.server import HttpServer

__all__ = ["HttpServer", "Pages"]
