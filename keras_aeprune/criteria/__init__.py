"""Which weights matter: scores of the kernel's shape, higher means keep.

- `scores` gives those of every kernel of a model, `unit_scores` those of its neurons and filters
- weights alone: `Magnitude`, `WeightEntropy`, `Random` (the control), `SynFlow` (gradients, but no data)
- gradients: `SNIP`, `GradientMagnitude`, `Taylor`, `GraSP`, `Fisher`, `PredictionSensitivity`, `WoodFisher`
- activations: `ActivationMean`, `ActivationVariance`, `APoZ`, `Wanda`, `ActivationEntropy`
- `layer_entropies` says which layers decide least
- `register` makes a function or a `Criterion` of one's own known by name, wherever a name is taken
"""

from keras_aeprune.criteria.activations import ActivationMean, ActivationVariance, APoZ, Wanda
from keras_aeprune.criteria.base import Criterion, Evidence, get, names, serialize
from keras_aeprune.criteria.custom import register
from keras_aeprune.criteria.entropy import ActivationEntropy, layer_entropies
from keras_aeprune.criteria.fisher import Fisher, PredictionSensitivity
from keras_aeprune.criteria.gradients import SNIP, GradientMagnitude, GraSP, Taylor
from keras_aeprune.criteria.scoring import measured, scores, unit_scores
from keras_aeprune.criteria.synflow import SynFlow
from keras_aeprune.criteria.weight_entropy import WeightEntropy
from keras_aeprune.criteria.weights import Magnitude, Random
from keras_aeprune.criteria.woodfisher import WoodFisher

__all__ = [
    "SNIP",
    "APoZ",
    "ActivationEntropy",
    "ActivationMean",
    "ActivationVariance",
    "Criterion",
    "Evidence",
    "Fisher",
    "GraSP",
    "GradientMagnitude",
    "Magnitude",
    "PredictionSensitivity",
    "Random",
    "SynFlow",
    "Taylor",
    "Wanda",
    "WeightEntropy",
    "WoodFisher",
    "get",
    "layer_entropies",
    "measured",
    "names",
    "register",
    "scores",
    "serialize",
    "unit_scores",
]
