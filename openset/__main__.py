"""`python -m openset` is the command `openset`."""

from openset.cli import main

main()
