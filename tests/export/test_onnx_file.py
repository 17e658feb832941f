"""ONNX files compute what the models compute, under onnxruntime, and a bad one never gets its name."""

import importlib.util
from importlib import import_module

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.export.check import ExportMismatch
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.onnx_file import OnnxFile, OnnxModel, onnx
from keras_aeprune.models.anomaly import AnomalyDetector
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.dense import dense
from keras_aeprune.models.files import load
from keras_aeprune.models.inference import for_inference
from keras_aeprune.models.recurrent import recurrent
from keras_aeprune.models.variational import variational

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'keras-aeprune[onnx]'")
proto = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'keras-aeprune[onnx]'")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install 'keras-aeprune[onnx]'")
module = import_module("keras_aeprune.export.onnx_file")
worker = import_module("keras_aeprune.export._onnx_worker")


@pytest.fixture
def here(monkeypatch):
    """Let the converter run in this process, which saves the seconds that TensorFlow takes to start.

    In its own process it runs in the example of `onnx`.
    """

    def convert(folder, opset):
        (folder / "model.onnx").write_bytes(worker.convert(str(folder / "saved_model"), opset))
        return folder / "model.onnx"

    monkeypatch.setattr(module, "convert", convert)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def sequential(*layers, shape=(4,)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape, name="x"), *layers], name="model")


def by_hand(path, **inputs):
    """All outputs by name, straight from onnxruntime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


BUILT = {
    "dense": lambda: dense((8, 8), 4, batch_normalization=True),
    "strided, transposed": lambda: convolutional((12, 12, 1), 4, filters=(4, 6)),
    "pooled, resized": lambda: convolutional(
        (12, 12, 1), 4, filters=(4, 6), downsampling="pooled", upsampling="resized"
    ),
    "lstm": lambda: recurrent((6, 3), 4, units=(8,)),
    "gru": lambda: recurrent((4, 3), 2, units=(5,), cell="gru"),
    "variational": lambda: for_inference(variational((16,), 3)),
    "gelu": lambda: sequential(kl.Dense(8, "gelu"), kl.Dense(8, "silu"), kl.LayerNormalization(), shape=(7,)),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", BUILT)
def test_the_file_of_every_builder_gives_the_model_s_outputs_for_any_number_of_samples(kind, path):
    keras.utils.set_random_seed(1)
    model = BUILT[kind]()
    before = model.get_weights()
    file = onnx(model, path)
    assert isinstance(file, OnnxFile)
    for count in (1, 9):
        x = uniform(count, *model.input_shape[1:], seed=5)
        (name,) = OnnxModel(path).input_shapes
        expected = np.asarray(model(x, training=False))
        np.testing.assert_allclose(
            by_hand(path, **{name: x})["output_0"], expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.usefixtures("here")
def test_the_file_has_the_numbers_of_the_layer_and_takes_the_place_of_the_old_one(path):
    """[1, 2] times [[1, 0], [2, -3]] plus [0.5, 1], through relu: [5.5, 0]."""
    model = sequential(kl.Dense(2, "relu"), shape=(2,))
    model.set_weights([np.array([[1, 0], [2, -3]]), np.array([0.5, 1])])
    path.write_bytes(b"old")
    file = onnx(model, path, data=np.array([[1, 2]]), opset=15)
    assert by_hand(path, x=np.array([[1, 2]], "float32"))["output_0"].tolist() == [[5.5, 0]]
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]
    assert (file.bytes, file.samples_compared, file.opset, file.batch) == (path.stat().st_size, 1, 15, None)
    assert file.to_dict()["path"] == str(path)
    written = proto.load(path)
    assert [entry.version for entry in written.opset_import if not entry.domain] == [15]


@pytest.mark.usefixtures("here")
def test_inputs_and_outputs_keep_their_names(path):
    zeta, alpha = keras.Input((3,), name="zeta"), keras.Input((3,), name="alpha")
    outputs = {"difference": kl.Subtract()([zeta, alpha]), "twice": kl.Rescaling(2.0)(alpha)}
    onnx(keras.Model([zeta, alpha], outputs), path)
    x = {"alpha": uniform(5, 3), "zeta": uniform(5, 3, seed=1)}
    got = OnnxModel(path).predict(x)
    np.testing.assert_allclose(got["difference"], x["zeta"] - x["alpha"], atol=1e-6)
    np.testing.assert_allclose(got["twice"], 2 * x["alpha"], atol=1e-6)
    with pytest.raises(InputError, match=r"\['zeta'\].*alpha \(n, 3\), zeta \(n, 3\)"):
        OnnxModel(path).predict({"zeta": x["zeta"]})


@pytest.mark.usefixtures("here")
def test_a_fixed_batch_is_filled_up_and_the_surplus_dropped(path):
    model = sequential(kl.Dense(3))
    assert onnx(model, path, batch=4).batch == 4
    runner, x = OnnxModel(path), uniform(6, 4)
    assert runner.input_shapes == {"x": (4, 4)}
    np.testing.assert_allclose(runner.predict(x), model(x), atol=1e-6)
    with pytest.raises(InputError, match="batch: got 6, allowed: 4, which model.onnx was made for"):
        runner.predict(x, batch=6)


@pytest.mark.usefixtures("here")
def test_a_model_built_for_one_sample_gives_a_file_for_one(path):
    x = keras.Input(batch_shape=(1, 3))
    assert onnx(keras.Model(x, kl.Dense(2)(x)), path).batch == 1


@pytest.mark.usefixtures("here")
def test_sizes_that_the_model_leaves_open_stay_open(path):
    model = sequential(kl.Conv1D(2, 3, padding="same"), shape=(None, 3))
    onnx(model, path, data=uniform(2, 7, 3))
    x = uniform(3, 11, 3)
    assert OnnxModel(path).input_shapes == {"x": (None, None, 3)}
    np.testing.assert_allclose(OnnxModel(path).predict(x), model(x), atol=1e-6)


@pytest.fixture
def detector():
    keras.utils.set_random_seed(0)
    return AnomalyDetector(dense((12,), 3)).fit(uniform(200, 12), quantile=0.9)


@pytest.mark.usefixtures("here")
def test_the_file_of_a_detector_gives_scores_and_flags(detector, path):
    x = uniform(100, 12, seed=3)
    onnx(detector, path, data=x)
    got = OnnxModel(path).predict(x)
    np.testing.assert_allclose(got["score"], detector.scores(x), rtol=1e-5)
    sure = np.abs(detector.scores(x) - detector.threshold) > 1e-5
    np.testing.assert_array_equal(got["anomaly"][sure], detector.predict(x)[sure])
    assert 0 < got["anomaly"].sum() < 50


def test_wrong_flags_and_wrong_outputs_are_refused_and_the_old_file_stays(detector, path, monkeypatch):
    path.write_bytes(b"old")
    other = path.parent / "other"
    other.mkdir()

    def convert_another(model):
        def convert(folder, opset):
            module._trace(model, module.inputs_of(model), None, other / "saved")
            (folder / "model.onnx").write_bytes(worker.convert(str(other / "saved"), opset))
            return folder / "model.onnx"

        monkeypatch.setattr(module, "convert", convert)

    honest = detector.as_model()
    outputs = honest(honest.input)
    wrong = keras.Model(honest.input, {**outputs, "anomaly": 1.0 - outputs["anomaly"]})
    convert_another(wrong)
    with pytest.raises(ExportMismatch, match="judges 6[0-9] of 64 samples otherwise"):
        onnx(detector, path)
    convert_another(sequential(kl.Rescaling(0.5)))
    with pytest.raises(ExportMismatch, match=r"up to 0.5 of the largest output \(limit 0.0002\) and by"):
        onnx(sequential(kl.Activation("linear")), path)
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.onnx", "other"]


FAKE = """
import json, os, signal, sys
job = json.load(open(sys.argv[1]))
if job["opset"] == 13:
    print("about to fall", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if job["opset"] == 14:
    sys.exit("no more")
open(job["output"] + (".error" if job["opset"] == 15 else ""), "w").write("not\\nthis one")
"""


@pytest.mark.parametrize(
    ("opset", "words"),
    [
        (13, "crashed with signal 11 before it wrote a file: about to fall"),
        (14, "exit status 1 before it wrote a file: no more"),
        (15, "tf2onnx refused the model: not this one"),
        (16, "the converted file does not run"),
    ],
)
def test_whatever_happens_to_the_converter_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, opset, words):
    (tmp_path / "worker.py").write_text(FAKE)
    monkeypatch.setattr(module, "WORKER", tmp_path / "worker.py")
    with pytest.raises(ConversionError, match=words) as error:
        onnx(sequential(kl.Dense(2)), tmp_path / "out" / "model.onnx", opset=opset)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").iterdir())


class Lgamma(kl.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.math.lgamma(x + 1.0)


@pytest.mark.usefixtures("here")
def test_operations_that_onnx_does_not_have_are_named_and_not_written(path):
    """tf2onnx itself writes such a file and only logs it."""
    with pytest.raises(ValueError, match=r"no counterpart in ONNX: Lgamma \(in .*odd.*/Lgamma"):
        onnx(sequential(kl.Dense(2), Lgamma(name="odd")), path)
    assert not path.exists()


def refused(call, *words):
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def test_random_numbers_and_state_are_refused_with_the_layer_and_the_cure(path):
    class Noise(kl.Layer):
        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=1)

    inner = sequential(kl.Dense(4), Noise(name="sampling"))
    refused(lambda: onnx(sequential(inner), path), "model/sampling", "random numbers", "for_inference")
    x = keras.Input(batch_shape=(1, 5, 2))
    stateful = keras.Model(x, kl.LSTM(3, stateful=True, name="memory")(x))
    refused(lambda: onnx(stateful, path), "'memory'", "stateful=False")


def test_arguments_that_cannot_be_used(tmp_path, path, monkeypatch):
    model = sequential(kl.Dense(2))
    refused(lambda: onnx(model, tmp_path / "model.tflite"), "ends in .onnx")
    (tmp_path / "folder.onnx").mkdir()
    refused(lambda: onnx(model, tmp_path / "folder.onnx"), "a folder of that name")
    refused(lambda: onnx(model, path, opset=12), "opset: got 12", ">= 13 and <= 18")
    refused(lambda: onnx(model, path, opset=19), "opset: got 19")
    refused(lambda: onnx(model, path, batch=0), "batch: got 0")
    refused(lambda: onnx(model, path, data=np.ones((3, 5))), "(3, 5)", "(n, 4)")
    refused(lambda: onnx(sequential(kl.Dense(2, dtype="mixed_float16")), path), "float16", "float32")
    refused(lambda: onnx("model.keras", path), "model.keras")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    refused(lambda: onnx(model, path), "without tf2onnx", "pip install 'keras-aeprune[onnx]'")
    assert not path.exists()


@pytest.mark.usefixtures("here")
def test_files_and_samples_that_cannot_be_run(tmp_path, path):
    refused(lambda: OnnxModel(tmp_path / "none.onnx"), "which is no file")
    (tmp_path / "bad.onnx").write_bytes(b"nothing" * 9)
    refused(lambda: OnnxModel(tmp_path / "bad.onnx"), "does not load")
    onnx(sequential(kl.Dense(2)), path)
    refused(lambda: OnnxModel(path).predict(np.ones((3, 5))), "(3, 5)", "(n, 4)")
    refused(lambda: OnnxModel(path).predict(np.ones((0, 4))), "n >= 1")
    refused(lambda: OnnxModel(path).predict(None), "x (n, 4)")
    refused(
        lambda: onnx(sequential(kl.Rescaling(float("nan"))), path), "values that are NaN or infinite in output_0"
    )


REAL = (
    *("gesture_mlp.keras", "meter_digits_cnn_v6.h5", "mnist_dense_deep_ae.h5"),
    *("mnist_conv_ae.h5", "mnist_dense_ae_keras3.h5", "st_har_conv1d.h5"),
)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", REAL)
def test_published_models_give_their_published_outputs(real_data, name, path):
    model = load(real_data / "models" / name)
    onnx(model, path)
    scale = 255 if name == "meter_digits_cnn_v6.h5" else 1
    x = np.random.default_rng(0).random((4, *model.input_shape[1:])).astype("float32") * np.float32(scale)
    with np.load(real_data / "models" / "golden_outputs.npz", allow_pickle=False) as golden:
        expected = golden[name]
    np.testing.assert_allclose(
        OnnxModel(path).predict(x), expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max())
    )


@pytest.mark.usefixtures("here")
def test_real_spectra_in_db_stay_within_half_of_the_limits(real_data, path):
    with np.load(real_data / "data" / "toycar_logmel.npz", allow_pickle=False) as data:
        frames = data["x"]
    file = onnx(
        load(real_data / "models" / "mlperf_tiny_ad01.h5"),
        path,
        data=np.stack([frames[i : i + 5].ravel() for i in range(64)]),
    )
    assert file.max_difference < file.limit / 2
    assert file.rms_difference < file.rms_limit / 2
