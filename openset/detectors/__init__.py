"""Every detector. A new one is a file here and a line below; its name makes it a command."""

from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from torch import nn

from openset.densities import DENSITIES
from openset.detectors.ash import ASH as ASH
from openset.detectors.autoencoder import AutoEncoder as AutoEncoder
from openset.detectors.base import Detector as Detector
from openset.detectors.binary import BIN as BIN
from openset.detectors.binary import BINC as BINC
from openset.detectors.binary import OVA as OVA
from openset.detectors.binary import OVNNI as OVNNI
from openset.detectors.bottleneck import VIB as VIB
from openset.detectors.bottleneck import VIBY1 as VIBY1
from openset.detectors.bottleneck import VIBY2 as VIBY2
from openset.detectors.c2ae import C2AE as C2AE
from openset.detectors.cgdl import CGDL as CGDL
from openset.detectors.committee import DeepEnsemble as DeepEnsemble
from openset.detectors.committee import MCDropout as MCDropout
from openset.detectors.crf import CRF as CRF
from openset.detectors.crosr import CROSR as CROSR
from openset.detectors.csi import CSI as CSI
from openset.detectors.dice import DICE as DICE
from openset.detectors.fdbd import FDBD as FDBD
from openset.detectors.fusion import Fusion as Fusion
from openset.detectors.gemos import GeMOS as GeMOS
from openset.detectors.gen import GEN as GEN
from openset.detectors.generalized_odin import GeneralizedODIN as GeneralizedODIN
from openset.detectors.knn import KNN as KNN
from openset.detectors.learned_confidence import LearnedConfidence as LearnedConfidence
from openset.detectors.logits import Energy as Energy
from openset.detectors.logits import Entropy as Entropy
from openset.detectors.logits import MaxLogit as MaxLogit
from openset.detectors.logits import MaxSoftmax as MaxSoftmax
from openset.detectors.logits import Temperature as Temperature
from openset.detectors.mahalanobis import Mahalanobis as Mahalanobis
from openset.detectors.mahalanobis_plus_plus import MahalanobisPlusPlus as MahalanobisPlusPlus
from openset.detectors.masf import MaSF as MaSF
from openset.detectors.mlod import MLOD as MLOD
from openset.detectors.more_classes import MoreClasses as MoreClasses
from openset.detectors.nac import NAC as NAC
from openset.detectors.nci import NCI as NCI
from openset.detectors.nnguide import NNGuide as NNGuide
from openset.detectors.odin import ODIN as ODIN
from openset.detectors.openmax import OpenMax as OpenMax
from openset.detectors.pnml import PNML as PNML
from openset.detectors.pytorch_ood import PytorchOOD as PytorchOOD
from openset.detectors.react import ReAct as ReAct
from openset.detectors.relative_mahalanobis import RelativeMahalanobis as RelativeMahalanobis
from openset.detectors.scale import SCALE as SCALE
from openset.detectors.she import SHE as SHE
from openset.detectors.subspaces import SubSpaces as SubSpaces
from openset.detectors.synthcp import SynthCP as SynthCP
from openset.detectors.vim import ViM as ViM
from openset.detectors.vmdls import VMDLS as VMDLS
from openset.detectors.vmdls import VMDLSb as VMDLSb
from openset.detectors.vra import VRA as VRA
from openset.detectors.weiper import WeiPer as WeiPer
from openset.fitted import by_name
from openset.spec import Trust, as_names, call, look_up, parameters_of, parse

MSP = MaxSoftmax
"""Every detector is importable by its name on the command line, in the paper's spelling."""

NETWORKS = ("autoencoder", "generator")
"""Settings that are networks, which a string names by their runs."""

DETECTORS: dict[str, type[Detector]] = by_name(globals(), Detector)


def build(
    spec: str,
    *,
    load: Callable[[str], nn.Module] | None = None,
    trust: Trust = None,
    **given: Any,
) -> Detector:
    """The detector that a string names: `"odin:epsilon=0.002"`, `"package.module:Class"`.

    Settings that a detector does not take go to its density, `"gemos:density=pca,components=4"`, or
    to another library's detector, `"pytorch-ood:KNN,k=50"`.

    Args:
        spec: The name with its settings.
        load: Reads a network by its name, for a setting that is one (`vmdls:autoencoder=RUN`);
            None takes networks from `given` alone. `openset.runs.run.build_detector` reads runs.
        trust: Packages that may be imported; None any, for a string that a user typed.
        given: What the caller has, such as `autoencoder`; only a detector that takes it, and whose
            string does not set it, gets it.

    Example:
        >>> build("energy:temperature=2")
        Energy(temperature=2)
        >>> build("gemos:density=pca,components=4").density
        PCA(components=4)
    """
    name, bare, keyed = parse(spec, DETECTORS)
    factory = look_up("detector", DETECTORS, name, trust)
    own = parameters_of(factory)

    def made(key: str, value: Any) -> Any:
        if key == "detectors" and isinstance(value, str | tuple):
            return [build(str(each), load=load, trust=trust, **given) for each in as_names(value)]
        return load(value) if key in NETWORKS and load and isinstance(value, str) else value

    placed = dict(zip(own, bare, strict=False))
    if twice := placed.keys() & keyed.keys():
        raise ValueError(f"detector {name} got {min(twice)} twice")
    keyed = {key: made(key, value) for key, value in {**placed, **keyed}.items()}
    keyed = {key: value for key, value in given.items() if key in own} | keyed
    _need(name, own, keyed)
    inner = {key: value for key, value in keyed.items() if key not in own}
    taken = {key: value for key, value in keyed.items() if key in own}
    if inner and "options" in own:
        taken["options"], inner = inner, {}
    if "density" in own and (inner or isinstance(taken.get("density"), str)):
        family, first, more = parse(taken.get("density", own["density"].default))
        density = look_up("density", DENSITIES, family, trust)
        taken["density"] = call(f"density {family}", density, {**more, **inner}, first)
        inner = {}
    return call(f"detector {name}", factory, {**taken, **inner}, bare[len(own) :])


def _need(name: str, own: Mapping[str, Parameter], keyed: Mapping[str, Any]) -> None:
    """Raises for a setting without a default that nobody gave."""
    for key, parameter in own.items():
        plain = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if plain and parameter.default is parameter.empty and key not in keyed:
            raise ValueError(
                f"detector {name} needs {key.replace('_', '-')}; write {name}:{key}=…, "
                "as its text says"
            )
