"""Image sets: turns one string into known and unknown images of one size."""

from openset.data.adapter import Adapter
from openset.data.augment import AUGMENTATIONS
from openset.data.images import ImageSet
from openset.data.loaders import batches, mean_std
from openset.data.splits import Data, load, load_files, load_images, load_known

__all__ = [
    "AUGMENTATIONS",
    "Adapter",
    "Data",
    "ImageSet",
    "batches",
    "load",
    "load_files",
    "load_images",
    "load_known",
    "mean_std",
]
