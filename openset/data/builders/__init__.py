"""Segmentation sets made from the user's own copies: one file a set."""
