"""Every training method. A new one is a file here and a line below; its name makes it a command."""

from openset.objectives.base import Objective as Objective
from openset.objectives.binary import BIN as BIN
from openset.objectives.binary import BINC as BINC
from openset.objectives.bottleneck import VIB as VIB
from openset.objectives.bottleneck import VIBY as VIBY
from openset.objectives.c2ae import C2AE as C2AE
from openset.objectives.capsules import CVAECapOSR as CVAECapOSR
from openset.objectives.cgdl import CGDL as CGDL
from openset.objectives.cpgm_aae import CPGMAAE as CPGMAAE
from openset.objectives.crosr import CROSR as CROSR
from openset.objectives.cross_entropy import CrossEntropy as CrossEntropy
from openset.objectives.csi import CSI as CSI
from openset.objectives.deep_ensemble import DeepEnsemble as DeepEnsemble
from openset.objectives.flow_outliers import FlowOutliers as FlowOutliers
from openset.objectives.gan_outliers import GANOutliers as GANOutliers
from openset.objectives.generalized_odin import GeneralizedODIN as GeneralizedODIN
from openset.objectives.learned_confidence import LearnedConfidence as LearnedConfidence
from openset.objectives.likelihood import Likelihood as Likelihood
from openset.objectives.logit_norm import LogitNorm as LogitNorm
from openset.objectives.noise_outliers import NoiseOutliers as NoiseOutliers
from openset.objectives.one_vs_all import OneVsAll as OneVsAll
from openset.objectives.outlier_exposure import OutlierExposure as OutlierExposure
from openset.objectives.reciprocal import ARPL as ARPL
from openset.objectives.reciprocal import ARPLCS as ARPLCS
from openset.objectives.reciprocal import RPL as RPL
from openset.objectives.reconstruction import Reconstruction as Reconstruction
from openset.objectives.rotation import RotPred as RotPred
from openset.objectives.subspaces import SubSpaces as SubSpaces
from openset.objectives.synthesis import Synthesis as Synthesis
from openset.objectives.vmdls import VMDLS as VMDLS
from openset.spec import parse

OBJECTIVES: dict[str, type[Objective]] = {
    value.name: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Objective) and value is not Objective
}


def exposed_to(objective: str) -> tuple[str, ...]:
    """Names of the unknown data that a training method, as a user names it, trains on.

    Example:
        >>> exposed_to("outlier-exposure:data=isun,limit=500"), exposed_to("vib")
        (('isun',), ())
    """
    name, _, keyed = parse(objective, OBJECTIVES)
    declared = OBJECTIVES[name].unknown_data if name in OBJECTIVES else ()
    return tuple(str(keyed[key]) for key in declared if key in keyed)
