"""The dashboards, one a module."""

from boards.limits import LIMITS
from boards.overview import OVERVIEW
from boards.replication import REPLICATION
from boards.storage import STORAGE
from boards.upstreams import UPSTREAMS

DASHBOARDS = (OVERVIEW, UPSTREAMS, REPLICATION, STORAGE, LIMITS)
