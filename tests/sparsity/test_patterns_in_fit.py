"""Patterns, allocations, limits and relative schedules where they are used: in `fit`."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import schedules
from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import Prune, patterns, sensitivity_map

X = np.random.default_rng(0).random((64, 16), "float32")
IMAGES = np.random.default_rng(1).random((32, 8, 8, 3), "float32")


def dense():
    keras.utils.set_random_seed(0)
    sizes = [24, 8, 24, 16]
    model = keras.Sequential([keras.Input((16,)), *(layers.Dense(n, name=f"d{i}") for i, n in enumerate(sizes))])
    model.compile("adam", "mse")
    return model


def fit(model, *, x=X, epochs=4, **arguments):
    prune = Prune(arguments.pop("schedule", 0.5), **arguments)
    model.fit(
        x, x if x is X else np.zeros((len(x), 4)), epochs=epochs, batch_size=16, verbose=0, callbacks=[prune]
    )
    return prune.table


def test_two_of_four_stay_in_every_run():
    model = dense()
    table = fit(model, pattern="2:4")
    for layer in model.layers:
        runs = (layer.kernel.numpy().T != 0).reshape(layer.kernel.shape[1], -1, 4)
        assert (runs.sum(-1) == 2).all()
    assert {row.pattern for row in table.rows} == {"2:4"}


def test_blocks_die_whole():
    model = dense()
    fit(model, pattern=patterns.Block((1, 4)), schedule=0.75)
    for layer in model.layers:
        kernel = layer.kernel.numpy()
        blocks = (kernel != 0).reshape(kernel.shape[0], -1, 4).sum(-1)
        assert set(np.unique(blocks)) <= {0, 4}
        assert (blocks == 0).mean() == pytest.approx(0.75, abs=0.01)


def test_units_die_whole_in_convolutions_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, name="c"),
            layers.DepthwiseConv2D(3, name="w"),
            layers.Flatten(),
        ]
    )
    model.add(layers.Dense(4, name="out"))
    model.compile("adam", "mse")
    table = fit(model, x=IMAGES, pattern="unit", exclude="out")
    filters = (model.get_layer("c").kernel.numpy() != 0).reshape(-1, 8).sum(0)
    assert sorted(set(filters)) == [0, 27]
    assert (filters == 0).sum() == 4
    assert all(row.reason or row.asked is not None for row in table.rows)


def test_erk_and_sensitivity_keep_the_total():
    size = sum(layer.kernel.numpy().size for layer in dense().layers)
    model = dense()
    table = fit(model, allocation="erk", schedule=0.6)
    assert sum(row.zeros for row in table.rows) == np.floor(0.6 * size + 0.5)
    assert len({round(row.reached, 2) for row in table.rows}) > 1
    from keras_aeprune.sparsity.allocation import Sensitivity

    model = dense()
    measured = sensitivity_map(model, X, sparsities=(0.5, 0.9))
    table = fit(model, allocation=Sensitivity(measured), schedule=0.6)
    assert sum(row.zeros for row in table.rows) == np.floor(0.6 * size + 0.5)


def test_a_dict_gives_each_layer_its_own():
    table = fit(dense(), allocation={"d0": 0.25, "d1": 0.5}, schedule=0.6)
    reached = {row.path: row.reached for row in table.rows}
    assert sum(row.zeros for row in table.rows) == round(0.6 * sum(row.weights for row in table.rows))
    assert reached["d0/kernel"] == pytest.approx(0.25, abs=0.01)
    assert reached["d1/kernel"] == pytest.approx(0.5, abs=0.01)


def test_first_and_last_layer_can_be_kept_denser():
    table = fit(dense(), allocation="global", limits=0.3, schedule=0.5)
    reached = [row.reached for row in table.rows]
    assert max(reached[0], reached[-1]) <= 0.3 + 1e-9
    size = sum(row.weights for row in table.rows)
    assert sum(row.zeros for row in table.rows) == np.floor(0.5 * size + 0.5)


def test_limits_that_leave_no_room_are_refused_before_training():
    model = dense()
    before = model.get_weights()
    with pytest.raises(InputError, match="possible|allowed"):
        fit(model, limits={"d*": (0.0, 0.2)}, schedule=0.9)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.relative("CosineDecay", 0.5),
        schedules.relative("PolynomialDecay", 0.5, begin=1, end=3, unit="epochs"),
        schedules.relative("IterativeSteps", 0.5, begin=0.0, end=1.0),
    ],
    ids=repr,
)
def test_relative_schedules_find_the_length_of_the_training(schedule):
    table = fit(dense(), schedule=schedule)
    assert all(row.reached == 0.5 for row in table.rows)


def test_a_relative_schedule_beyond_the_training_is_refused():
    with pytest.raises(InputError, match=r"got 5\.0 epochs of 4 steps"):
        fit(dense(), schedule=schedules.relative("CosineDecay", 0.5, begin=0, end=5, unit="epochs"))
