"""Protocols run to their end: the paper's table with ours beside it."""
