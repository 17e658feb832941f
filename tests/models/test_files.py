"""Real files give their published outputs, and every broken file is refused in one line."""

import hashlib
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.models import dense, load

KERAS_FILES = (
    "fer2013_mini_xception.hdf5",
    "gesture_mlp.keras",
    "kdef_tiny_xception.hdf5",
    "meter_digits_cnn_v6.h5",
    "mlperf_tiny_ad01.h5",
    "mlperf_tiny_resnet8.h5",
    "mlperf_tiny_vww96.h5",
    "mnist_conv_ae.h5",
    "mnist_conv_ae_decoder.h5",
    "mnist_conv_ae_encoder.h5",
    "mnist_dense_ae_keras3.h5",
    "mnist_dense_deep_ae.h5",
    "mnist_sae_classifier.h5",
    "spectrum_conv_ae.h5",
    "st_har_conv1d.h5",
)
PIXELS = ("meter_digits_cnn_v6.h5", "mlperf_tiny_resnet8.h5")


def refused(path, *words):
    with pytest.raises(InputError) as error:
        load(path)
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def rewritten(path, target, **members):
    """A copy of a .keras archive in which some members have another content."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            copy.writestr(name, members.get(name.split(".")[0], content))
    return target


@pytest.fixture
def saved(tmp_path):
    dense((9,), 3).save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


@pytest.mark.parametrize("name", KERAS_FILES)
def test_real_files_give_their_published_outputs(real_data, name):
    file = real_data / "models" / name
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    model = load(file)
    assert isinstance(model, keras.Model)
    scale = 255 if name in PIXELS else 1
    x = np.random.default_rng(0).random((4, *model.input_shape[1:])).astype("float32") * np.float32(scale)
    y = np.concatenate([np.asarray(model(x[i : i + 1], training=False)) for i in range(4)])
    if name == "spectrum_conv_ae.h5":
        y = y[:, ::16, ::16]
    with np.load(real_data / "models" / "golden_outputs.npz", allow_pickle=False) as golden:
        expected = golden[name]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_every_real_keras_file_is_in_the_table(real_data):
    found = [p.name for p in (real_data / "models").iterdir() if p.suffix in (".keras", ".h5", ".hdf5")]
    assert sorted(found) == sorted(KERAS_FILES)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".hdf5", ".H5"])
def test_files_of_keras_3_come_back_equal(tmp_path, suffix):
    model = dense((4, 4), 3)
    plain = tmp_path / f"plain{suffix.lower()}"
    model.save(plain)
    plain = plain.rename(tmp_path / f"m{suffix}")
    x = np.random.default_rng(0).random((5, 4, 4), dtype="float32")
    np.testing.assert_allclose(load(str(plain))(x), model(x), atol=1e-6)


def test_compile_settings_come_back_from_keras_archives(tmp_path):
    model = dense((9,), 3)
    model.compile(keras.optimizers.Adam(0.0123), "mae")
    model.save(tmp_path / "m.keras")
    loaded = load(tmp_path / "m.keras")
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.0123)
    assert loaded.loss == "mae"


def test_the_content_decides_about_the_format(tmp_path):
    model = dense((9,), 3)
    model.save(tmp_path / "a.h5")
    model.save(tmp_path / "b.keras")
    (tmp_path / "a.h5").rename(tmp_path / "hdf5_inside.keras")
    (tmp_path / "b.keras").rename(tmp_path / "zip_inside.h5")
    x = np.ones((2, 9), "float32")
    for name in ("hdf5_inside.keras", "zip_inside.h5"):
        np.testing.assert_allclose(load(tmp_path / name)(x), model(x), atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_loaded_autoencoder_has_its_halves_as_attributes(tmp_path, suffix):
    x = np.random.default_rng(0).random((5, 9), dtype="float32")
    model = dense((9,), 3)
    model.save(tmp_path / f"m{suffix}")
    for _ in range(2):  # a loaded model is saved and loaded like a built one
        loaded = load(tmp_path / f"m{suffix}")
        assert loaded.encoder is loaded.get_layer("encoder")
        assert loaded.decoder is loaded.get_layer("decoder")
        assert len(loaded.weights) == len(model.weights)
        np.testing.assert_allclose(loaded.decoder(loaded.encoder(x)), model(x), atol=1e-6)
        loaded.save(tmp_path / f"m{suffix}")


def test_a_model_without_halves_gets_none(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    loaded = load(tmp_path / "m.keras")
    assert not hasattr(loaded, "encoder") and not hasattr(loaded, "decoder")


def test_missing_files_folders_and_other_types(tmp_path):
    refused(tmp_path / "m.keras", "nothing is at", ".h5")
    (tmp_path / "m.tflite").write_bytes(b"")
    refused(tmp_path / "m.tflite", "m.tflite", ".keras, .h5, .hdf5")
    refused(tmp_path, "is a folder")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    refused(tmp_path, "SavedModel", "from_tf_keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("part", [0, 0.3, 0.9])
def test_files_that_were_cut_off_are_refused(tmp_path, suffix, part):
    file = tmp_path / f"m{suffix}"
    dense((64,), 8).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    refused(file, file.name)


def test_a_changed_weight_inside_an_archive_is_refused(saved):
    content = saved.read_bytes()
    kernel = np.asarray(load(saved).get_layer("encoder").weights[0]).tobytes()
    assert content.count(kernel) == 1
    saved.write_bytes(content.replace(kernel, bytes(len(kernel))))
    refused(saved, "m.keras", "checksum")


@pytest.mark.parametrize("member", ["metadata", "config"])
@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_archives_with_broken_descriptions_are_refused(saved, tmp_path, member, text):
    refused(rewritten(saved, tmp_path / "broken.keras", **{member: text}), "broken.keras")


def test_a_zip_archive_that_is_no_model_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.keras")
    refused(tmp_path / "a.keras", "could not be read", "metadata.json")


def test_an_archive_of_tf_keras_says_how_to_convert_it(saved, tmp_path):
    old = rewritten(saved, tmp_path / "old.keras", metadata=json.dumps({"keras_version": "2.15.0"}))
    refused(old, "tf_keras", "2.15.0", "keras_aeprune.models.from_tf_keras", "save")
    with zipfile.ZipFile(saved) as archive:
        config = json.loads(archive.read("config.json"))
    config["module"] = "tf_keras.src.models.functional"
    foreign = rewritten(saved, tmp_path / "foreign.keras", metadata="{}", config=json.dumps(config))
    refused(foreign, "tf_keras", "from_tf_keras")


def test_weights_alone_are_refused(tmp_path):
    dense((9,), 3).save_weights(tmp_path / "m.weights.h5")
    refused(tmp_path / "m.weights.h5", "weights only", "load_weights")


def test_python_code_is_never_run(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2)])
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        refused(tmp_path / name, name, "Python code", "Lambda")


def test_unknown_layers_say_how_to_register_them(tmp_path):
    class Mine(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((3,)), Mine()]).save(tmp_path / "m.keras")
    refused(tmp_path / "m.keras", "Mine", "register_keras_serializable")


def test_an_old_file_with_a_layer_that_is_gone_names_file_and_layer(tmp_path):
    gone = {"class_name": "LocallyConnected2D", "config": {"name": "local"}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [gone]})
        file.attrs["keras_version"] = "2.4.0"
    refused(tmp_path / "m.h5", "m.h5", "2.4.0", "'local'", "LocallyConnected2D")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "s"}})
    refused(tmp_path / "m.h5", "could not be read")
