"""Open-set recognition and out-of-distribution detection for PyTorch."""
