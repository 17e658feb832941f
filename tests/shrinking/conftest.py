"""The law of the room, as a function that any test gives a model to."""

import json

import keras
import numpy as np
import pytest

from keras_aeprune.shrinking.cutting import cut, masked
from keras_aeprune.shrinking.rebuild import as_graph
from keras_aeprune.shrinking.tracing import trace


def outputs(model, x):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def relative(found, expected):
    """Largest difference as a fraction of the largest output, over all outputs."""
    return max(
        float(np.abs(a.astype("float64") - b).max() / max(np.abs(b).max(), 1e-9))
        for a, b in zip(found, expected, strict=True)
    )


def shuffled(model, rng):
    """Random numbers in all weights, so that biases and moving averages count too."""
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            x = rng.normal(size=variable.shape) * 0.4
            variable.assign(abs(x) + 0.5 if "variance" in variable.path else x)


def inputs_for(model, rng, tokens):
    found = []
    for tensor in as_graph(model).inputs:
        shape = (tensor.shape[0] or 5, *(size or 6 for size in tensor.shape[1:]))
        whole = tokens or not keras.backend.is_float_dtype(tensor.dtype)
        found.append(rng.integers(0, tokens or 2, shape) if whole else rng.normal(size=shape).astype("float32"))
    struct = getattr(as_graph(model), "_inputs_struct", None)
    return found[0] if struct is None else keras.tree.pack_sequence_as(struct, found)


def snapshot(model):
    try:
        config = json.dumps(model.get_config(), sort_keys=True, default=str)
    except NotImplementedError:  # a subclassed model, or an operation with arrays
        config = ""
    return (
        config,
        [id(layer) for layer in model.layers],
        [keras.ops.convert_to_numpy(v).copy() for v in model.weights],
    )


class Proof:
    """A model, what was cut out of it, and both ways to do so."""

    def __init__(self, model, traced, kept, small, mask, x):
        self.model, self.traced, self.kept, self.small, self.mask, self.x = model, traced, kept, small, mask, x

    @property
    def sizes(self):
        """{group that can go: units}."""
        return {group.name: group.size for group in self.traced.groups if not group.reason}

    @property
    def reasons(self):
        return {group.name: group.reason for group in self.traced.groups if group.reason}


@pytest.fixture
def law(tmp_path):
    """law(model): cut half of the units of every group and compare with the masked model."""

    def prove(model, *, fraction=0.5, seed=0, tolerance=1e-5, tokens=0, random_weights=True, x=None, save=True):
        rng = np.random.default_rng(seed)
        if random_weights:
            shuffled(model, rng)
        x = inputs_for(model, rng, tokens) if x is None else x
        before = snapshot(model)
        traced = trace(model)
        removed = []
        for group in traced.groups:
            if not group.reason:
                removed += list(rng.permutation(group.classes)[: int(group.size * fraction)])
        kept = traced.kept(removed)
        small, mask = cut(traced, kept), masked(traced, kept)
        given, wanted, found = outputs(model, x), outputs(mask, x), outputs(small, x)
        assert relative(found, wanted) <= tolerance
        assert [y.shape for y in found] == [y.shape for y in given]
        if removed:
            assert small.count_params() < model.count_params()
            assert relative(wanted, given) > 1e-4  # what was cut out did count
        else:
            assert small.count_params() == model.count_params()
            assert relative(found, given) <= tolerance

        after = snapshot(model)
        assert after[:2] == before[:2]
        for old, new in zip(before[2], after[2], strict=True):
            np.testing.assert_array_equal(old, new)
        assert not {id(v) for v in small.weights} & {id(v) for v in model.weights}

        if save:
            small.save(tmp_path / "small.keras")
            again = keras.saving.load_model(tmp_path / "small.keras", compile=False)
            assert relative(outputs(again, x), found) <= 1e-7
        return Proof(model, traced, kept, small, mask, x)

    return prove
