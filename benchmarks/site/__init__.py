"""A node of a shared site beside the embedded storage, and beside obstore alone."""
