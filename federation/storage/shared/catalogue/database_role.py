"""A role that one node of a site has: the lead that the database last gave it."""

from __future__ import annotations

from federation.storage.shared.catalogue.leads import SiteLeads
from federation.storage.shared.catalogue.rows import Lead, SiteRole


class DatabaseRole:
    """See federation.core.sole_role.SoleRole. A lead is lost where it is not heard for a while."""

    def __init__(self, leads: SiteLeads, role: SiteRole) -> None:
        self._leads = leads
        self._role = role
        self.last: Lead | None = None  # after it is lost, writes carry it and are refused

    def __repr__(self) -> str:
        return f"<DatabaseRole {self._role.value}{' leads' if self.holds_lead() else ''}>"

    def try_to_lead(self) -> bool:
        """See SoleRole. The first call only makes this node stand, and returns False."""
        lead = self._leads.lead(self._role)
        if lead is not None:
            self.last = lead
        return lead is not None

    def holds_lead(self) -> bool:
        """See SoleRole."""
        return self.last is not None and self._leads.lead(self._role) == self.last

    def close(self) -> None:
        """Let another node lead at once."""
        self._leads.resign(self._role)
