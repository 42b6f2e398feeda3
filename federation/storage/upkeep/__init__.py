"""Background work on a data directory: eviction, scrub, sweep, retention, flushing."""
