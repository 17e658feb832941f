"""Set weights to zero while training: masks, who shares the budget, callbacks, and what was reached.

- `Prune`, `KeepSparse`        callbacks for `model.fit`
- `Pruner`                     the same for a training loop of one's own
- `sparsity_table`             asked, reached, skipped and why
- `sensitivity_map`            each layer's error against its sparsity
- `iterative`                  prune and fine-tune in rounds, until a limit is reached
- `one_shot`                   prune without training, in rounds; WoodFisher moves the weights that stay
- `Threshold`                  prune what scores below a number, in the schedule's place
- `entropy_allocation`         layers whose units decide little share more of the zeros
- `patterns`, `allocation`     which weights go together, and which layers share the zeros
- `prune_low_magnitude` and the other names of tfmot's API, on Keras 3
"""

from keras_aeprune._layers import register as register_layer
from keras_aeprune.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule
from keras_aeprune.sparsity import allocation, patterns
from keras_aeprune.sparsity.callbacks import KeepSparse, Prune
from keras_aeprune.sparsity.entropy_allocation import EntropyAllocation, entropy_allocation
from keras_aeprune.sparsity.iterative import iterative
from keras_aeprune.sparsity.iterative_table import IterativeResult
from keras_aeprune.sparsity.layers import PruneLowMagnitude, collect_prunable_layers
from keras_aeprune.sparsity.one_shot import one_shot
from keras_aeprune.sparsity.policies import PruneForLatencyOnXNNPack, PruningPolicy
from keras_aeprune.sparsity.prunable import PrunableLayer
from keras_aeprune.sparsity.pruner import MaskConstraint, Pruner, release
from keras_aeprune.sparsity.sensitivity import SensitivityMap, sensitivity_map
from keras_aeprune.sparsity.steps import PruningSummaries, UpdatePruningStep
from keras_aeprune.sparsity.table import SparsityNotReached, SparsityRow, SparsityTable, sparsity_table
from keras_aeprune.sparsity.threshold import Threshold
from keras_aeprune.sparsity.wrapping import prune_low_magnitude, prune_scope, strip_pruning

__all__ = [
    "ConstantSparsity",
    "EntropyAllocation",
    "IterativeResult",
    "KeepSparse",
    "MaskConstraint",
    "PolynomialDecay",
    "PrunableLayer",
    "Prune",
    "PruneForLatencyOnXNNPack",
    "PruneLowMagnitude",
    "Pruner",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "SensitivityMap",
    "SparsityNotReached",
    "SparsityRow",
    "SparsityTable",
    "Threshold",
    "UpdatePruningStep",
    "allocation",
    "collect_prunable_layers",
    "entropy_allocation",
    "iterative",
    "one_shot",
    "patterns",
    "prune_low_magnitude",
    "prune_scope",
    "register_layer",
    "release",
    "sensitivity_map",
    "sparsity_table",
    "strip_pruning",
]
