"""Laws of every source of calibration samples; a newcomer adds a row."""

import keras
import numpy as np
import pytest

from keras_aeprune import calibration, models
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration, Source, Vae

NAMES = calibration.names()
NEED_REAL = ("cut", "real", "shuffled_pixels", "vae")


@pytest.fixture(scope="module")
def generator_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "vae.keras"
    models.variational((4, 2), 2).save(path)
    return str(path)


@pytest.fixture(scope="module")
def member(generator_file):
    """Sources by name; "vae" from a file, as training takes seconds and has tests of its own."""
    settings = {"vae": {"path": generator_file}}
    return lambda name: calibration.source({"class_name": name, "config": settings.get(name, {})})


@pytest.fixture(scope="module")
def real():
    random = np.random.default_rng(0)
    return Calibration(random.random((60, 4, 2), dtype="float32"), random.integers(0, 3, 60))


@pytest.fixture(scope="module")
def autoencoder():
    return models.dense((4, 2), 3)


def state(model):
    values = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    return values, nodes, [v.trainable for v in model.variables], model.compiled


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_exactly_n_finite_float32_samples_and_seeded(name, real, autoencoder, member):
    draws = [member(name).draw(7, real=real, model=autoencoder, seed=seed) for seed in (5, 5, 6)]
    for drawn in draws:
        assert drawn.x.shape == (7, 4, 2) and drawn.x.dtype == np.float32 and np.isfinite(drawn.x).all()
        assert drawn.source == name
    np.testing.assert_allclose(draws[0].x, draws[1].x, atol=1e-6)
    assert np.abs(draws[0].x - draws[2].x).max() > 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if name != "real"])
def test_more_samples_than_real_ones_can_be_made(name, real, autoencoder, member):
    few = Calibration(real.x[:10])
    drawn = member(name).draw(33, real=few, model=autoencoder)
    assert drawn.x.shape == (33, 4, 2) and drawn.y is None


@pytest.fixture(scope="module")
def trained(real):
    model = models.dense((4, 2), 3, batch_normalization=True)
    model.compile("sgd", "mse")
    model.fit(real.x, real.x, verbose=0)
    model.encoder.trainable = False
    return model


@pytest.mark.parametrize("name", NAMES)
def test_model_and_real_samples_are_left_as_they_were(name, real, trained, member):
    model = trained
    before, x = state(model), real.x.copy()
    member(name).draw(5, real=real, model=model)
    after = state(model)
    for old, new in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(old, new)
    assert before[1:] == after[1:]
    np.testing.assert_array_equal(real.x, x)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_comes_back_from_its_config(name, member):
    one = member(name)
    twin = calibration.source(calibration.serialize(one))
    assert type(twin) is type(one) and twin.get_config() == one.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_without_real_samples_a_source_works_or_says_what_it_needs(name, autoencoder, member):
    if name in NEED_REAL:
        source = calibration.source(name)
        with pytest.raises(InputError, match=r"real: got None, allowed: . or more real samples .*calibration.get"):
            source.draw(3, model=autoencoder)
    else:
        assert member(name).draw(3, model=autoencoder).x.shape == (3, 4, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [{"n": 0}, {"seed": -1}, {"real": np.zeros((3, 4, 2))}, {"model": "model"}])
def test_wrong_arguments_are_refused_by_name(name, wrong, real, autoencoder, member):
    given = {"n": 3, "real": real, "model": autoencoder, **wrong}
    with pytest.raises(InputError, match=next(iter(wrong))):
        member(name).draw(given.pop("n"), **given)


@pytest.mark.parametrize("name", NAMES)
def test_real_samples_that_the_model_does_not_take_are_refused(name, autoencoder, member):
    with pytest.raises(InputError, match=r"real: got 'samples of shape \(9,\)', allowed: those of 'autoencoder'"):
        member(name).draw(3, real=Calibration(np.zeros((5, 9))), model=autoencoder)


def test_real_samples_are_balanced_and_drawn_once(real):
    drawn = calibration.source("real").draw(30, real=real)
    assert np.bincount(drawn.y).tolist() == [10, 10, 10] and len(np.unique(drawn.x[:, 0, 0])) == 30
    with pytest.raises(InputError, match=r"n: got 61, allowed: at most 60"):
        calibration.source("real").draw(61, real=real)


def test_generated_samples_get_the_labels_that_a_classifier_predicts(real, member):
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    for name in ("gaussian_noise", "shuffled_pixels", "uniform_noise", "vae"):
        drawn = member(name).draw(20, real=real, model=model)
        np.testing.assert_array_equal(drawn.y, model(drawn.x).numpy().argmax(1))


def test_a_source_trains_a_generator_of_its_own(real):
    made = Vae(encoding_dim=2, epochs=1).draw(5, real=real, seed=1)
    assert made.x.shape == (5, 4, 2) and made.source == "vae" and made.y.shape == (5,)


def test_without_a_model_a_sample_of_the_vae_has_the_class_it_was_drawn_for(real, member):
    made = member("vae").draw(60, real=real)
    np.testing.assert_array_equal(np.bincount(made.y), np.bincount(real.y))


def test_an_own_source_is_found_by_its_name():
    @calibration.register("zeros of a test")
    class Zeros(Source):
        def draw(self, n, *, real=None, model=None, seed=0):
            return Calibration(np.zeros((n, 2), "float32"), None, "zeros")

    try:
        assert calibration.source("zeros of a test").draw(2).x.shape == (2, 2)
    finally:
        del calibration.sources._registry._members["zeros of a test"]


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(InputError, match=r"calibration source: got 'vea', allowed: cut, decoder, .*register"):
        calibration.source("vea")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Vae(epochs=0),
        lambda: Vae(kind="lstm"),
        lambda: Vae(path=3),
        lambda: calibration.Cut(""),
        lambda: calibration.ShuffledPixels("pixel"),
        lambda: calibration.UniformNoise("none"),
        lambda: calibration.Real(balanced=1),
    ],
)
def test_constructors_check_their_arguments(make):
    with pytest.raises(InputError):
        make()
