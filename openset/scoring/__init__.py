"""From activations to scores, predicted classes and thresholds."""
