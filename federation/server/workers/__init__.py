"""Several processes behind the same ports, and the parent that starts and watches them."""
