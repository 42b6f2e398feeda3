"""What the process that holds the maintenance lock does: eviction, scrub, sweep, retention."""
