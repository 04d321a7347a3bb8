"""Training runs on disk, and what is fitted to and measured on them."""
