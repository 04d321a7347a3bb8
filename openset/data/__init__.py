"""Image sets: one string to known and unknown images of one size."""

from openset.data.adapter import Adapter
from openset.data.images import ImageSet, batches, mean_std
from openset.data.splits import Data, load, load_images

__all__ = ["Adapter", "Data", "ImageSet", "batches", "load", "load_images", "mean_std"]
