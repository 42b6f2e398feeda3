"""The work of the node that leads the upkeep of a shared site."""
