"""A model in its life: drift, groups of unknown images, classes that are added, and why."""
