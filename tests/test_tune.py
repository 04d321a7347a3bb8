import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.data import ImageSet
from openset.detectors import ODIN, Energy, KNN, Mahalanobis, MaxSoftmax, Temperature
from openset.metrics import fpr_at_95_tpr
from openset.tap import Tap
from openset.tune import GRID, tune, tune_on_known
