"""Reading what a cache does not hold: from the upstream itself, and through a proxy of it."""
