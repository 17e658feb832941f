"""Find by trying: which width, which criterion, which calibration data; on Keras Tuner.

- `encoding_width`             the narrowest code that is still good, with its model and its curve
- `AutoencoderHyperModel`      autoencoders as a search space, for any tuner
- `with_pruning`               your own `build_model(hp)`, pruned inside every trial
- `Hyperband`, `RandomSearch`, `BayesianOptimization`   Keras Tuner's, repaired
- `evaluate`, `Task`, `Rung`   one trial without any engine
- `measure`, `pareto`          parameters, bytes and latency of a trial; what nothing else beats
- `pca_curve`, `screen`, `rules`   the curve, all widths at once, and what is good enough
- `launch`                     any of these tuners in several processes
- `choose_criterion`           criterion and allocation by successive halving
- `compare_calibration`        what generated samples and noise are worth beside real data
"""

from keras_aeprune.search import rules
from keras_aeprune.search.brackets import hyperband_plan
from keras_aeprune.search.calibration_sources import compare_calibration
from keras_aeprune.search.calibration_table import CalibrationRow, CalibrationTable, Spread
from keras_aeprune.search.choice import Candidate, Choice, choose_criterion
from keras_aeprune.search.hypermodel import AutoencoderHyperModel
from keras_aeprune.search.measures import measure, pareto
from keras_aeprune.search.pruning import Pruning, with_pruning
from keras_aeprune.search.screening import Screen, pca_curve, screen
from keras_aeprune.search.trial import Goal, Rung, Task, evaluate
from keras_aeprune.search.tuner import BayesianOptimization, Hyperband, RandomSearch
from keras_aeprune.search.width import encoding_width
from keras_aeprune.search.width_result import Curve, Trials, WidthResult
from keras_aeprune.search.workers import launch

__all__ = [
    "AutoencoderHyperModel",
    "BayesianOptimization",
    "CalibrationRow",
    "CalibrationTable",
    "Candidate",
    "Choice",
    "Curve",
    "Goal",
    "Hyperband",
    "Pruning",
    "RandomSearch",
    "Rung",
    "Screen",
    "Spread",
    "Task",
    "Trials",
    "WidthResult",
    "choose_criterion",
    "compare_calibration",
    "encoding_width",
    "evaluate",
    "hyperband_plan",
    "launch",
    "measure",
    "pareto",
    "pca_curve",
    "rules",
    "screen",
    "with_pruning",
]
