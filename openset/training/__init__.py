"""The training loop with its settings and checkpoints."""
