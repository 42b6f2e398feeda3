"""What a node receives, on its way to a peer: how soon it is there, and what that costs."""
