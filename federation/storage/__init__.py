"""What one node holds: contract.py says what other rooms know of it, factory.py makes it."""
