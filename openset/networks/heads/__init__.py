"""Heads in place of a classifier's own, one a file; the functions are named in `networks`."""
