"""What a node reports of itself to people: the same facts for `federation status` and the pages."""
