"""The configuration file: its model, how it is read, and what a reload takes."""
