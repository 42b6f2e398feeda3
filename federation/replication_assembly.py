"""From the configuration's peers to a running replication, as a recipe."""
