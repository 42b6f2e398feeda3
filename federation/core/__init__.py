"""Values, errors, clock, background tasks, and the contracts that storage fulfils."""
