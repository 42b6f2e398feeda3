"""What an index entry names, and whether all of it is there."""
