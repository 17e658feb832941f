import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration, Cut, Decoder


@pytest.fixture(autouse=True)
def seeded():
    """Clipping takes more or less of the variance of the codes, by the weights that a model begins with."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def real():
    return Calibration(np.random.default_rng(0).random((300, 8), dtype="float32"))


def open_decoder(model):
    """Make the decoder copy its code into the first values, so that samples show the codes."""
    kernel, bias = model.decoder.get_layer("output").weights
    kernel.assign(np.eye(*kernel.shape))
    bias.assign(np.zeros(bias.shape))
    return model


def test_codes_have_the_mean_and_covariance_of_the_real_codes(real):
    model = open_decoder(models.dense((8,), 3, hidden_units=(), output_activation="linear"))
    codes = models.embed(model, real.x)
    drawn = Decoder().draw(20_000, real=real, model=model).x[:, :3]
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.05 * codes.var(0).max())


def test_codes_behind_a_rectifier_stay_in_its_range(real):
    model = models.dense((8,), 3, hidden_units=(), output_activation="linear", code_activation="relu")
    drawn = Decoder().draw(500, real=real, model=open_decoder(model)).x
    codes = models.embed(model, real.x)
    assert drawn.min() >= 0 and (drawn[:, :3] <= codes.max(0) + 1e-6).all()


def test_without_real_samples_codes_are_standard_normal():
    model = open_decoder(models.dense((8,), 3, hidden_units=(), output_activation="linear"))
    drawn = Decoder().draw(20_000, model=model).x[:, :3]
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(3), atol=0.04)


def test_cutting_before_the_decoder_is_the_decoder_source(real):
    model = models.dense((8,), 3)
    drawn = [part.draw(9, real=real, model=model, seed=2).x for part in (Decoder(), Cut("decoder"))]
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-6)


def test_activations_at_the_cut_are_drawn_from_their_gaussian_and_go_through_the_rest(real):
    inputs = keras.Input((8,))
    hidden = layers.Dense(4, "tanh", name="narrow")(inputs)
    last = layers.Dense(8, name="wide")
    model = keras.Model(inputs, last(hidden))
    last.kernel.assign(np.eye(4, 8))
    activations = keras.Model(inputs, hidden)(real.x).numpy()
    drawn = Cut("wide").draw(20_000, real=real, model=model).x[:, :4]
    np.testing.assert_allclose(drawn.mean(0), activations.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(activations.T), atol=0.08 * activations.var(0).max())


@pytest.mark.parametrize(
    ("model", "part", "shape"),
    [
        (lambda: models.convolutional((8, 8, 1), filters=(4, 2)), "decoder", (8, 8, 1)),
        (lambda: models.convolutional((8, 8, 1), filters=(4, 2)), "decoder/filters_2", (8, 8, 1)),
        (lambda: models.convolutional((8, 8, 1), filters=(4, 2)), "encoder/filters_2", (8, 8, 1)),
        (lambda: models.recurrent((6, 2), 3), "decoder", (6, 2)),
        (lambda: models.variational((8,), 2), "decoder/output", (8,)),
        (
            lambda: keras.Sequential([keras.Input((8,)), layers.Dense(3, name="a"), layers.Dense(8, name="b")]),
            "b",
            (8,),
        ),
    ],
)
def test_models_of_every_kind_can_be_cut(model, part, shape):
    model = model()
    real = Calibration(np.random.default_rng(0).random((20, *shape), dtype="float32"))
    drawn = Cut(part).draw(5, real=real, model=model)
    assert drawn.x.shape == (5, *shape) and drawn.source == "cut"


@pytest.mark.parametrize("kind", ["convolutional", "recurrent", "variational", "subclassed"])
def test_decoders_of_every_kind_make_samples(kind):
    if kind == "convolutional":
        model, shape = models.convolutional((8, 8, 1), filters=(4, 2)), (8, 8, 1)
    elif kind == "recurrent":
        model, shape = models.recurrent((6, 2), 3), (6, 2)
    elif kind == "variational":
        model, shape = models.variational((8,), 2), (8,)
    else:
        model, shape = models.Autoencoder(layers.Dense(3), layers.Dense(8)), (8,)
        model(np.zeros((1, 8), "float32"))
    real = Calibration(np.random.default_rng(0).random((20, *shape), dtype="float32"))
    assert Decoder().draw(5, real=real, model=model).x.shape == (5, *shape)


def skipping():
    inputs = keras.Input((8,))
    hidden = layers.Dense(4, name="narrow")(inputs)
    return keras.Model(
        inputs, layers.Add(name="sum")([layers.Dense(8, name="wide")(hidden), inputs]), name="skipping"
    )


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        (Cut("wide"), skipping, r"a connection in 'skipping' leads around 'wide'"),
        (Cut("sum"), skipping, r"'sum' has several inputs, outputs or uses"),
        (Cut("narrow"), skipping, r"allowed: a layer after the first one of 'skipping': wide, sum"),
        (Cut("code"), skipping, r"part: got 'code', allowed: a layer of 'skipping': narrow, wide, sum"),
        (Cut("wide/x"), skipping, r"'wide/x' lies in 'wide', allowed: a layer of functional or Sequential"),
        (Cut(), lambda: None, r"model: got None, allowed: the model whose part makes the samples of 'cut'"),
        (Decoder(), lambda: None, r"model: got None"),
        (Decoder(), skipping, r"no layer named 'decoder'"),
        (
            Cut("last"),
            lambda: keras.Sequential([keras.Input((8,)), layers.Dense(3), layers.Dense(2, name="last")]),
            r"makes values of shape \(2,\), allowed: a part that makes samples of shape \(8,\)",
        ),
    ],
)
def test_models_that_cannot_make_samples_are_refused(source, model, message, real):
    with pytest.raises(InputError, match=message):
        source.draw(3, real=real, model=model())


def test_one_real_sample_has_no_covariance(real):
    for source in (Cut(), Decoder()):
        with pytest.raises(InputError, match=r"real: got 1 samples, allowed: 2 or more"):
            source.draw(3, real=Calibration(real.x[:1]), model=models.dense((8,), 3))
