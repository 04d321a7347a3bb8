"""Answers about more images than one process should score, by Ray."""
