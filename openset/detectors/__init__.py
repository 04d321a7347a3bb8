"""Every detector. A new one is a file here and a line below; its name makes it a command."""

from openset import names
from openset.densities import DENSITIES
from openset.detectors.base import Detector as Detector
from openset.detectors.binary import BIN as BIN
from openset.detectors.binary import BINC as BINC
from openset.detectors.bottleneck import VIB as VIB
from openset.detectors.bottleneck import VIBY1 as VIBY1
from openset.detectors.bottleneck import VIBY2 as VIBY2
from openset.detectors.gemos import GeMOS as GeMOS
from openset.detectors.logits import Energy as Energy
from openset.detectors.logits import Entropy as Entropy
from openset.detectors.logits import MaxLogit as MaxLogit
from openset.detectors.logits import MaxSoftmax as MaxSoftmax
from openset.detectors.logits import Temperature as Temperature
from openset.detectors.mahalanobis import Mahalanobis as Mahalanobis
from openset.detectors.odin import ODIN as ODIN
from openset.fitted import by_name
from openset.names import look_up, parameters_of, parse

DETECTORS: dict[str, type[Detector]] = by_name(globals(), Detector)


def build(spec: str) -> Detector:
    """The detector that a string names: `"odin:epsilon=0.002"`, `"package.module:Class"`.

    Settings that a detector does not take go to its density: `"gemos:density=pca,components=4"`.

    Example:
        >>> build("energy:temperature=2")
        Energy(temperature=2)
        >>> build("gemos:density=pca,components=4").density
        PCA(components=4)
    """
    name, bare, keyed = parse(spec)
    own = parameters_of(look_up("detector", DETECTORS, name))
    inner = {key: value for key, value in keyed.items() if key not in own}
    if not inner or "density" not in own:
        return names.build("detector", DETECTORS, spec)
    family = keyed.pop("density", own["density"].default)
    keyed = {key: value for key, value in keyed.items() if key in own}
    keyed["density"] = names.call(
        "density", family, look_up("density", DENSITIES, family), [], inner, {}
    )
    return names.call("detector", name, DETECTORS[name], bare, keyed, {})
