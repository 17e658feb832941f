"""Small pruned models, one eager update, and the sparsity that is in the variables."""

import keras
import numpy as np
from keras import layers as kl

from keras_aeprune import sparsity

HALF = {"target_sparsity": 0.5, "begin_step": 0, "end_step": -1, "frequency": 1}


def half(**changed):
    """Half of the weights, at every step from the first on."""
    return sparsity.ConstantSparsity(**{**HALF, **changed})


def dense(units=(8, 6), inputs=6, **kwargs):
    """A Sequential model of Dense layers a, b, c, ..."""
    stack = [kl.Dense(n, name="abcdef"[i], **kwargs) for i, n in enumerate(units)]
    return keras.Sequential([keras.Input((inputs,)), *stack])


def batch(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def train(model, steps=1, *, x=None, y=None, optimizer=None, **compiling):
    """`steps` eager updates on one batch; eager, because tracing costs more than the arithmetic here."""
    if x is None:
        x = batch((8, *model.input_shape[1:]))
    if y is None:
        y = batch((len(x), *model.output_shape[1:]), seed=1)
    if not getattr(model, "compiled", False):
        optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
        model.compile(optimizer, keras.losses.MeanSquaredError(), run_eagerly=True, **compiling)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model


def wrappers(model):
    return sparsity.collect_prunable_layers(model)


def values(variable):
    return keras.ops.convert_to_numpy(variable)


def zeros(model):
    """Fraction of zeros in every pruned kernel, counted in the stored variables."""
    kernels = [kernel for layer in wrappers(model) for kernel in layer.prunable_weights]
    return [float(np.mean(values(kernel) == 0)) for kernel in kernels]


def masks(model):
    return [values(mask) for layer in wrappers(model) for _, mask, _ in layer.pruning_vars]


def steps(model):
    return [int(values(layer.pruning_step)) for layer in wrappers(model) if layer.pruning_vars]
