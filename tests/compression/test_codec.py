"""A model goes into one small file and comes back; damaged and hostile files do not come in."""

import json

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.compression import container, graphs
from keras_aeprune.compression.codec import pack, unpack


def pruned(*layers, shape=(60,), zeros=0.8, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(shape), *layers])
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(size=variable.shape).astype(np.float32)
        variable.assign(np.where(rng.random(value.shape) < zeros, 0, value) if value.ndim > 1 else abs(value))
    return model


@pytest.fixture(scope="module")
def model():
    return pruned(keras.layers.Dense(40, "relu", name="hidden"), keras.layers.Dense(60, name="out"))


def same(left, right):
    return [a.tobytes() for a in left.get_weights()] == [b.tobytes() for b in right.get_weights()]


def test_without_bits_every_weight_and_output_comes_back(model, tmp_path):
    packed = pack(model, tmp_path / "m.kap", bits=None)
    found = unpack(tmp_path / "m.kap")
    assert same(found, model) and same(packed.model, model) and not found.compiled
    x = np.random.default_rng(0).random((5, 60)).astype(np.float32)
    assert np.array_equal(found(x), model(x))


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_kernels_share_at_most_two_to_the_bits_values_and_zeros_stay(model, tmp_path, bits):
    packed = pack(model, tmp_path / "m.kap", bits=bits)
    found = unpack(tmp_path / "m.kap")
    assert same(found, packed.model)
    for value, wanted in zip(found.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(value == 0, wanted == 0)
        if value.ndim == 1:
            assert np.array_equal(value, wanted)
        else:
            assert len(np.unique(value[value != 0])) <= 2**bits
            # no cluster is wider than the first, even grid
            span = wanted.max() - wanted.min()
            assert np.abs(value - wanted).max() <= span if bits == 1 else 1.5 * span / 2**bits


def test_a_kernel_of_few_values_is_kept_to_the_bit(tmp_path):
    few = pruned(keras.layers.Dense(50))
    kernel = few.weights[0]
    kernel.assign(np.random.default_rng(0).choice(np.float32([0, 0.1, -0.3, 0.7]), kernel.shape))
    assert same(pack(few, tmp_path / "m.kap", bits=2).model, few)
    assert not same(pack(few, tmp_path / "m.kap", bits=1).model, few)


def test_bits_by_layer_and_of_biases(model, tmp_path):
    packed = pack(model, tmp_path / "m.kap", bits={"hidden": 2, "out": None}, bias_bits=1)
    found = dict(zip((row.path for row in packed.rows), packed.model.get_weights(), strict=True))
    wanted = dict(zip(found, model.get_weights(), strict=True))
    assert list(found) == ["hidden/kernel", "hidden/bias", "out/kernel", "out/bias"]
    assert len(np.unique(found["hidden/kernel"])) == 5 and len(np.unique(found["hidden/bias"])) == 2
    assert np.array_equal(found["out/kernel"], wanted["out/kernel"])
    halves = pack(model, tmp_path / "m.kap", bias_bits=16).model.get_weights()[1]
    assert np.array_equal(halves, wanted["hidden/bias"].astype(np.float16))


def test_the_numbers_of_a_kernel_worked_by_hand(tmp_path):
    model = pruned(keras.layers.Dense(40, use_bias=False, name="hidden"))
    kernel = np.zeros((60, 40), np.float32)
    kernel[::3, ::4] = 2.0  # 20 rows, 10 columns
    kernel[0, 0] = -1.0
    model.set_weights([kernel])
    packed = pack(model, tmp_path / "m.kap")
    (row,) = packed.rows
    assert (row.weights, row.nonzeros, row.bits, packed.dense_bytes) == (2400, 200, 1.0, 9600)
    # gaps are 0, 3, 83 or so: 8 bits each without a filler, 200 bytes; the weights 800
    assert row.sparse_bytes == 1000 and row.codebook_bytes == 1 + 2 * 2
    assert packed.ratios == {"nnz": 12.0, "stored_sparse": 9.6, "stored_coded": 9600 / packed.bytes}
    assert packed.bytes == (tmp_path / "m.kap").stat().st_size
    assert packed.bytes == packed.graph_bytes + row.bytes + 13  # magic, version, kind, checksum
    assert json.loads(json.dumps(packed.to_dict()))["rows"][0]["shape"] == [60, 40]
    assert "hidden/kernel 60x40 2,400 200 1.0 bitmask by row and column" in " ".join(str(packed).split())


def test_a_pruned_300_100_network_comes_close_to_its_entropy(tmp_path):
    dense = keras.layers.Dense
    model = pruned(dense(300, "relu"), dense(100, "relu"), dense(10), shape=(784,), zeros=0.95)
    packed = pack(model, tmp_path / "m.kap")
    kernel = packed.rows[0]
    share = kernel.nonzeros / kernel.weights
    positions = -kernel.weights * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    value = packed.model.get_weights()[0]
    _, counts = np.unique(value[value != 0], return_counts=True)
    values = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert kernel.bound == pytest.approx(positions + values, rel=0.001)
    assert kernel.bytes - kernel.codebook_bytes <= 1.01 * kernel.bound
    assert packed.overhead < 400 and packed.graph_bytes < 100 and packed.ratios["stored_coded"] > 55


def big_graph():
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.1, seed=1)(keras.layers.Add()([x, x * 2.0]))
    encoder = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)), name="encoder")
    code = keras.Input((5,))
    x = keras.layers.Reshape((8, 8, 4))(keras.layers.Dense(256)(code))
    x = keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same")(x)
    decoder = keras.Model(code, x, name="decoder")
    return keras.Model(inputs, decoder(encoder(inputs)))


def recurrent():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.Normalization(mean=1.0, variance=4.0),
            layers.Bidirectional(layers.LSTM(4)),
        ]
    )


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 8)))
    return keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(4, dtype="mixed_bfloat16")])


@pytest.mark.parametrize("build", [big_graph, recurrent, adapted])
def test_graphs_come_back_with_their_outputs(build, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    pack(model, tmp_path / "m.kap", bits=None)
    found = unpack(tmp_path / "m.kap", tmp_path / "m.keras")
    x = np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)
    assert same(found, model) and np.array_equal(found(x), model(x))
    assert same(keras.saving.load_model(tmp_path / "m.keras"), model)
    assert pack(tmp_path / "m.keras", tmp_path / "n.kap").kind == "keras"


def test_an_autoencoder_keeps_its_halves(tmp_path):
    from keras_aeprune import models

    autoencoder = models.dense((20,), 3, hidden_units=(8,))
    pack(autoencoder, tmp_path / "m.kap")
    assert unpack(tmp_path / "m.kap").encoder.output_shape == (None, 3)


@pytest.fixture(scope="module")
def tflite(model, tmp_path_factory):
    import tensorflow as tf

    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((1, 60)))
    path = tmp_path_factory.mktemp("tflite") / "m.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    return path


def test_a_tflite_file_comes_back_byte_for_byte(tflite, tmp_path):
    packed = pack(tflite, tmp_path / "m.kap", bits=None)
    assert unpack(tmp_path / "m.kap", tmp_path / "o.tflite").read_bytes() == tflite.read_bytes() == packed.model
    assert packed.bytes < tflite.stat().st_size / 2
    with pytest.raises(InputError, match="out: got None"):
        unpack(tmp_path / "m.kap")


def test_a_tflite_file_with_shared_values_and_its_difference_to_the_exact_one(tflite, tmp_path):
    exact, shared = pack(tflite, tmp_path / "e.kap", bits=None), pack(tflite, tmp_path / "s.kap", bits=3)
    out = unpack(tmp_path / "s.kap", tmp_path / "o.tflite")
    assert out.read_bytes() == shared.model != exact.model and shared.bytes < exact.bytes / 2
    kernels = [t.value for t in graphs.tflite_tensors(shared.model) if t.role == "kernel"]
    assert kernels and all(len(np.unique(kernel[kernel != 0])) <= 8 for kernel in kernels)
    delta = pack(out, tmp_path / "d.kap", bits=None, base=tflite)
    assert delta.kind == "tflite delta" and delta.model == out.read_bytes()
    found = unpack(tmp_path / "d.kap", tmp_path / "p.tflite", base=tflite)
    assert found.read_bytes() == out.read_bytes()


def test_real_int8_files_come_back_smaller_than_gzip_makes_them(real_data, tmp_path):
    import gzip

    files = sorted((real_data / "models").glob("*int8.tflite"))
    assert files
    for file in files[:2]:
        packed = pack(file, tmp_path / "m.kap")
        data = unpack(tmp_path / "m.kap", tmp_path / "o.tflite").read_bytes()
        assert data == file.read_bytes() and packed.bytes < len(gzip.compress(data, 9))


def test_every_cut_and_hundreds_of_changed_bytes_are_refused(tmp_path):
    path = tmp_path / "m.kap"
    pack(pruned(keras.layers.Dense(3), shape=(4,), zeros=0.5), path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    bad = [data[:size] for size in range(len(data))]
    for _ in range(400):
        place = int(rng.integers(len(data)))
        bad.append(data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :])
    for damaged in [*bad, data + b"\0"]:
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            unpack(path)


def resealed(kind, body):
    return container.seal(kind, bytes(body))


def test_changed_bytes_under_a_right_checksum_are_refused_or_make_a_model(tmp_path):
    path = tmp_path / "m.kap"
    small = pruned(keras.layers.Dense(30), keras.layers.Dense(4), shape=(20,), zeros=0.7)
    pack(small, path, bits=3)
    body = path.read_bytes()[5:-8]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(80):
        changed = bytearray(body)
        changed[rng.integers(len(body))] = rng.integers(256)
        path.write_bytes(resealed("keras", changed))
        try:
            assert isinstance(unpack(path, max_bytes=10**6), keras.Model)
        except InputError:
            refused += 1
    assert refused > 40


def test_changed_bytes_of_a_tflite_file_under_a_right_checksum(tflite, tmp_path):
    path = tmp_path / "m.kap"
    pack(tflite, path, bits=3)
    body = path.read_bytes()[5:-8]
    rng = np.random.default_rng(1)
    for _ in range(200):
        changed = bytearray(body)
        changed[rng.integers(len(body))] = rng.integers(256)
        path.write_bytes(resealed("tflite", changed))
        try:
            unpack(path, tmp_path / "o.tflite", max_bytes=10**6)
        except InputError:
            continue


def with_graph(config, path):
    body = bytearray()
    container.put_section(body, json.dumps(config).encode(), graphs.DICTIONARY)
    path.write_bytes(resealed("keras", body))
    return path


def config_of(*layers, shape=(4,)):
    return json.loads(graphs.keras_graph(keras.Sequential([keras.Input(shape), *layers])))


def test_a_graph_that_declares_too_much_is_refused_before_memory_is_taken(tmp_path):
    config = config_of(keras.layers.Dense(7))
    config["config"]["layers"][1]["config"]["units"] = 10**13
    with pytest.raises(InputError, match="weights take 200000000000000 bytes, allowed: at most max_bytes"):
        unpack(with_graph(config, tmp_path / "m.kap"))
    keras.layers.Dense(3).build((None, 2))  # nothing of it is left behind
    with keras.StatelessScope():
        pass


def lambdas(config):
    config["config"]["layers"][1] = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "x"}}


def foreign(config):
    config["config"]["layers"][1]["module"] = "subprocess"


def hidden_function(config):
    layer = config["config"]["layers"][1]["config"]
    layer["activation"] = {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "system",
    }


def saved_model(config):
    config["config"]["layers"][1] = {
        "module": "keras.layers",
        "class_name": "TFSMLayer",
        "config": {"filepath": "x"},
    }


def words_in_a_file(config):
    config["config"]["layers"][1]["config"]["vocabulary"] = "words.txt"


def no_model(config):
    config.update(config["config"]["layers"][1])


@pytest.mark.parametrize("change", [lambdas, foreign, hidden_function, saved_model, words_in_a_file, no_model])
def test_graphs_with_code_files_or_classes_of_others_are_refused(change, tmp_path):
    config = config_of(keras.layers.Dense(7))
    change(config)
    with pytest.raises(InputError, match="allowed"):
        unpack(with_graph(config, tmp_path / "m.kap"))


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"{}", b"\xff\xfe", b"[" * 10**5, b'{"a":' * 10**4])
def test_graphs_that_are_none_are_refused(text, tmp_path):
    body = bytearray()
    container.put_section(body, text)
    (tmp_path / "m.kap").write_bytes(resealed("keras", body))
    with pytest.raises(InputError):
        unpack(tmp_path / "m.kap")


def test_a_layout_that_declares_too_much_is_refused(tmp_path):
    body, layout = bytearray(), bytearray()
    for number in (1, 0, 4, 2**40, 2**20):
        container.put_varint(layout, number)
    container.put_section(body, b"skeleton")
    container.put_section(body, bytes(layout))
    (tmp_path / "m.kap").write_bytes(resealed("tflite", body))
    with pytest.raises(InputError, match="allowed: max_bytes"):
        unpack(tmp_path / "m.kap", tmp_path / "o.tflite")
    assert not (tmp_path / "o.tflite").exists()


@keras.saving.register_keras_serializable("packed_tests")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return x * self.scale


def test_registered_layers_pack_and_unknown_ones_are_refused(tmp_path):
    model = pruned(Scale())
    pack(model, tmp_path / "m.kap")
    assert same(unpack(tmp_path / "m.kap"), model)
    del keras.saving.get_custom_objects()["packed_tests>Scale"]
    try:
        with pytest.raises(InputError, match="registered with"):
            unpack(tmp_path / "m.kap")
    finally:
        keras.saving.register_keras_serializable("packed_tests")(Scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits: got 0"),
        ({"bits": 9}, "bits: got 9"),
        ({"bits": {"hiden": 3}}, "'hiden', allowed: a pattern that fits one of hidden/kernel, out/kernel"),
        ({"bias_bits": 12}, "bias_bits: got 12"),
        ({"coder": "zip"}, "coder: got 'zip', allowed: smallest, range, huffman"),
        ({"base": "nowhere.tflite"}, "base: nothing is at"),
    ],
)
def test_arguments_out_of_range_are_refused(model, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        pack(model, tmp_path / "m.kap", **arguments)
    assert not (tmp_path / "m.kap").exists()


def test_models_that_cannot_be_packed_are_refused(tmp_path):
    lambdas = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(abs)])
    with pytest.raises(InputError, match="Lambda"):
        pack(lambdas, tmp_path / "m.kap")
    diverged = pruned(keras.layers.Dense(40, name="hidden"))
    weights = diverged.get_weights()
    weights[0][5] = np.nan
    diverged.set_weights(weights)
    with pytest.raises(InputError, match="hidden/kernel: got NaN"):
        pack(diverged, tmp_path / "m.kap")
    assert same(pack(diverged, tmp_path / "m.kap", bits=None).model, diverged)
    (tmp_path / "m.tflite").write_bytes(b"no model at all")
    with pytest.raises(InputError, match="cannot be read as .tflite"):
        pack(tmp_path / "m.tflite", tmp_path / "n.kap")
    with pytest.raises(InputError, match="nothing is at"):
        unpack(tmp_path / "gone.kap")


def test_the_dictionary_is_part_of_the_format():
    import zlib

    assert (len(graphs.DICTIONARY), zlib.crc32(graphs.DICTIONARY)) == (10383, 2922179205)
