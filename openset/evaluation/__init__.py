"""From scores to figures: metrics, results and their tables."""
