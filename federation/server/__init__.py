"""One running node: assembly, listeners, HTTP pages, workers, reload, signals."""
