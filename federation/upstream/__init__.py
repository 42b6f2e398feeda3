"""Pull-through: what is missed here is taken from upstream caches, in priority order."""
