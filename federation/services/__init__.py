"""The services: decode, call down, encode, one file each; pipeline.py has what all calls share."""
