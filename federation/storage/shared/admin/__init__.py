"""What commands do to a shared site. They ask its database, and need no node to run."""
