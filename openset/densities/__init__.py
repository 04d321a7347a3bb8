"""What is usual, as a density: each scores how surprising features are.

To add one, write a `Density` in a file of its own and name it here.
"""

from openset.densities.base import Density as Density
from openset.densities.gaussian_mixture import GaussianMixture as GaussianMixture

DENSITIES: dict[str, type[Density]] = {density.name: density for density in (GaussianMixture,)}
"""Every density by its name on the command line."""
