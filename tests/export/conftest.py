"""Models of many kinds, exported once: starting the converter takes seconds, one conversion tenths of one."""

from dataclasses import dataclass
from importlib import import_module

import keras
import numpy as np
import pytest
from keras import layers as kl

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


@pytest.fixture
def make_nested():
    """The function that makes the model `exported["nested"]` as it was before it was exported."""
    return nested


@dataclass
class Exported:
    """One model, its samples, and what came out by precision: an ExportedFile or the error."""

    model: keras.Model
    data: object
    files: dict


@pytest.fixture(scope="package")
def exported(tmp_path_factory):
    """Every model at its precisions, by name, from one start of the converter."""
    folder = tmp_path_factory.mktemp("exported")
    ae = nested()
    ae.save(folder / "nested.keras")
    inputs = {"alpha": uniform(100, 6), "zeta": 50 * uniform(100, 6, seed=1) - 25}
    wanted = {
        "nested": (ae, uniform(100, 64), ALL),
        "nested_again": (ae, uniform(100, 64), ("int8",)),
        "nested_reloaded": (keras.models.load_model(folder / "nested.keras"), None, (None,)),
        "subclassed": (subclassed(), uniform(100, 20), (None, "int8")),
        "convolutional": (convolutional(), uniform(100, 16, 16, 1), (None, "int8")),
        "recurrent": (recurrent(), uniform(100, 5, 3), (None, "int8")),
        "unrolled": (recurrent(unroll=True), uniform(100, 5, 3), (None, "int8")),
        "two_inputs": (two_inputs(), inputs, (None, "int8")),
        "pruned": (pruned(), uniform(100, 64), (None,)),
        "dead": (dead(), uniform(100, 20), ("int8",)),
    }
    requests = [
        request_module.request(model, {q: folder / f"{name}_{q}.tflite" for q in precisions}, data)
        for name, (model, data, precisions) in wanted.items()
    ]
    outcomes = tflite_module.export(requests, all_or_none=False)
    return {
        name: Exported(model, data, dict(zip(precisions, outcome, strict=True)))
        for (name, (model, data, precisions)), outcome in zip(wanted.items(), outcomes, strict=True)
    }
