"""A classifier on an encoder: the encoder given is left alone, and each stage trains what it says."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import load as load_data
from keras_aeprune.models import dense, encoder_of
from keras_aeprune.models.composed import Autoencoder
from keras_aeprune.models.head import fine_tune, with_head

RNG = np.random.default_rng(0)
X = RNG.random((48, 6), dtype="float32")
Y = (X[:, 0] + X[:, 1] > 1).astype(int)


def normalized():
    """Its statistics are not those of a fresh model."""
    model = dense((6,), 3, hidden_units=(5,), batch_normalization=True)
    for v in model.weights:
        v.assign(np.random.default_rng(len(v.shape)).uniform(0.2, 1, size=v.shape))
    return model


def values(part):
    return [keras.ops.convert_to_numpy(v).copy() for v in part.weights]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_output_is_the_softmax_of_a_dense_layer_on_the_code():
    ae = dense((6,), 3, hidden_units=(5,))
    model = with_head(ae, 4)
    kernel, bias = values(model.get_layer("head"))
    logits = np.asarray(keras.ops.convert_to_numpy(ae.encoder(X))) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(X), expected, atol=1e-5)
    assert kernel.shape == (3, 4)


def test_an_encoder_alone_gives_the_same_as_its_autoencoder():
    ae = dense((6,), 3)
    for part in (ae, ae.encoder, Autoencoder(ae.encoder, ae.decoder)):
        model = with_head(part)
        np.testing.assert_allclose(model.get_layer("encoder")(X), ae.encoder(X), atol=1e-6)
        assert encoder_of(model) is model.get_layer("encoder")


@pytest.mark.parametrize("frozen", [True, False])
def test_the_given_encoder_is_left_alone_and_a_frozen_copy_too(frozen):
    ae = normalized()
    before = values(ae)
    model = with_head(ae, 2, frozen=frozen)
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(5 * X, Y, batch_size=24, verbose=0)
    assert same(before, values(ae))
    assert all(layer.trainable for layer in ae._flatten_layers())
    assert len(model.trainable_weights) == 2 + (0 if frozen else len(ae.encoder.trainable_weights))
    for old, new in zip(values(ae.encoder), values(model.get_layer("encoder")), strict=True):
        assert np.array_equal(old, new) == frozen  # weights and statistics


def test_feature_maps_are_flattened_and_hidden_layers_stand_before_the_head():
    encoder = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 2, strides=2)])
    model = with_head(encoder, 3, hidden_units=(7, 5), dropout=0.25)
    names = [layer.name for layer in model.layers]
    assert names == ["input", "encoder", "flatten", "hidden_1", "hidden_2", "dropout", "head"]
    assert model.get_layer("hidden_1").kernel.shape == (2 * 2 * 2, 7)
    assert model.get_layer("dropout").rate == 0.25


def test_only_the_code_goes_to_the_head():
    x = keras.Input((6,))
    feature = keras.layers.Dense(5)(x)
    code = keras.layers.Dense(2)(feature)
    for outputs in ([code, feature], {"feature": feature, "code": code}):
        model = with_head(keras.Model(x, outputs), 3)
        assert model.get_layer("head").kernel.shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": 1}, "classes: got 1"),
        ({"classes": 2.5}, "classes"),
        ({"hidden_units": (0,)}, "hidden_units"),
        ({"dropout": 1.0}, "dropout"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        with_head(dense((6,), 3), **arguments)


def test_encoders_that_cannot_carry_a_head_are_refused():
    with pytest.raises(InputError, match="'a.keras'"):
        with_head("a.keras")
    with pytest.raises(InputError, match="not built"):
        with_head(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(InputError, match="known sizes"):
        with_head(keras.Sequential([keras.Input((None, 3)), keras.layers.Conv1D(2, 3)]))
    a, b = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(InputError, match="several inputs"):
        with_head(keras.Model([a, b], keras.layers.Add()([a, b])))


def test_the_first_stage_trains_the_head_and_the_second_everything():
    model = with_head(normalized(), 2)
    before = values(model)
    frozen = fine_tune(model, X, Y, epochs=(1, 0))
    assert [stage.name for stage in frozen.stages] == ["start", "frozen encoder"]
    assert same(values(frozen.model.get_layer("encoder")), values(model.get_layer("encoder")))
    assert not same(values(frozen.model.get_layer("head")), values(model.get_layer("head")))
    tuned, again = (fine_tune(model, X, Y, epochs=(0, 1), seed=3) for _ in range(2))
    assert [stage.name for stage in tuned.stages] == ["start", "fine-tuned"]
    for layer, old in zip(tuned.model.get_layer("encoder").layers, model.get_layer("encoder").layers, strict=True):
        if old.weights:  # normalization keeps its statistics and its scale
            assert same(values(layer), values(old)) == isinstance(old, keras.layers.BatchNormalization)
    assert same(before, values(model))
    assert same(values(tuned.model), values(again.model))  # the same seed
    assert frozen.stages[0].score is None


def test_validation_keeps_the_best_stage_and_says_so():
    model = with_head(dense((6,), 3), 2)
    settings = {"epochs": (10, 2), "learning_rate": (3e-2, 5.0)}  # the second rate ruins it
    result = fine_tune(model, X, Y, test=(X, Y), validation=(X, Y), **settings)
    scores = {stage.name: stage.score for stage in result.stages}
    assert result.kept != "fine-tuned"
    assert fine_tune(model, X, Y, epochs=(0, 1)).kept == "fine-tuned"  # nothing to decide by
    assert scores[result.kept] == max(scores.values())
    guesses = keras.ops.convert_to_numpy(result.model(X)).argmax(axis=1)
    assert np.mean(guesses == Y) == pytest.approx(scores[result.kept])
    assert "validation" in str(result) and "kept" in str(result)


def test_few_labels_on_digits_end_no_worse_than_from_scratch():
    data = load_data("digits").flat
    keras.utils.set_random_seed(0)
    ae = dense(data.sample_shape, 16, hidden_units=(64,))
    ae.compile(keras.optimizers.Adam(1e-2), "mse")
    ae.fit(data.x_train, data.x_train, epochs=40, batch_size=256, verbose=0)
    x, y, test = data.x_train[:100], data.y_train[:100], (data.x_test, data.y_test)
    result = fine_tune(with_head(ae), x, y, test=test, epochs=(20, 30), batch_size=32)
    fresh = with_head(dense(data.sample_shape, 16, hidden_units=(64,)), frozen=False)
    scratch = fine_tune(fresh, x, y, test=test, epochs=(0, 50), batch_size=32)
    start, frozen, tuned = (stage.score for stage in result.stages)
    assert start < 0.3 < frozen
    assert tuned >= scratch.stages[-1].score
    assert tuned > frozen


def test_what_does_not_fit_is_refused():
    model = with_head(dense((6,), 3), 2)
    for arguments, words in (
        ({"x": X[:, :5], "y": Y}, "samples of shape"),
        ({"x": X, "y": Y[:-1]}, "one number or row a sample"),
        ({"x": X, "y": Y + 1}, "labels from 1 to 2"),
        ({"x": X, "y": Y, "epochs": 3}, "epochs"),
        ({"x": X, "y": Y, "learning_rate": (1e-3, 0)}, "learning_rate"),
        ({"x": X, "y": Y, "batch_size": 0}, "batch_size"),
        ({"x": X, "y": Y, "seed": -1}, "seed"),
        ({"x": X, "y": Y, "test": X}, "test"),
    ):
        with pytest.raises(InputError, match=words):
            fine_tune(model, **arguments)
    with pytest.raises(InputError, match="no attribute and no layer named 'encoder'"):
        fine_tune(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]), X, Y)


@keras.saving.register_keras_serializable("tests_head")
class OwnEncoder(keras.Model):
    """An encoder of a user's own class and name, whose saved config does not hold the name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.feature, self.code = keras.layers.Dense(6, "relu"), keras.layers.Dense(3)

    def call(self, x):
        feature = self.feature(x)
        return self.code(feature), feature


def test_an_encoder_of_ones_own_class_is_found_again_in_the_classifier_and_its_copy():
    x = np.random.default_rng(0).random((40, 5), dtype="float32")
    y = (x[:, 0] > 0.5).astype(int)
    encoder = OwnEncoder()
    expected = encoder(x)[0].numpy()
    classifier = with_head(encoder, 2)
    found = fine_tune(classifier, x, y, epochs=(1, 0)).model
    for model in (classifier, found):
        np.testing.assert_allclose(encoder_of(model)(x).numpy(), expected, atol=1e-6)
