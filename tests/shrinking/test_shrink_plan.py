"""The plan: what it counts, what it refuses, and that it is plain data."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._validation import BudgetError, InputError
from keras_aeprune.shrinking.planning import plan, unused
from keras_aeprune.shrinking.shrink_plan import ShrinkPlan
from keras_aeprune.shrinking.tracing import trace


@pytest.fixture(scope="module")
def autoencoder():
    keras.utils.set_random_seed(0)
    return models.dense((64,), 16, hidden_units=(48, 32))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((64, 64)).astype("float32")


def widths(made):
    return {group.name: group.kept for group in made.groups}


def test_parameters_and_macs_are_those_of_the_model_that_comes_of_it(autoencoder):
    made = plan(autoencoder, keep=0.5, round_to=1)
    small = made.apply(autoencoder)
    assert made.params == (autoencoder.count_params(), small.count_params())
    kernels = [w for w in small.weights if len(w.shape) == 2]
    assert made.macs[1] == sum(int(np.prod(w.shape)) for w in kernels)


def test_macs_of_convolutions_count_every_position():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            kl.Conv2D(6, 3, strides=2, padding="same", name="down"),  # 4 * 4 positions
            kl.DepthwiseConv2D(3, padding="same", name="each"),
            kl.Conv2DTranspose(4, 3, strides=2, padding="same", name="up"),  # each of its 4 * 4 inputs
            kl.Flatten(),
            kl.Dense(3, name="last"),
        ]
    )
    found = {layer.path: layer.macs[0] for layer in plan(model, keep=1.0).layers}
    assert found["down"] == 16 * 9 * 2 * 6
    assert found["each"] == 16 * 9 * 6
    assert found["up"] == 16 * 9 * 6 * 4
    assert found["last"] == 256 * 3


def test_recurrent_macs_count_every_step_and_gate():
    model = keras.Sequential([keras.Input((5, 3)), kl.LSTM(4, name="lstm"), kl.Dense(2)])
    assert {layer.path: layer.macs[0] for layer in plan(model, keep=1.0).layers}["lstm"] == 5 * 4 * 4 * (3 + 4)


def test_apply_equals_masked_and_leaves_the_model_alone(autoencoder, x):
    before, config = autoencoder.get_weights(), autoencoder.get_config()
    made = plan(autoencoder, keep=0.4, round_to=1)
    small, masked = made.apply(autoencoder), made.masked(autoencoder)
    assert np.abs(small(x) - masked(x)).max() <= 1e-5 * np.abs(masked(x)).max()
    assert np.abs(small(x) - autoencoder(x)).max() > 1e-3
    for old, now in zip(before, autoencoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert autoencoder.get_config() == config


def test_data_compensate_the_cut(autoencoder, x):
    made = plan(autoencoder, keep=0.5, round_to=1)
    wanted = autoencoder(x)
    plain, better = (
        np.square(small(x) - wanted).mean() for small in (made.apply(autoencoder), made.apply(autoencoder, data=x))
    )
    assert better < 0.5 * plain


def test_the_smallest_units_go_first():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(4, name="a", use_bias=False), kl.Dense(1)])
    model.layers[0].set_weights([np.array([[3.0, -1.0, 2.0, -4.0]])])
    assert plan(model, keep=0.5, round_to=1).groups[0].removed == (1, 2)


def test_widths_are_rounded_up_to_the_multiple(autoencoder):
    assert set(widths(plan(autoencoder, keep=0.3)).values()) == {16, 8}
    assert widths(plan(autoencoder, keep=0.3, round_to=1))["encoder/hidden_1"] == 15  # 14.4, rounded up


def test_minimum_and_maximum_hold_by_name(autoencoder):
    made = plan(autoencoder, keep=0.5, minimum={"encoder/code": 16}, maximum={"decoder/*": 8})
    assert widths(made)["encoder/code"] == 16
    assert widths(made)["decoder/hidden_1"] == widths(made)["decoder/hidden_2"] == 8


def test_ratios_by_name_leave_the_rest_whole(autoencoder):
    assert widths(plan(autoencoder, keep={"code": 8, "decoder/hidden_1": 0.5})) == {
        "encoder/hidden_1": 48,
        "encoder/hidden_2": 32,
        "encoder/code": 8,
        "decoder/hidden_1": 16,
        "decoder/hidden_2": 48,
    }


def test_mirrored_widths_are_equal_in_both_halves(autoencoder, x):
    made = widths(plan(autoencoder, target_params=2500, scope="global", mirror=True, round_to=1))
    assert made["encoder/hidden_1"] == made["decoder/hidden_2"]
    assert made["encoder/hidden_2"] == made["decoder/hidden_1"]
    alone = widths(plan(autoencoder, target_params=2500, scope="global", round_to=1))
    assert alone["encoder/hidden_1"] != alone["decoder/hidden_2"]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("target", [{"target_params": 4000}, {"target_macs": 4000}, {"target_bytes": 16000}])
def test_a_target_is_met_and_not_by_far(autoencoder, scope, target):
    made = plan(autoencoder, scope=scope, round_to=1, **target)
    limit = next(iter(target.values()))
    reached = {"target_params": made.params, "target_macs": made.macs}.get(next(iter(target)))
    reached = 4 * made.params[1] if reached is None else reached[1]
    assert 0.9 * limit <= reached <= limit


def test_a_target_that_cannot_be_met_says_how_far_it_can_go(autoencoder):
    with pytest.raises(BudgetError, match=r"there are 1,?\d* macs with every group at its minimum"):
        plan(autoencoder, target_macs=10)


def test_an_error_limit_is_kept_and_used(autoencoder):
    random = np.random.default_rng(1)
    rows = (random.random((256, 4)) @ random.random((4, 64)) / 4).astype("float32")
    model = keras.models.clone_model(autoencoder)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(rows, rows, epochs=10, verbose=0)
    made = plan(model, "elimination", max_error_increase=0.5, data=rows, round_to=1)
    judged = np.arange(len(rows)) % 4 == 3
    errors = [
        float(np.square(m.predict(rows[judged], verbose=0) - rows[judged]).mean())
        for m in (model, made.apply(model, data=rows[~judged]))
    ]
    assert errors[1] <= 1.5 * errors[0]
    assert made.params[1] < 0.9 * made.params[0]
    assert f"{errors[0]:.5g} -> {errors[1]:.5g}" in made.notes[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error_increase": 0.1}, "calibration samples, for max_error_increase"),
        ({"max_error_increase": 0.1, "data": np.zeros((64, 64))}, "has none, allowed: one; give loss="),
        ({"max_error_increase": -1, "data": np.zeros((64, 64)), "loss": "mse"}, "a fraction >= 0"),
        ({"max_error_increase": 0.1, "data": np.zeros((4, 64)), "loss": "mse"}, "8 or more"),
    ],
)
def test_an_error_limit_needs_data_and_a_loss(autoencoder, arguments, message):
    with pytest.raises(InputError, match=message):
        plan(autoencoder, **arguments)


def test_only_what_nothing_takes_up_goes_without_a_target():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(4, "relu", name="a"), kl.Dense(3, name="b")])
    kernel = np.ones((4, 3))
    kernel[[1, 2]] = 0
    model.layers[1].set_weights([kernel, np.zeros(3)])
    made = plan(model, round_to=1)
    assert made.groups[0].removed == (1, 2)
    x = np.random.default_rng(0).random((5, 2)).astype("float32")
    np.testing.assert_allclose(made.apply(model)(x), model(x), atol=1e-6)


def test_units_that_a_second_layer_takes_up_are_used():
    entrance = keras.Input((2,))
    a = kl.Dense(3, name="a")(entrance)
    model = keras.Model(entrance, [kl.Dense(2, name="b")(a), kl.Dense(2, name="c")(a)])
    model.get_layer("b").kernel.assign(np.array([[0, 0], [0, 0], [1, 1]]))
    model.get_layer("c").kernel.assign(np.array([[0, 0], [1, 0], [0, 0]]))
    traced = trace(model)
    assert unused(traced).tolist() == [traced.groups[0].classes[0]]


def test_the_plan_is_json_both_ways(autoencoder, tmp_path, x):
    made = plan(autoencoder, "elimination", keep={"code": 0.5}, data=x, mirror=True)
    assert ShrinkPlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    made.save(tmp_path / "plan.json")
    again = ShrinkPlan.load(tmp_path / "plan.json")
    np.testing.assert_array_equal(again.apply(autoencoder)(x), made.apply(autoencoder)(x))


def test_a_plan_serves_every_model_of_the_architecture_and_no_other(autoencoder):
    made = plan(autoencoder, keep=0.5)
    twin = keras.models.clone_model(autoencoder)
    assert made.apply(twin).count_params() == made.params[1]
    with pytest.raises(InputError, match="encoder/code: 16 in the plan, 12 here"):
        made.apply(models.dense((64,), 12, hidden_units=(48, 32)))


@pytest.mark.parametrize("value", [{}, {"format": 1}, {"format": 9}, []])
def test_what_is_no_plan_is_refused(value):
    with pytest.raises(InputError, match="what ShrinkPlan.to_dict gave"):
        ShrinkPlan.from_dict(value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="a file of ShrinkPlan.save"):
        ShrinkPlan.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "a fraction 0 < keep <= 1"),
        ({"keep": {"nope": 0.5}}, "a name or pattern of encoder/hidden_1"),
        ({"keep": {"output": 0.5}}, "decoder/output stays whole: output of the model"),
        ({"keep": {"code": 99}}, "<= 16"),
        ({"keep": 0.5, "target_params": 5}, "got keep and target_params"),
        ({"keep": 0.5, "scope": "all"}, "allowed: layer, global"),
        ({"keep": 0.5, "minimum": {"nope": 2}}, "minimum: got 'nope'"),
        ({"target_macs": -1}, "a number > 0"),
        ({"keep": 0.5, "criterion": "elimination"}, "calibration samples"),
        ({"keep": 0.5, "criterion": "elimnation"}, "magnitude, .*; or elimination"),
        ({"keep": 0.5, "criterion": "elimination", "data": np.zeros((9, 5))}, r"shape \(5,\), allowed: \(64,\)"),
        ({"keep": 0.5, "round_to": 0}, "a whole number >= 1"),
    ],
)
def test_what_cannot_be_used_is_refused(autoencoder, arguments, message):
    with pytest.raises(InputError, match=message):
        plan(autoencoder, **arguments)


def test_the_table_shows_before_after_and_what_is_left_whole():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kl.Dense(16, name="a"),
            kl.LayerNormalization(name="norm"),
            kl.Dense(8, name="b"),
            kl.Dense(4, name="c"),
        ]
    )
    lines = str(plan(model, keep=0.5, round_to=1)).splitlines()
    assert lines[0].endswith(": 4 of 8 units go")
    row = next(line for line in lines if line.startswith("b "))
    assert row.split() == ["b", "Dense", "8", "->", "4", "136", "->", "68", "128", "->", "64"]
    assert lines[-1] == "  a: norm (LayerNormalization) normalizes across its units"
    assert max(map(len, lines)) <= 100


def test_native_unit_scores_and_weight_scores_both_rank(autoencoder, x):
    by_weight = plan(autoencoder, "magnitude", keep=0.5, data=x)
    by_unit = plan(autoencoder, "activation_entropy", keep=0.5, data=x)
    assert [g.removed for g in by_weight.groups] != [g.removed for g in by_unit.groups]
    assert by_weight.params == by_unit.params
