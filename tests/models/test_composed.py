"""Any two halves make an autoencoder that trains, prunes, exports, saves and loads; copies share nothing."""

import keras
import numpy as np
import pytest

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.models import decoder_of, dense, encoder_of, load
from keras_aeprune.models.composed import (
    Autoencoder,
    copied,
    entrance_of,
    free_name,
    layer_at,
    rewired,
    tensors_of,
)

X = np.random.default_rng(0).random((32, 6), dtype="float32")


class Half(keras.Model):
    """Returns the code and a feature as a tuple, a list or a dict, or the code alone."""

    def __init__(self, structure="tuple", **kwargs):
        super().__init__(**kwargs)
        self.structure = structure
        self.first = keras.layers.Dense(5, "relu", name="first")
        self.second = keras.layers.Dense(2, name="second")

    def call(self, x):
        feature = self.first(x)
        code = self.second(feature)
        return {
            "code": code,
            "tuple": (code, feature),
            "list": [code, feature],
            "dict": {"feature": feature, "code": code},
        }[self.structure]

    def get_config(self):
        return {**super().get_config(), "structure": self.structure}


class OtherHalf(keras.Model):
    """Puts code and feature side by side before its only layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.out = keras.layers.Dense(6, name="out")

    def call(self, parts):
        if isinstance(parts, dict):
            parts = [parts["code"], parts["feature"]]
        return self.out(keras.ops.concatenate(parts, axis=-1) if isinstance(parts, list | tuple) else parts)


def own(structure="tuple"):
    model = Autoencoder(Half(structure), OtherHalf())
    model(X[:1])
    return model


@pytest.mark.parametrize("structure", ["code", "tuple", "list", "dict"])
def test_output_and_code_are_those_of_a_numpy_network(structure):
    model = own(structure)
    k1, b1, k2, b2, ko, bo = (np.asarray(keras.ops.convert_to_numpy(v)) for v in model.weights)
    feature = np.maximum(X @ k1 + b1, 0)
    code = feature @ k2 + b2
    parts = code if structure == "code" else np.concatenate([code, feature], axis=1)
    np.testing.assert_allclose(model(X), parts @ ko + bo, atol=1e-5)
    np.testing.assert_allclose(model.encode(X), code, atol=1e-5)
    assert ko.shape[0] == (2 if structure == "code" else 7)


def test_the_halves_are_found_and_share_the_weights():
    model = own()
    assert encoder_of(model) is model.encoder
    assert decoder_of(model) is model.decoder
    assert len(model.weights) == len(model.encoder.weights) + len(model.decoder.weights) == 6


def test_halves_that_know_their_input_are_built_at_once():
    parts = dense((6,), 2, hidden_units=(4,))
    model = Autoencoder(parts.encoder, parts.decoder, name="mine")
    assert model.built and model.name == "mine"
    np.testing.assert_allclose(model(X), parts(X), atol=1e-6)


@pytest.mark.parametrize("structure", ["tuple", "dict"])
def test_a_saved_file_of_own_registered_classes_loads_equal(tmp_path, structure):
    model = own(structure)
    model.save(tmp_path / "m.keras")
    with keras.saving.custom_object_scope({"Half": Half, "OtherHalf": OtherHalf}):
        loaded = load(tmp_path / "m.keras")
    assert type(loaded) is Autoencoder and type(loaded.encoder) is Half
    np.testing.assert_allclose(loaded(X), model(X), atol=1e-6)


def test_pruning_in_fit_table_and_export_accept_it(tmp_path):
    model = own()
    model.compile("adam", "mse")
    model.fit(X, X, epochs=4, batch_size=8, verbose=0, callbacks=[kap.Prune(0.5)])
    rows = {row.path: row for row in kap.sparsity_table(model).rows}
    assert {"first", "second", "out"} == {path.split("/")[-2] for path in rows}
    assert sum(row.zeros for row in rows.values()) >= 0.45 * sum(row.weights for row in rows.values())
    file = kap.export.tflite(model, tmp_path / "m.tflite", data=X)
    assert (tmp_path / "m.tflite").stat().st_size > 0 and file is not None


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_what_is_no_layer_is_refused(half):
    halves = {"encoder": keras.layers.Dense(2), "decoder": keras.layers.Dense(2), half: "a.keras"}
    with pytest.raises(InputError, match=f"{half}: got 'a.keras', allowed"):
        Autoencoder(**halves)


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed", "layer"])
def test_a_copy_is_equal_and_shares_nothing(kind):
    if kind == "functional":
        part = dense((6,), 2, hidden_units=(4,), batch_normalization=True)
        part.compile("adam", "mse")
        part.fit(X, X, verbose=0)
    elif kind == "sequential":
        part = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    elif kind == "subclassed":
        part = own()
    else:
        part = keras.layers.Dense(3)
        part.build((None, 6))
    copy = copied(part, "other")
    assert copy.name == "other" and not getattr(copy, "optimizer", None)
    np.testing.assert_allclose(copy(X), part(X), atol=1e-6)
    assert not {id(v) for v in copy.weights} & {id(v) for v in part.weights}


def test_what_cannot_be_copied_is_refused_in_one_line():
    class Closed(keras.layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.inner = units  # an object that no config holds

        def call(self, x):
            return self.inner(x)

    part = keras.Sequential([keras.Input((6,)), Closed(keras.layers.Dense(2))])
    with pytest.raises(InputError, match="cannot be copied|other weights") as error:
        copied(part)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="not built"):
        copied(keras.Sequential([keras.layers.Dense(2)]))


def test_the_entrance_has_the_shape_and_type_of_the_input():
    tokens = keras.Sequential([keras.Input((7,), dtype="int32"), keras.layers.Embedding(5, 2)])
    assert entrance_of(tokens).dtype == "int32" and tuple(entrance_of(tokens).shape) == (None, 7)
    assert tuple(entrance_of(own()).shape) == (None, 6)
    a, b = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(InputError, match="several inputs"):
        entrance_of(keras.Model([a, b], keras.layers.Add()([a, b])))


def network():
    x = keras.Input((6,), name="x")
    a = keras.layers.Dense(4, name="a")(x)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="deep")], name="inner")
    return keras.Model(x, keras.layers.Dense(2, name="end")(keras.layers.Add(name="sum")([inner(a), inner(a)])))


def test_the_layer_and_its_tensor_are_found():
    model = network()
    layer, tensor = layer_at(model, "a")
    assert layer is model.get_layer("a") and tuple(tensor.shape) == (None, 4)
    assert layer_at(model, layer)[0] is layer
    assert len(tensors_of(model, model.get_layer("inner"))) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "'none', allowed: a layer of"),
        ("x", "allowed: a layer of"),
        ("end", "the output of the network"),
        ("inner", "used several times"),
        ("inner/deep", "inside the nested model 'inner'"),
        (7, "got 7"),
    ],
)
def test_other_places_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        layer_at(network(), name)


def test_networks_that_are_no_graph_are_refused():
    with pytest.raises(InputError, match="subclassed"):
        layer_at(own(), "a")
    with pytest.raises(InputError, match="not built"):
        layer_at(keras.Sequential([keras.layers.Dense(2, name="a")]), "a")
    x = keras.Input((3,))
    a = keras.layers.Dense(2, name="a")(x)
    with pytest.raises(InputError, match="2 outputs"):
        layer_at(keras.Model(x, [a, keras.layers.ReLU()(a)]), "a")


def test_a_rewired_network_leaves_out_what_nothing_needs():
    model = network()
    same = rewired(model, lambda layer, *args, **kwargs: layer(*args, **kwargs))
    np.testing.assert_allclose(same(X), model(X), atol=1e-6)
    assert not {id(v) for v in same.weights} & {id(v) for v in model.weights}

    def bridged(layer, *args, **kwargs):
        return args[0][0] if layer.name == "sum" else layer(*args, **kwargs)

    short = rewired(model, bridged)
    assert "sum" not in [layer.name for layer in short.layers]


def test_a_free_name_is_never_taken():
    taken = {"a", "a_2", "a_3"}
    assert free_name("a", taken) == "a_4"
    assert free_name("a", []) == "a"
