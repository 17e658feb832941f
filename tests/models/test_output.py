"""Output activation and loss: ranges, tails and refusals by hand, and what real data sets get."""

import dataclasses
import re
import tracemalloc

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import Scaling, load
from keras_aeprune.models.output import Output, output_for


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("values", "activation", "loss"),
    [
        ([[0.0, 0.5], [1.0, 0.25]], "sigmoid", "mse"),
        ([[0.2, 0.5], [0.7, 0.25]], "sigmoid", "mse"),
        ([[0, 1], [1, 1]], "sigmoid", "binary_crossentropy"),
        ([[False, True], [True, True]], "sigmoid", "binary_crossentropy"),
        ([[0.0, 1.0], [1.0, 0.999]], "sigmoid", "mse"),
        ([[0.0, 1.0001], [1.0, 0.5]], "linear", "mse"),
        ([[-0.0001, 1.0], [1.0, 0.5]], "linear", "mse"),
        ([[-1.0, 1.0], [0.5, -0.5]], "linear", "mse"),
        ([[0, 255], [3, 200]], "linear", "mse"),
    ],
)
def test_the_range_decides(values, activation, loss):
    found = output_for(np.array(values))
    assert (found.activation, found.loss) == (activation, loss)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_the_type_of_the_numbers_does_not_matter(dtype):
    values = np.tile(np.arange(10, dtype=dtype), 3).reshape(30, 1)
    values[4] = 200
    assert output_for(values).loss == "huber"
    assert "from 0 to 200" in output_for(values).reason
    assert output_for(np.minimum(values, 1)).loss == "binary_crossentropy"


def test_one_line_says_what_and_why():
    text = str(output_for(np.array([[-0.5, 0.25]])))
    assert text.startswith("output activation linear, loss mse: values from -0.5 to 0.25 are not all in [0, 1]")
    assert "\n" not in text and "%" not in text
    assert str(output_for(np.array([[0.5]]))) == "output activation sigmoid, loss mse: all values lie in [0, 1]"


def with_far_values(count, far):
    """10,000 values, each feature of median 0 and deviation 1, `count` of them `far` deviations away.

    The sum of squares is 2000 * (4 + 1 + 0 + 1 + 4) = 20,000 before, 4 less for each that is replaced.
    """
    x = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 200)[:, None] * np.ones(10)
    places = [(4 + 5 * (i // 10), i % 10) for i in range(count)]
    x[tuple(zip(*places, strict=True))] = far
    return x


@pytest.mark.parametrize(
    ("count", "far", "loss"),
    [(50, 19.5, "mse"), (50, 20.5, "huber"), (50, -20.5, "huber"), (400, 10.0, "mse"), (400, 10.1, "huber")],
)
def test_tails_are_heavy_where_values_beyond_ten_deviations_make_half_of_the_squared_error(count, far, loss):
    found = output_for(4 * with_far_values(count, far) + 3)
    assert found.loss == loss
    beyond = abs(far) > 10
    share = count * far**2 / (20_000 + count * (far**2 - 4)) if beyond else 0
    assert f" {count / 10_000 if beyond else 0:.2g} of them are further than 10 deviations" in found.reason
    assert f" make {share:.2g} of the squared error (limit 0.5)" in found.reason


def said(found):
    return [float(number) for number in re.findall(r"([0-9.e-]+) of the", found.reason)]


def test_normal_and_laplace_data_have_no_heavy_tails_and_student_data_has():
    rng = np.random.default_rng(0)
    assert said(output_for(rng.normal(size=(3000, 100)))) == [0, 0]
    laplace = output_for(rng.laplace(size=(20_000, 50)))
    log = 10 * np.log(2)
    assert said(laplace) == pytest.approx([2**-10, 2**-10 * (log**2 + 2 * log + 2) / 2], rel=0.1)
    assert laplace.loss == "mse"
    assert output_for(rng.standard_t(2, size=(3000, 100))).loss == "huber"


def test_each_feature_is_judged_by_its_own_deviation():
    x = normal(2000, 2) * [1, 1000]
    assert said(output_for(x))[0] == 0
    x[:40, 0] = 500
    assert said(output_for(x))[0] == pytest.approx(40 / 4000, rel=0.1)


def test_a_peak_that_every_sample_has_is_no_tail():
    x = normal(200, 100)
    x[:, 50] += 1000
    assert output_for(x).loss == "mse"
    x[7, 20:60] += 1000
    assert output_for(x).loss == "huber"


def test_where_most_values_of_a_feature_are_equal_the_mean_deviation_is_the_measure():
    x = np.zeros((100, 100))
    x[:2] = -1.0  # mean deviation 0.02, ten of them are 0.2
    assert output_for(x).loss == "huber"
    assert said(output_for(x)) == [0.02, 1]
    x[:20] = -1.0  # mean deviation 0.2, ten of them are 2
    assert output_for(x).loss == "mse"
    assert output_for(np.full((50, 3), 7.0)).loss == "mse"


def test_few_samples_are_not_judged():
    x = normal(19, 1000)
    x[0] = 1e6
    assert output_for(x).loss == "mse"
    assert "19 samples are too few" in output_for(x).reason
    assert output_for(np.concatenate([x, x[1:2]])).loss == "huber"


@pytest.mark.parametrize("shape", [(60_000, 10, 10), (400, 15_000)])
def test_large_data_gets_the_same_answer_from_a_sample_without_being_copied(shape):
    x = np.random.default_rng(0).standard_t(2, size=shape).astype("float32")
    middle = np.median(x, axis=0)
    away = np.abs(x.astype("float64") - middle)
    far = away > 10 * np.median(away, axis=0)
    exact = [far.mean(), (away[far] ** 2).sum() / (away**2).sum()]
    tracemalloc.start()
    found = output_for(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.loss == "huber"
    assert said(found) == pytest.approx(exact, rel=0.1)
    assert peak < 60 << 20


def test_one_value_between_0_and_1_far_from_the_end_is_seen():
    x = np.zeros((1500, 1000), "float32")  # read in several pieces
    x[:, 3] = 1
    assert output_for(x).loss == "binary_crossentropy"
    x[0, 0] = 0.5
    assert output_for(x).loss == "mse"


@pytest.mark.parametrize("loss", ["mse", "huber", "binary_crossentropy"])
def test_a_loss_that_was_asked_for_is_taken(loss):
    found = output_for(np.array([[0.0, 1.0]]), loss=loss)
    assert (found.activation, found.loss) == ("sigmoid", loss)
    assert f"{loss} was asked for" in found.reason


def test_the_formulas_of_the_docstring_are_the_losses_of_keras():
    target = np.array([[0.0, 1.0, 0.25], [1.0, 0.5, 0.0]])
    output = np.array([[0.1, 0.6, 0.5], [0.9, 0.2, 0.7]])
    far = np.array([[3.0, -1.0, 0.5], [-4.0, 0.25, 1.0]])

    def keras_loss(name, target, output):
        return float(keras.losses.get(name)(target, output).numpy().mean())

    error = np.abs(target - far)
    by_hand = {
        "mse": ((target - far) ** 2).mean(),
        "huber": np.where(error <= 1, error**2 / 2, error - 0.5).mean(),
    }
    for name, value in by_hand.items():
        assert keras_loss(name, target, far) == pytest.approx(value, rel=1e-5)
    entropy = -(target * np.log(output) + (1 - target) * np.log(1 - output)).mean()
    assert keras_loss("binary_crossentropy", target, output) == pytest.approx(entropy, rel=1e-5)


def test_a_dataset_is_judged_by_its_training_split_and_its_scaling():
    raw = np.random.default_rng(0).integers(0, 200, size=(50, 6)).astype("uint8")
    unit = load(raw)
    assert output_for(unit).activation == "sigmoid"
    assert "'unit'" in output_for(unit).reason
    standard = load(raw, scale="standard")
    assert (output_for(standard).activation, output_for(standard).loss) == ("linear", "mse")
    real = dataclasses.replace(unit, scaling=Scaling("none", output_range="real"))
    assert output_for(real).activation == "linear"
    wild = dataclasses.replace(unit, x_test=unit.x_test * 1000)
    assert output_for(wild) == output_for(unit)
    with pytest.raises(InputError, match="'real'"):
        output_for(real, loss="binary_crossentropy")


def test_real_data_gets_the_usual_choice(real_data):
    mnist = np.load(real_data / "data" / "mnist.npz")["x_train"][:5000]
    assert output_for(load(mnist)).loss == output_for(mnist / np.float32(255)).loss == "mse"
    assert output_for(load(mnist)).activation == "sigmoid"
    binary = output_for(mnist > 127)
    assert (binary.activation, binary.loss) == ("sigmoid", "binary_crossentropy")
    ecg = np.load(real_data / "data" / "ecg5000.npz")["x_train"]
    for beats in (output_for(ecg), output_for(load(ecg))):
        assert (beats.activation, beats.loss) == ("linear", "mse")
    shuttle = output_for(np.load(real_data / "data" / "tabular_anomaly.npz")["shuttle__x"])
    assert (shuttle.activation, shuttle.loss) == ("linear", "huber")


@pytest.mark.parametrize(
    ("data", "loss", "words"),
    [
        (np.array([[0.0, np.nan]]), "auto", ("NaN or infinite", "[0, 1]", "drop or fill")),
        (np.array([[0.0, 1.0], [np.inf, 1.0]]), "mse", ("NaN or infinite", "[1, 0]")),
        (np.zeros((0, 4)), "auto", ("(0, 4)", "one or more")),
        (np.array([[0.0, -1e200]]), "auto", ("-1e+200", "float32")),
        (np.array(3.0), "auto", ("shape ()",)),
        (np.array([["a"]]), "auto", ("<U1", "numbers")),
        (np.array([[1j]]), "auto", ("complex128", "numbers")),
        ([[0.0, 1.0]], "auto", ("list", "NumPy array", "Dataset")),
        ("mnist", "auto", ("'mnist'", "datasets.load")),
        (np.array([[0.0, 1.5]]), "binary_crossentropy", ("from 0 to 1.5", "[0, 1]", "'mse' or 'huber'")),
        (np.array([[-0.5, 0.5]]), "binary_crossentropy", ("from -0.5 to 0.5",)),
        (np.array([[0.0, 1.0]]), "mae", ("loss", "'mae'", "auto, mse, huber, binary_crossentropy")),
        (np.array([[0.0, 1.0]]), None, ("loss", "None")),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(data, loss, words):
    with pytest.raises(InputError) as error:
        output_for(data, loss=loss)
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def test_an_output_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Output("sigmoid", "mse", "").loss = "huber"
