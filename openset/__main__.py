"""`python -m openset` is the command `openset`."""

from __future__ import annotations

from openset.commands.app import main

main()
