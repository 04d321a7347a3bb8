"""Every training method. A new one is a file here and a line below; its name makes it a command."""

from openset.objectives.base import Objective as Objective
from openset.objectives.binary import BIN as BIN
from openset.objectives.binary import BINC as BINC
from openset.objectives.bottleneck import VIB as VIB
from openset.objectives.bottleneck import VIBY as VIBY
from openset.objectives.cross_entropy import CrossEntropy as CrossEntropy
from openset.objectives.flow_outliers import FlowOutliers as FlowOutliers
from openset.objectives.gan_outliers import GANOutliers as GANOutliers
from openset.objectives.likelihood import Likelihood as Likelihood
from openset.objectives.noise_outliers import NoiseOutliers as NoiseOutliers
from openset.objectives.outlier_exposure import OutlierExposure as OutlierExposure
from openset.objectives.reconstruction import Reconstruction as Reconstruction
from openset.objectives.vmdls import VMDLS as VMDLS

OBJECTIVES: dict[str, type[Objective]] = {
    value.name: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Objective) and value is not Objective
}
