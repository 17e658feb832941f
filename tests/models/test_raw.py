"""A model on raw values computes what Scaling, the model and the inverse compute, in one plain file."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.datasets.scaling import Scaling
from keras_aeprune.models.dense import dense
from keras_aeprune.models.raw import on_raw_values


def random_model(shape):
    keras.utils.set_random_seed(1)
    return dense(shape, 3, hidden_units=(8,), output_activation="linear")


def raw_data(shape, scaling, count=40):
    """Raw values that the scaling turns into about -2 to 2."""
    unit = np.random.default_rng(0).normal(size=(count, *shape))
    offset, divisor = (
        np.broadcast_to(np.reshape(v, shape if np.size(v) == np.prod(shape) else np.shape(v)), shape)
        for v in (scaling.offset, scaling.divisor)
    )
    return (unit * divisor + offset).astype("float32")


SCALINGS = {
    "pixels": ((6, 5), Scaling("unit", 0.0, 255.0, "unit")),
    "one range": ((9,), Scaling("unit", -3.7, 12.3)),
    "per feature": ((4,), Scaling("standard", (1.1, -20.3, 0.003, 1234.567), (2.0, 30.0, 0.001, 3.21))),
    "per feature, two axes": ((3, 2), Scaling("standard", (1.0, 2, 3, 4, 5, 6), (0.1, 2, -3, 4, 50, 6))),
    "far from 0": ((5,), Scaling("standard", (20_000.37,) * 5, (1.7,) * 5)),
    "none": ((4,), Scaling()),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_it_is_the_inverse_of_the_model_of_the_scaled_values(name):
    shape, scaling = SCALINGS[name]
    model, x = random_model(shape), raw_data(*SCALINGS[name])
    seen = scaling.apply(x)
    expected = scaling.invert(np.asarray(model(seen)))
    got = np.asarray(on_raw_values(model, scaling)(x))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(scaling.divisor).max())
    halfway = on_raw_values(model.encoder, scaling, invert=False)
    np.testing.assert_allclose(halfway(x), model.encoder(seen), rtol=1e-5, atol=1e-5)


def test_by_hand():
    double = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0)])
    model = on_raw_values(double, Scaling("standard", (10.0, 1.0), (4.0, 0.5)), name="own")
    # (14 - 10) / 4 = 1, doubled, 2 * 4 + 10 = 18; (1.5 - 1) / 0.5 = 1, doubled, 2 * 0.5 + 1 = 2
    np.testing.assert_allclose(model(np.array([[14.0, 1.5]])), [[18.0, 2.0]])
    assert model.name == "own"


def test_one_number_for_each_channel():
    scaling = Scaling("standard", (1.0, 100.0), (2.0, 50.0))
    x = np.random.default_rng(0).random((4, 3, 2)) * 100
    model = on_raw_values(random_model((3, 2)).encoder, scaling, invert=False)
    by_hand = (x - np.array([1.0, 100.0])) / np.array([2.0, 50.0])
    np.testing.assert_allclose(model(x), random_model((3, 2)).encoder(by_hand), rtol=1e-5, atol=1e-5)


def test_whole_numbers_are_taken_as_they_are():
    scaling = Scaling("unit", 0.0, 255.0, "unit")
    model = on_raw_values(random_model((6,)), scaling)
    pixels = np.arange(12, dtype="uint8").reshape(2, 6) * 20
    np.testing.assert_allclose(model.predict(pixels, verbose=0), model(pixels.astype("float32")), rtol=1e-6)


def test_the_weights_are_shared_and_the_model_trains_on():
    model = random_model((4,))
    raw = on_raw_values(model, SCALINGS["per feature"][1])
    model.weights[0].assign(model.weights[0] + 1.0)
    assert [id(v) for v in raw.weights] == [id(v) for v in model.weights]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = keras.layers.Dense(4)

    def call(self, x):
        return self.last(x)


def test_a_subclassed_model_that_was_called_once_is_wrapped():
    model = Subclassed()
    scaling = SCALINGS["per feature"][1]
    with pytest.raises(InputError, match="not built"):
        on_raw_values(model, scaling)
    model(np.zeros((1, 4), "float32"))
    x = raw_data(*SCALINGS["per feature"])
    expected = scaling.invert(np.asarray(model(scaling.apply(x))))
    np.testing.assert_allclose(on_raw_values(model, scaling)(x), expected, rtol=1e-5, atol=1e-5)


def test_the_file_loads_without_this_package(tmp_path):
    shape, scaling = SCALINGS["per feature, two axes"]
    model, x = on_raw_values(random_model(shape), scaling), raw_data(shape, scaling)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, keras, numpy as np\n"
        "np.save('y.npy', keras.saving.load_model('m.keras')(np.load('x.npy')))\n"
        "sys.exit('keras_aeprune' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scaling": 255.0}, ("scaling", "255.0", "Scaling")),
        ({"scaling": Scaling("standard", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))}, ("(4,)",)),
        ({"invert": "yes"}, ("invert", "'yes'")),
        ({"name": "a/b"}, ("name", "a/b")),
        ({"model": random_model((4,)).encoder}, ("invert", "(4,)", "invert=False")),
        ({"model": "m.keras"}, ("model", "m.keras")),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    arguments = {"model": random_model((4,)), "scaling": Scaling(), **arguments}
    with pytest.raises(InputError) as error:
        on_raw_values(arguments.pop("model"), arguments.pop("scaling"), **arguments)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_a_model_with_two_inputs_is_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(InputError, match="one input"):
        on_raw_values(keras.Model([a, b], keras.layers.Add()([a, b])), Scaling())
