"""The closure of an index entry: everything it names, and whether all of that is held."""
