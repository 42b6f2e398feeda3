"""Which pipeline serves a request: one for each method of each listener."""

from __future__ import annotations

from collections.abc import Iterable

from federation.http_cache.http_call import HttpCall
from federation.http_cache.service import METHODS, OF_ANY_KIND
from federation.services.method import Service
from federation.services.pipeline import Pipeline
from federation.services.runtime import Runtime


class Routes:
    """The pipelines of one listener."""

    def __init__(self, services: Iterable[Service], runtime: Runtime) -> None:
        self._pipelines = {
            name: Pipeline(f"{service.name}/{name}", method, runtime)
            for service in services
            for name, method in service.methods().items()
        }

    def __repr__(self) -> str:
        return f"<Routes {', '.join(self._pipelines)}>"

    def find(self, call: HttpCall) -> Pipeline | None:
        """Return what serves a call; None: the method is not allowed there."""
        name = METHODS.get((call.method, call.target.kind)) or OF_ANY_KIND.get(call.method)
        return None if name is None else self._pipelines[name]
