"""Convolutional autoencoders: shapes and parameters by hand, positions kept, trained, pruned, exported."""

import inspect
import subprocess
import sys
from importlib import import_module

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.models.convolutional import convolutional

# the sample, its filters, the feature maps on the way down, and where the decoder has to crop
SHAPES = [
    ((28, 28, 1), (16, 8), [(14, 14, 16), (7, 7, 8)], []),
    ((28, 28, 1), (8, 6, 4), [(14, 14, 8), (7, 7, 6), (4, 4, 4)], ["crop_1"]),
    ((7, 5, 3), (6, 4), [(4, 3, 6), (2, 2, 4)], ["crop_1", "crop_2"]),
    ((33, 2), (4, 3), [(17, 4), (9, 3)], ["crop_1", "crop_2"]),
    ((9, 4), (5, 3), [(5, 5), (3, 3)], ["crop_1", "crop_2"]),
    ((1, 6, 2), (2, 1), [(1, 3, 2), (1, 2, 1)], ["crop_1", "crop_2"]),
]


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


@pytest.mark.parametrize("encoding_dim", [None, 5])
@pytest.mark.parametrize("upsampling", ["transposed", "resized"])
@pytest.mark.parametrize("downsampling", ["strided", "pooled"])
@pytest.mark.parametrize(("shape", "filters", "maps", "crops"), SHAPES)
def test_every_stage_has_its_exact_size_on_the_way_down_and_up(
    shape, filters, maps, crops, downsampling, upsampling, encoding_dim
):
    model = convolutional(shape, encoding_dim, filters=filters, downsampling=downsampling, upsampling=upsampling)
    last = "filters" if downsampling == "strided" else "pool"
    on_the_way = [model.encoder.get_layer(f"{last}_{n}").output.shape[1:] for n in range(1, len(filters) + 1)]
    assert on_the_way == maps
    assert model.encoder.output_shape[1:] == (maps[-1] if encoding_dim is None else (5,))
    assert [layer.name for layer in model.decoder.layers if layer.name.startswith("crop")] == crops
    after = [layer.output.shape[1:-1] for layer in model.decoder.layers]
    assert [size[:-1] for size in [*maps[::-1][1:], shape]] == _last_of_each_stage(model.decoder, after)
    assert model(uniform(2, *shape)).shape == (2, *shape)


def _last_of_each_stage(decoder, sizes):
    found = {}
    for layer, size in zip(decoder.layers, sizes, strict=True):
        stem, _, number = layer.name.partition("_")
        if stem in ("filters", "crop"):
            found[number] = size
    return list(found.values())


def test_the_parameters_of_the_tutorial_denoiser_by_hand():
    model = convolutional((28, 28, 1), filters=(16, 8))
    assert [layer.name for layer in model.encoder.layers] == ["sample", "filters_1", "filters_2"]
    assert [layer.name for layer in model.decoder.layers] == ["code", "filters_1", "filters_2", "output"]
    down = (9 * 1 * 16 + 16) + (9 * 16 * 8 + 8)
    up = (9 * 8 * 8 + 8) + (9 * 8 * 16 + 16)
    assert model.count_params() == down + up + (9 * 16 * 1 + 1) == 3217


def test_the_parameters_with_a_dense_code_and_normalization_by_hand():
    model = convolutional((9, 4), 7, filters=(6,), kernel_size=5, batch_normalization=True)
    encoder = (5 * 4 * 6 + 6) + 4 * 6 + (5 * 6 * 7 + 7)
    decoder = (7 * 30 + 30) + 4 * 30 + (5 * 6 * 6 + 6) + 4 * 6 + (5 * 6 * 4 + 4)
    assert model.count_params() == encoder + decoder


def test_it_computes_what_the_same_layers_in_a_row_compute():
    model = convolutional((28, 28, 1), filters=(16, 8))
    plain = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            kl.Conv2D(16, 3, activation="relu", padding="same", strides=2),
            kl.Conv2D(8, 3, activation="relu", padding="same", strides=2),
            kl.Conv2DTranspose(8, 3, strides=2, activation="relu", padding="same"),
            kl.Conv2DTranspose(16, 3, strides=2, activation="relu", padding="same"),
            kl.Conv2D(1, 3, activation="sigmoid", padding="same"),
        ]
    )
    plain.set_weights(model.get_weights())
    x = uniform(4, 28, 28, 1)
    np.testing.assert_allclose(model(x), plain(x), atol=1e-6)


@pytest.mark.parametrize("length", [7, 8, 9, 12])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_what_a_strided_stage_reads_comes_back_at_its_place(length, kernel_size):
    """Kernels that pass on their middle step only: every second value must return where it was."""
    model = convolutional(
        (length, 1), filters=(1,), kernel_size=kernel_size, activation="linear", output_activation="linear"
    )
    for variable in model.weights:
        value = np.zeros(variable.shape)
        if value.ndim == 3:
            value[kernel_size // 2] = 1.0
        variable.assign(value)
    x = uniform(1, length, 1) + 1
    back = np.asarray(model(x))
    kept = back != 0
    assert kept.sum() == (length + 1) // 2
    np.testing.assert_array_equal(back[kept], x[kept])


def test_what_a_pooled_stage_reads_comes_back_over_the_same_steps():
    model = convolutional(
        (5, 1), filters=(1,), kernel_size=1, downsampling="pooled", upsampling="resized", activation="linear",
        output_activation="linear",
    )  # fmt: skip
    for variable in model.weights:
        variable.assign(np.full(variable.shape, float(len(variable.shape) == 3)))
    x = np.array([1.0, 4.0, 3.0, 2.0, 5.0]).reshape(1, 5, 1)
    assert np.asarray(model(x)).ravel().tolist() == [4.0, 4.0, 3.0, 3.0, 5.0]


def test_normalization_stands_between_each_layer_and_its_activation():
    model = convolutional((8, 8, 1), 3, filters=(4,), activation="elu", batch_normalization=True)
    assert [layer.name for layer in model.encoder.layers] == [
        "sample", "filters_1", "filters_1_normalization", "filters_1_activation", "flatten", "code",
    ]  # fmt: skip
    assert [layer.name for layer in model.decoder.layers] == [
        "code", "expand", "expand_normalization", "expand_activation", "feature_map", "filters_1",
        "filters_1_normalization", "filters_1_activation", "output",
    ]  # fmt: skip
    assert model.encoder.get_layer("filters_1").activation is keras.activations.linear
    assert model.encoder.get_layer("filters_1_activation").activation is keras.activations.elu


def test_activations_are_where_they_were_asked_for():
    model = convolutional((8, 1), 3, filters=(4,), activation="tanh", output_activation="linear", name="own")
    tanh, linear = keras.activations.tanh, keras.activations.linear
    assert [layer.activation for layer in model.encoder.layers if hasattr(layer, "activation")] == [tanh, linear]
    decoder = [layer.activation for layer in model.decoder.layers if hasattr(layer, "activation")]
    assert decoder == [tanh, tanh, linear]
    assert model.name == "own"


def test_training_lowers_the_loss():
    keras.utils.set_random_seed(0)
    x = np.zeros((64, 8, 8, 1), "float32")
    x[np.arange(64), np.arange(64) // 8, np.arange(64) % 8] = 1
    x = np.maximum(x, np.roll(x, 1, axis=2))
    model = convolutional((8, 8, 1), 6, filters=(8,), batch_normalization=True)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = model.fit(x, x, epochs=12, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_one_epoch_with_prune_reaches_the_sparsity():
    shape = (12, 12, 1)
    model = convolutional(shape, 6, filters=(8, 8), upsampling="resized")
    model.compile("adam", "mse")
    x = uniform(160, *shape)
    model.fit(x, x, epochs=1, batch_size=8, verbose=0, callbacks=[kap.Prune(0.75)])
    kernels = [np.asarray(v) for v in model.weights if v.name == "kernel"]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert len(kernels) == 7  # 2 + 2 stages, the dense code, the one behind it, the output
    assert zeros / sum(kernel.size for kernel in kernels) == pytest.approx(0.75, abs=0.005)


def test_a_saved_file_loads_in_a_process_without_this_package(tmp_path):
    model = convolutional((7, 5, 3), 4, filters=(6, 4), batch_normalization=True)
    model.save(tmp_path / "m.keras")
    x = uniform(4, 7, 5, 3)
    np.save(tmp_path / "x.npy", x)
    script = """
        import sys, keras, numpy as np
        model = keras.saving.load_model("m.keras")
        x = np.load("x.npy")
        halves = model.get_layer("decoder")(model.get_layer("encoder")(x))
        np.save("y.npy", np.stack([model(x), halves]))
        sys.exit("keras_aeprune" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", inspect.cleandoc(script)], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.stack([model(x)] * 2), atol=1e-6)


def test_exported_files_equal_the_models(tmp_path):
    """The exporter compares each file with its model; one start of the converter for all of them."""
    tflite, request = (import_module(f"keras_aeprune.export.{name}") for name in ("tflite", "request"))
    resized = {"filters": (8, 4), "downsampling": "pooled", "upsampling": "resized"}
    wanted = {
        "transposed": (convolutional((9, 7, 2), filters=(8, 4), batch_normalization=True), (None, "int8")),
        "resized": (convolutional((9, 7, 2), 5, **resized), (None,)),
        "series": (convolutional((33, 2), 6, filters=(8, 4)), (None,)),
        "series_resized": (convolutional((33, 2), **resized), (None,)),
    }
    requests = [
        request.request(
            model,
            {q: tmp_path / f"{name}_{q}.tflite" for q in precisions},
            uniform(100, *model.input_shape[1:]),
        )
        for name, (model, precisions) in wanted.items()
    ]
    for files in tflite.export(requests, all_or_none=True):
        assert files[0].quantize == "float32"
        assert files[0].samples_compared == 64 and files[0].max_difference <= files[0].limit
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (784,)}, ("input_shape", "(784,)", "(28, 28, 1)")),
        ({"input_shape": (4, 4, 4, 1)}, ("input_shape", "(4, 4, 4, 1)")),
        ({"input_shape": (28, None, 1)}, ("input_shape", "None")),
        ({"input_shape": (28, 0, 1)}, ("input_shape", "0")),
        ({"encoding_dim": 784}, ("encoding_dim", "got 784", "28 x 28 x 1 = 784", "1 to 783")),
        ({"encoding_dim": 0}, ("encoding_dim", "got 0")),
        ({"encoding_dim": 8.0}, ("encoding_dim", "8.0")),
        (
            {"encoding_dim": None, "filters": (16, 32)},
            ("filters", "7 x 7 x 32 = 1568", "28 x 28 x 1 = 784", "at most 15 filters", "encoding_dim"),
        ),
        (
            {"encoding_dim": None, "input_shape": (2, 1), "filters": (2,)},
            ("1 x 2 = 2", "2 x 1 = 2", "at most 1 filters"),
        ),
        ({"encoding_dim": None, "input_shape": (1, 2, 1), "filters": (2,)}, ("1 x 1 x 2 = 2", "1 x 2 x 1 = 2")),
        ({"filters": (8,) * 6}, ("filters", "6 stages", "28 x 28", "before stage 6", "at most 5")),
        ({"filters": ()}, ("filters", "()", "1 or more")),
        ({"filters": 16}, ("filters", "16", "(16, 32)")),
        ({"filters": (16, 0)}, ("filters", "0")),
        ({"filters": (16, 2.5)}, ("filters", "2.5")),
        ({"kernel_size": 0}, ("kernel_size", "got 0")),
        ({"kernel_size": (3, 3)}, ("kernel_size", "(3, 3)")),
        ({"downsampling": "stride"}, ("downsampling", "'stride'", "strided, pooled")),
        ({"upsampling": "pooled"}, ("upsampling", "'pooled'", "transposed, resized")),
        ({"activation": "rellu"}, ("activation", "rellu")),
        ({"output_activation": None}, ("output_activation", "None")),
        ({"name": "a/b"}, ("name", "a/b")),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(InputError) as error:
        convolutional(**{"input_shape": (28, 28, 1), "encoding_dim": 32, **arguments})
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def test_as_many_stages_as_there_are_halvings_are_allowed():
    model = convolutional((28, 28, 1), 4, filters=(4, 4, 4, 4, 4))
    assert model.encoder.get_layer("filters_5").output.shape == (None, 1, 1, 4)
    assert model.output_shape == (None, 28, 28, 1)


@pytest.mark.parametrize(
    ("shape", "code"), [((28, 28, 1), (7, 7, 8)), ((140, 1), (35, 2)), ((32, 32, 3), (8, 8, 8)), ((5, 1), (2, 1))]
)
def test_without_filters_and_width_the_code_has_at_most_half_of_the_values(shape, code):
    assert convolutional(shape).encoder.output_shape[1:] == code


def test_without_filters_a_width_gets_sixteen_and_thirty_two():
    encoder = convolutional((28, 28, 1), 10).encoder
    assert [encoder.get_layer(f"filters_{number}").filters for number in (1, 2)] == [16, 32]
