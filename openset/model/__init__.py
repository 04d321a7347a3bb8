"""The deployed model: network, detector and threshold in one module and one file."""
