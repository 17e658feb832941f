"""Models of many kinds, each exported when a test first asks for it, with the converter in the test's process.

Starting a process for the converter takes seconds, one conversion tenths of one; the process has its own tests
(test_converter_process).
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune.export import _convert
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.models.dense import dense

# keras_aeprune.export.tflite is the function; the module of the same name is reached like this
tflite_module = import_module("keras_aeprune.export.tflite")
request_module = import_module("keras_aeprune.export.request")

ALL = (None, "float16", "dynamic", "int8")


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def nested():
    """decoder(encoder(x)), compiled and trained for a moment."""
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [keras.Input((64,)), kl.Dense(32, activation="relu", name="hidden_1"), kl.Dense(8, name="code")],
        name="encoder",
    )
    decoder = keras.Sequential(
        [keras.Input((8,)), kl.Dense(32, activation="relu", name="hidden_1"), kl.Dense(64, "sigmoid")],
        name="decoder",
    )
    x = keras.Input((64,), name="pixels")
    model = keras.Model(x, decoder(encoder(x)), name="autoencoder")
    model.compile("adam", "mse")
    model.fit(uniform(128, 64), uniform(128, 64), epochs=1, verbose=0)
    return model


class Subclassed(keras.Model):
    """A model with a call method of its own, BatchNormalization and Dropout."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.first = kl.Dense(48, activation="relu")
        self.norm = kl.BatchNormalization()
        self.drop = kl.Dropout(0.5)
        self.last = kl.Dense(20)

    def call(self, x, training=None):
        return self.last(self.drop(self.norm(self.first(x)), training=training))


def subclassed():
    keras.utils.set_random_seed(2)
    model = Subclassed()
    model(np.zeros((2, 20), "float32"))
    return model


def convolutional():
    """Strided convolutions down, a transposed one and two UpSampling2D + Conv2D stages up."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            kl.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            kl.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
            kl.Conv2DTranspose(8, 3, strides=2, padding="same", activation="leaky_relu"),
            kl.MaxPooling2D(),
            kl.UpSampling2D(),
            kl.Conv2D(8, 3, padding="same", activation="relu"),
            kl.UpSampling2D(),
            kl.Conv2D(1, 3, padding="same"),
        ],
        name="convolutional",
    )


def recurrent(unroll=False):
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [keras.Input((5, 3)), kl.LSTM(12, return_sequences=True, unroll=unroll, name="lstm"), kl.Dense(3)]
    )


def two_inputs():
    """3 * zeta - alpha through a kernel: the order and the ranges of the two inputs matter."""
    zeta, alpha = keras.Input((6,), name="zeta"), keras.Input((6,), name="alpha")
    mixed = kl.Subtract()([kl.Rescaling(3.0)(zeta), alpha])
    keras.utils.set_random_seed(5)
    return keras.Model([zeta, alpha], [kl.Dense(4)(mixed), kl.Dense(5)(mixed)], name="two_inputs")


def pruned():
    """Two kernels of zeros, which the converter stores once."""
    keras.utils.set_random_seed(6)
    return keras.Sequential(
        [
            keras.Input((64,)),
            kl.Dense(64, activation="relu"),
            kl.Dense(64, kernel_initializer="zeros"),
            kl.Dense(64, kernel_initializer="zeros"),
            kl.Dense(64, bias_initializer="normal"),
        ]
    )


def dead():
    """encoder/hidden fires, encoder/silent never does, and what follows it gets zeros only."""
    keras.utils.set_random_seed(7)
    below = keras.initializers.Constant(-50.0)
    encoder = keras.Sequential(
        [
            keras.Input((20,)),
            kl.Dense(16, activation="relu", name="hidden"),
            kl.Dense(16, name="below", bias_initializer=below),
            kl.ReLU(name="silent"),
        ],
        name="encoder",
    )
    x = keras.Input((20,))
    return keras.Model(x, kl.Dense(20, use_bias=False)(encoder(x)), name="dead")


def sparse(block=1):
    """64-128-64 with about 0.9 zeros in each kernel, in blocks of so many inputs."""
    keras.utils.set_random_seed(8)
    model = keras.Sequential([keras.Input((64,)), kl.Dense(128, "relu", name="hidden"), kl.Dense(64)])
    generator = np.random.default_rng(8)
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        kept = generator.random((kernel.shape[0] // block, kernel.shape[1])).repeat(block, axis=0) > 0.9
        layer.set_weights([kernel * kept, bias])
    return model


def halves():
    """An autoencoder with .encoder and .decoder."""
    keras.utils.set_random_seed(9)
    return dense((48,), 6, hidden_units=(40,))


def sequences(steps=3):
    """A loop in a nested model and a bidirectional one beside it."""
    keras.utils.set_random_seed(10)
    encoder = keras.Sequential(
        [keras.Input((steps, 3)), kl.Bidirectional(kl.SimpleRNN(6), name="both")], name="encoder"
    )
    x = keras.Input((steps, 3), name="x")
    code = kl.RepeatVector(2)(encoder(x))
    return keras.Model(x, kl.Dense(2)(kl.GRU(7, return_sequences=True, name="gru")(code)), name="sequences")


def with_dead_units():
    """Of 32 hidden units 20 get nothing (and a bias that a ReLU lets through) and 4 are not taken up."""
    keras.utils.set_random_seed(11)
    layers = [kl.Dense(32, "relu", bias_initializer="ones", name="hidden"), kl.Dense(16, name="last")]
    model = keras.Sequential([keras.Input((16,)), *layers])
    for layer, place in zip(layers, ((slice(None), slice(20)), (slice(28, 32), slice(None))), strict=True):
        kernel, bias = layer.get_weights()
        kernel[place] = 0
        layer.set_weights([kernel, bias])
    return model


@contextmanager
def here():
    """Convert in this process while the block runs."""

    def convert(jobs, folder):
        return [_one(job) for job in jobs]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite_module, "convert", convert)
        yield


def _one(job):
    try:
        job.output.write_bytes(_convert.convert(job.request()))
    except Exception as error:
        return ConversionError(f"{job.precision.name} conversion failed: {error}")


@pytest.fixture(scope="module")
def in_this_process():
    """No process of its own for the converter during the tests of a module."""
    with here():
        yield


@dataclass
class Exported:
    """One model, its samples, and what came out by precision: an ExportedFile or the error."""

    model: keras.Model
    data: object
    files: dict


class OnDemand(Mapping):
    """`Exported` by name, made on first use, together with those whose names begin with the same word.

    `wanted` holds by name a function that gives model, data, precisions and options.
    """

    def __init__(self, folder, wanted):
        self._folder, self._wanted, self._made = folder, wanted, {}

    def __iter__(self):
        return iter(self._wanted)

    def __len__(self):
        return len(self._wanted)

    def __getitem__(self, name):
        if name not in self._made:
            self._make([other for other in self._wanted if other.split("_")[0] == name.split("_")[0]])
        return self._made[name]

    def _make(self, names):
        rows = [self._wanted[name]() for name in names]
        requests = [
            request_module.request(
                model, {q: self._folder / f"{name}_{q}.tflite" for q in precisions}, data, **options
            )
            for name, (model, data, precisions, options) in zip(names, rows, strict=True)
        ]
        with here():
            outcomes = tflite_module.export(requests, all_or_none=False)
        for name, (model, data, precisions, _), outcome in zip(names, rows, outcomes, strict=True):
            self._made[name] = Exported(model, data, dict(zip(precisions, outcome, strict=True)))


@pytest.fixture(scope="package")
def exported(tmp_path_factory):
    """Models of many kinds at their precisions."""
    folder = tmp_path_factory.mktemp("exported")
    ae = cache(nested)

    def reloaded():
        ae().save(folder / "nested.keras")
        return keras.models.load_model(folder / "nested.keras")

    inputs = {"alpha": uniform(100, 6), "zeta": 50 * uniform(100, 6, seed=1) - 25}
    both = (None, "int8")
    return OnDemand(
        folder,
        {
            "nested": lambda: (ae(), uniform(100, 64), ALL, {}),
            "nested_again": lambda: (ae(), uniform(100, 64), ("int8",), {}),
            "nested_reloaded": lambda: (reloaded(), None, (None,), {}),
            "subclassed": lambda: (subclassed(), uniform(100, 20), both, {}),
            "convolutional": lambda: (convolutional(), uniform(100, 16, 16, 1), both, {}),
            "recurrent": lambda: (recurrent(), uniform(100, 5, 3), both, {}),
            "unrolled": lambda: (recurrent(unroll=True), uniform(100, 5, 3), both, {}),
            "two_inputs": lambda: (two_inputs(), inputs, both, {}),
            "pruned": lambda: (pruned(), uniform(100, 64), (None,), {}),
            "dead": lambda: (dead(), uniform(100, 20), ("int8",), {}),
        },
    )


@pytest.fixture(scope="package")
def featured(tmp_path_factory):
    """Models with each option of the exporter."""
    codes = {"parts": ("encoder", "decoder"), "metadata": {"labels": ["low", "high"]}}
    three = {"parts": ("autoencoder", "encoder", "decoder")}
    return OnDemand(
        tmp_path_factory.mktemp("featured"),
        {
            "sparse": lambda: (sparse(), uniform(64, 64), ("smallest", None), {}),
            "sparse_off": lambda: (sparse(), uniform(64, 64), (None,), {"sparse": False, "batch": 7}),
            "blocks": lambda: (sparse(block=4), uniform(64, 64), ("float16",), {}),
            "parts": lambda: (halves(), uniform(64, 48), (None, "int8"), codes),
            "three_parts": lambda: (halves(), uniform(64, 48), (None,), three),
            "batch": lambda: (halves(), uniform(64, 48), (None, "int8_io", "int16x8"), {"batch": 7}),
            "int8": lambda: (halves(), uniform(64, 48), ("int8",), {}),
            "unrolled": lambda: (sequences(), uniform(64, 3, 3), (None, "int8"), {}),
            "rolled": lambda: (sequences(), uniform(64, 3, 3), (None,), {"unroll": False}),
            "many_steps": lambda: (sequences(65), uniform(64, 65, 3), (None,), {}),
            "dead_units": lambda: (with_dead_units(), None, (None,), {}),
        },
    )


@pytest.fixture
def make_nested():
    """The function that makes the model `exported["nested"]` as it was before it was exported."""
    return nested
