"""All mutants. Mistakes by which data is lost, wrong or kept from where it belongs."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.table.durability import DURABILITY
from tests.mutants.table.hits import HITS
from tests.mutants.table.http_cache import HTTP_CACHE
from tests.mutants.table.identities import IDENTITIES
from tests.mutants.table.leases import LEASES
from tests.mutants.table.mesh import MESH
from tests.mutants.table.pins import PINS
from tests.mutants.table.purges import PURGES
from tests.mutants.table.replication import REPLICATION
from tests.mutants.table.services import SERVICES
from tests.mutants.table.shared_site import SHARED_SITE
from tests.mutants.table.site_catalogue import SITE_CATALOGUE
from tests.mutants.table.traces import TRACES
from tests.mutants.table.transport import TRANSPORT
from tests.mutants.table.upstream import UPSTREAM

MUTANTS: list[Mutant] = [
    *DURABILITY,
    *HITS,
    *LEASES,
    *REPLICATION,
    *MESH,
    *PURGES,
    *PINS,
    *IDENTITIES,
    *UPSTREAM,
    *SERVICES,
    *TRANSPORT,
    *HTTP_CACHE,
    *SHARED_SITE,
    *SITE_CATALOGUE,
    *TRACES,
]
