"""Densities of usual features: each scores how surprising new ones are.

To add one, write a `Density` in a file of its own and name it here.
"""

from openset.densities.base import Density as Density
from openset.densities.flow import Flow as Flow
from openset.densities.gaussian_mixture import GaussianMixture as GaussianMixture
from openset.densities.isolation_forest import IsolationForest as IsolationForest
from openset.densities.local_outlier_factor import LocalOutlierFactor as LocalOutlierFactor
from openset.densities.one_class_svm import OneClassSVM as OneClassSVM
from openset.densities.pca import PCA as PCA
from openset.fitted import by_name

DENSITIES: dict[str, type[Density]] = by_name(globals(), Density)
"""Every density by its name on the command line."""
