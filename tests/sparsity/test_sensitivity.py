"""The sensitivity map against `model.evaluate` of copies that are pruned by hand."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune._validation import InputError, WrongKerasError
from keras_aeprune.sparsity import sensitivity
from keras_aeprune.sparsity.allocation import get
from keras_aeprune.sparsity.masks import count_zeros
from keras_aeprune.sparsity.sensitivity import SensitivityMap, SensitivityRow, sensitivity_map

LEVELS = (0.5, 0.9)


def silent(text, final):
    pass


def autoencoder(compiled=True, **options):
    keras.utils.set_random_seed(4)
    encoder = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, "tanh", name="code", **options)], name="encoder"
    )
    net = keras.Sequential([keras.Input((6,)), encoder, layers.Dropout(0.5), layers.Dense(6, name="out")])
    if compiled:
        net.compile("sgd", "mae", metrics=["mse"])
    return net


def data(count=300):
    return np.random.default_rng(0).random((count, 6)).astype("float32")


def measured(net, x, **options):
    return sensitivity_map(net, x, **{"sparsities": LEVELS, "progress": silent, **options})


def weights_of(net):
    return [np.array(w) for w in net.get_weights()]


def slow_loss(net, path, sparsity, x, y):
    """The loss of a copy whose kernel lost its smallest weights, one after the other."""
    other = keras.models.clone_model(net)
    other.set_weights(net.get_weights())
    other.compile("sgd", net.loss)
    layer = other
    for name in path.split("/")[:-1]:
        layer = layer.get_layer(name)
    kernel = np.array(layer.kernel)
    for place in np.argsort(np.abs(kernel), axis=None)[: count_zeros(kernel.size, sparsity)]:
        kernel.ravel()[place] = 0
    layer.kernel.assign(kernel)
    return other.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)["loss"]


def test_each_number_is_the_loss_with_that_kernel_alone_pruned():
    net, x = autoencoder(), data()
    found = measured(net, x)
    assert [row.path for row in found.rows] == ["encoder/code/kernel", "out/kernel"]
    dense = net.evaluate(x, x, verbose=0, return_dict=True)["loss"]
    assert found.dense_loss == pytest.approx(dense, rel=1e-5)
    for row in found.rows:
        for level, loss in row.losses.items():
            assert loss == pytest.approx(slow_loss(net, row.path, level, x, x), rel=1e-5)


def test_labels_are_used_where_they_are_given():
    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((6,)), layers.Dense(3, "softmax", name="out")])
    net.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data(), np.arange(300) % 3
    found = measured(net, (x, y))
    assert found["out/kernel"].losses[0.9] == pytest.approx(slow_loss(net, "out/kernel", 0.9, x, y), rel=1e-5)


def test_a_model_that_is_not_compiled_and_gives_its_input_back_is_measured_by_mse():
    net, x = autoencoder(compiled=False), data()
    found = measured(net, x)
    assert found.loss == "mse"
    assert found.dense_loss == pytest.approx(np.mean((net.predict(x, verbose=0) - x) ** 2), rel=1e-5)


def test_a_loss_that_is_given_goes_before_the_compiled_one():
    net, x = autoencoder(), data()
    found = measured(net, x, loss="mse")
    assert found.dense_loss == pytest.approx(np.mean((net.predict(x, verbose=0) - x) ** 2), rel=1e-5)


def test_weight_penalties_are_left_out():
    net, x = autoencoder(kernel_regularizer="l2"), data()
    error = np.mean(np.abs(net.predict(x, verbose=0) - x))
    assert net.evaluate(x, x, verbose=0, return_dict=True)["loss"] > error * 1.01
    assert measured(net, x).dense_loss == pytest.approx(error, rel=1e-5)


def test_the_weights_are_put_back_to_the_last_bit():
    net, x = autoencoder(), data()
    before = weights_of(net)
    measured(net, x)
    for one, other in zip(before, weights_of(net), strict=True):
        np.testing.assert_array_equal(one, other)


def test_half_precision_weights_are_put_back_too():
    net = keras.Sequential([keras.Input((6,)), layers.Dense(6, dtype="bfloat16", name="out")])
    before = np.array(net.get_weights()[0], "float32")
    measured(net, data())
    np.testing.assert_array_equal(np.array(net.get_weights()[0], "float32"), before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_weights_are_put_back_when_it_is_interrupted(monkeypatch, error):
    net, x = autoencoder(), data()
    before = weights_of(net)
    real = sensitivity._evaluator

    def broken(*arguments):
        evaluate, name = real(*arguments)
        calls = iter([evaluate, evaluate, None])

        def call():
            one = next(calls)
            if one is None:
                raise error
            return one()

        return call, name

    monkeypatch.setattr(sensitivity, "_evaluator", broken)
    with pytest.raises(error):
        measured(net, x)
    for one, other in zip(before, weights_of(net), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_function_is_traced_once_per_batch_shape(monkeypatch):
    functions = []
    real = sensitivity._evaluator

    def watched(*arguments):
        evaluate, name = real(*arguments)
        functions.append(evaluate.function)
        return evaluate, name

    monkeypatch.setattr(sensitivity, "_evaluator", watched)
    measured(autoencoder(), data(300), sparsities=(0.3, 0.5, 0.7, 0.9))  # batches of 256 and 44
    assert functions[0].experimental_get_tracing_count() == 2


def test_what_cannot_be_pruned_is_listed_with_the_reason():
    net = autoencoder()
    net.get_layer("out").trainable = False
    found = measured(net, data())
    assert [row.path for row in found.rows] == ["encoder/code/kernel"]
    assert found.skipped == {"out/kernel": "frozen (trainable=False)"}
    assert str(found).splitlines()[-1] == "out/kernel: skipped, frozen (trainable=False)"


def test_a_stopped_measurement_goes_on_where_it_was(tmp_path):
    net, x, path = autoencoder(), data(), tmp_path / "map.json"
    said = []

    def stop(text, final):
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(net, x, path=path, progress=stop)
    more = []
    found = measured(net, x, path=path, progress=lambda text, final: more.append((text, final)))
    assert [text.split()[1] for text in said] == ["1/4", "2/4", "3/4"]
    assert more == [("sensitivity: 1/1  out/kernel at 0.9", True)]
    assert found.to_dict() == measured(net, x).to_dict()
    assert SensitivityMap.from_dict(json.loads(path.read_text())) == found
    assert [file.name for file in tmp_path.iterdir()] == ["map.json"]


def test_more_sparsities_are_added_to_a_file(tmp_path):
    net, x, path = autoencoder(), data(), tmp_path / "map.json"
    measured(net, x, path=path)
    said = []
    found = measured(net, x, path=path, sparsities=(0.5, 0.7), progress=lambda text, final: said.append(text))
    assert len(said) == 2
    assert found.sparsities == [0.5, 0.7, 0.9]


@pytest.mark.parametrize("other", ["model", "data", "loss", "criterion"])
def test_a_file_of_another_measurement_is_refused_and_stays(tmp_path, other):
    net, x, path = autoencoder(), data(), tmp_path / "map.json"
    measured(net, x, path=path)
    before, options = path.read_bytes(), {}
    if other == "model":
        net.layers[-1].bias.assign([0, 0, 0, 0, 0, 0.01])
    elif other == "data":
        x = x + np.float32(1e-6)
    else:
        options = {"loss": "mse"} if other == "loss" else {"criterion": "random"}
    with pytest.raises(InputError, match=f"measured with another {other}, allowed: its own file"):
        measured(net, x, path=path, **options)
    assert path.read_bytes() == before


def test_a_model_of_the_same_weights_but_other_activations_is_refused(tmp_path):
    x, path = data(), tmp_path / "map.json"
    measured(autoencoder(), x, path=path)
    other = autoencoder()
    other.layers[0].get_layer("code").activation = keras.activations.relu
    with pytest.raises(InputError, match="is of a model with loss"):
        measured(other, x, path=path)


@pytest.mark.parametrize("text", ["{", "[]", '{"kernels": []}', '{"kernels": 3}'])
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(InputError, match="allowed: a file of sensitivity_map"):
        measured(autoencoder(), data(), path=path)


def plain(**options):
    return keras.Sequential([keras.Input((6,)), layers.Dense(3, **options)])


@pytest.mark.parametrize(
    ("net", "x", "options", "text"),
    [
        (plain, data(), {}, "not compiled with a loss, allowed: a compiled one"),
        (plain, data(), {"loss": "mse"}, r"got x alone for outputs \(None, 3\), allowed: \(x, y\)"),
        (autoencoder, (data(), data(5)), {}, r"shapes \(300, 6\), \(5, 6\), allowed"),
        (autoencoder, data(0), {}, "allowed: x, or"),
        (autoencoder, (data(), data(), data()), {}, "got a tuple of 3"),
        (autoencoder, data() * np.nan, {}, "the model as it is: got a loss of nan"),
        (autoencoder, data(), {"sparsities": ()}, "at least one fraction"),
        (autoencoder, data(), {"sparsities": (0.5, 1.0)}, "sparsities: got 1.0"),
        (autoencoder, data(), {"sparsities": (0.0,)}, "sparsities: got 0.0"),
        (autoencoder, data(), {"criterion": "magic"}, "criterion: got 'magic'"),
    ],
)
def test_what_cannot_be_measured_is_refused(net, x, options, text):
    with pytest.raises(InputError, match=text) as caught:
        measured(net(), x, **options)
    assert "\n" not in str(caught.value)


def test_something_that_is_no_keras_model_is_refused():
    with pytest.raises(WrongKerasError):
        sensitivity_map(3, data())


def made_map():
    rows = (
        SensitivityRow("encoder/code/kernel", (6, 4), {0.5: 0.25, 0.9: 1.5}),
        SensitivityRow("out/kernel", (4, 6), {0.5: 0.2}),
    )
    return SensitivityMap("mse", 0.2, {"class_name": "Magnitude", "config": {}}, rows, {"own": "unknown"})


def test_it_prints_a_table():
    assert str(made_map()).splitlines() == [
        "mse with one kernel pruned at a time; with none: 0.2",
        "kernel               weights   0.5  0.9",
        "---------------------------------------",
        "encoder/code/kernel       24  0.25  1.5",
        "out/kernel                24   0.2    -",
        "own: skipped, unknown",
    ]


def test_its_errors_are_what_the_allocation_takes():
    assert made_map().errors() == {
        "encoder/code/kernel": {0.5: pytest.approx(0.05), 0.9: 1.3},
        "out/kernel": {0.5: 0},
    }
    split = get({"class_name": "sensitivity", "config": {"errors": made_map()}})
    assert split.errors["out/kernel"] == [[0.5, 0.0]]


def test_it_is_plain_json_values_and_comes_back():
    text = json.dumps(made_map().to_dict())
    assert SensitivityMap.from_dict(json.loads(text)) == made_map()


def test_an_unknown_path_lists_the_known_ones():
    with pytest.raises(KeyError, match="there are: encoder/code/kernel, out/kernel"):
        made_map()["c"]


def test_the_picture_shows_every_number_and_is_darker_where_more_was_lost():
    axes = made_map().plot().axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert {"0.25", "1.5", "0.2", "encoder/code/kernel  (6 x 4)"} <= set(shown)
    alphas = [patch.get_alpha() for patch in axes.patches]
    assert len(alphas) == 3
    assert alphas[1] > alphas[0] > alphas[2]
    with pytest.raises(InputError, match="map: got no kernels"):
        SensitivityMap("mse", 0.2, {}, (), {}).plot()


def test_real_model_real_data(real_data):
    x = np.load(real_data / "data" / "mnist.npz")["x_test"][:512].reshape(512, -1).astype("float32") / 255
    net = keras.models.load_model(real_data / "models" / "mnist_dense_ae_keras3.h5", compile=False)
    found = sensitivity_map(net, x, sparsities=(0.5, 0.99), progress=silent)
    assert len(found.rows) >= 2
    assert all(row.losses[0.99] > row.losses[0.5] > 0 for row in found.rows)
