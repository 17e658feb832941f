"""Models that others trained, one as small devices run it: cut, compared with the masked one, run as a file."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import export, models
from keras_aeprune.shrinking.cutting import cut, masked
from keras_aeprune.shrinking.tracing import trace

# {file: parameters}
FILES = {
    "fer2013_mini_xception.hdf5": 58_423,
    "kdef_tiny_xception.hdf5": 18_314,
    "mlperf_tiny_resnet8.h5": 78_666,
    "mlperf_tiny_vww96.h5": 221_794,
    "gesture_mlp.keras": 17_132,
    "mlperf_tiny_ad01.h5": 269_992,
    "mnist_conv_ae.h5": 28_353,
    "mnist_dense_ae_keras3.h5": 222_384,
    "mnist_dense_deep_ae.h5": 222_384,
    "mnist_sae_classifier.h5": 111_146,
    "spectrum_conv_ae.h5": 2_469,
    "st_har_conv1d.h5": 12_075,
}
EXPORTED = ("mlperf_tiny_resnet8.h5", "mlperf_tiny_ad01.h5", "kdef_tiny_xception.hdf5", "mnist_conv_ae.h5")


def ds_cnn():
    """A keyword spotter of depthwise-separable convolutions: 49 x 10 features to 12 words."""
    layers = [kl.Conv2D(64, (10, 4), strides=2, padding="same"), kl.BatchNormalization(), kl.ReLU()]
    layers.append(kl.Dropout(0.2))
    for _ in range(4):
        layers += [kl.DepthwiseConv2D(3, padding="same"), kl.BatchNormalization(), kl.ReLU()]
        layers += [kl.Conv2D(64, 1), kl.BatchNormalization(), kl.ReLU()]
    layers += [kl.Dropout(0.4), kl.AveragePooling2D((25, 5)), kl.Flatten(), kl.Dense(12, "softmax")]
    model = keras.Sequential([keras.Input((49, 10, 1)), *layers])
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "variance" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "moving" in variable.path or "beta" in variable.path or "bias" in variable.path:
            variable.assign(rng.normal(size=variable.shape) * 0.1)
    return model


def halved(model, fraction, seed=0):
    """The cut and the masked model without that fraction of every group, and the groups that could go."""
    rng, traced = np.random.default_rng(seed), trace(model)
    free = [group for group in traced.groups if not group.reason]
    counts = [min(int(group.size * fraction), group.size - 1) for group in free]
    removed = [rng.permutation(group.classes)[:count] for group, count in zip(free, counts, strict=True)]
    kept = traced.kept(np.concatenate(removed))
    return cut(traced, kept), masked(traced, kept), free


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def samples(model, name):
    x = np.random.default_rng(0).random((4, *model.input_shape[1:])).astype("float32")
    scale = {"mlperf_tiny_resnet8.h5": 255.0, "st_har_conv1d.h5": 0.1}  # the latter answers 0 and 1 on larger ones
    return x * np.float32(scale.get(name, 1.0))


@pytest.mark.parametrize("name", FILES)
def test_a_model_of_somebody_else_is_cut_as_if_masked(real_data, name):
    model = models.load(real_data / "models" / name)
    assert model.count_params() == FILES[name]
    x = samples(model, name)[: 1 if "spectrum" in name else 4]
    given = np.asarray(model(x, training=False))
    sizes = []
    for fraction in (0.25, 0.5):
        small, mask, free = halved(model, fraction)
        assert free
        expected = np.asarray(mask(x, training=False))
        assert relative(np.asarray(small(x, training=False)), expected) <= 1e-5
        assert relative(expected, given) > 1e-6  # what was cut out did count
        sizes.append(small.count_params())
    assert sizes[1] < sizes[0] < model.count_params()
    assert sizes[1] < 0.75 * model.count_params()
    reasons = [group.reason for group in trace(model).groups if group.reason]
    known = ("output of the model", "mixes its units", "only channel")
    assert all(any(words in reason for words in known) for reason in reasons)


@pytest.mark.parametrize("name", EXPORTED)
def test_the_file_of_a_cut_model_computes_what_the_masked_one_does(real_data, tmp_path, name):
    model = models.load(real_data / "models" / name)
    small, mask, _ = halved(model, 0.5)
    compare_file(small, mask, samples(model, name), tmp_path)


def test_a_keyword_spotter_is_cut_and_its_file_computes_the_same(tmp_path):
    model = ds_cnn()
    assert model.count_params() == 24_908
    for fraction in (0.25, 0.5):
        small, mask, free = halved(model, fraction)
        assert [group.size for group in free] == [64] * 5
        x = samples(model, "")
        assert relative(np.asarray(small(x)), np.asarray(mask(x))) <= 1e-5
    assert small.count_params() < 0.4 * model.count_params()
    compare_file(small, mask, x, tmp_path)


def compare_file(small, mask, x, folder):
    file = export.tflite(small, folder / "small.tflite", data=x)
    found = export.TFLiteModel(file.path).predict(x)
    assert relative(found, np.asarray(mask(x, training=False))) <= file.limit
