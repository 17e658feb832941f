"""Set weights to zero while training: masks, who shares the budget, callbacks, and what was reached."""

from keras_aeprune._layers import register as register_layer
from keras_aeprune.sparsity.callbacks import KeepSparse, Prune
from keras_aeprune.sparsity.pruner import MaskConstraint, Pruner, release
from keras_aeprune.sparsity.table import SparsityNotReached, SparsityRow, SparsityTable, sparsity_table

__all__ = [
    "KeepSparse",
    "MaskConstraint",
    "Prune",
    "Pruner",
    "SparsityNotReached",
    "SparsityRow",
    "SparsityTable",
    "register_layer",
    "release",
    "sparsity_table",
]
