import numpy as np
import pytest

from keras_aeprune import datasets
from keras_aeprune._validation import InputError
from keras_aeprune.pipeline.settings import Settings, phases, seconds


def data(samples=200, features=20):
    return datasets.load(np.random.default_rng(0).random((samples, features), "float32"))


def test_given_values_are_kept_and_others_derived():
    settings = Settings.derive(data(), sparsity=0.5, encoding_dim=3, hidden_units=[9], epochs=4, seed=7)
    assert (settings.encoding_dim, settings.hidden_units, settings.seed) == (3, (9,), 7)
    assert settings.epochs == {"dense": 4, "prune": 4, "finetune": 2}
    assert settings.output_activation == "sigmoid"
    derived = Settings.derive(data())
    assert 1 <= derived.encoding_dim < 20
    assert derived.sparsity == 0.9


def test_few_samples_get_small_batches_and_many_epochs():
    assert Settings.derive(data(200)).epochs["dense"] == 100
    many = Settings.derive(data(60_000, 4))
    assert many.batch_size == 128
    assert many.epochs["dense"] == 16  # 6,000 updates of 375 steps an epoch
    assert Settings.derive(data(20)).batch_size == 16  # not more than there are


def test_hidden_layers_are_no_narrower_than_a_wide_code():
    assert Settings.derive(data(), encoding_dim=19).hidden_units == (64, 32)
    assert Settings.derive(data(200, 100), encoding_dim=90).hidden_units == (128,)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"encoding_dim": 0},
        {"encoding_dim": 20},
        {"encoding_dim": 2.5},
        {"hidden_units": [0]},
        {"epochs": 0},
        {"seed": -1},
        {"seed": 2**32},
    ],
    ids=str,
)
def test_values_outside_their_range_are_refused(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))}: got .*, allowed: "):
        Settings.derive(data(), **arguments)


def test_phases_have_at_least_one_epoch():
    assert phases(1) == {"dense": 1, "prune": 1, "finetune": 1}


def test_times_are_read_with_units():
    assert [seconds(value) for value in (None, 5, "5", "5s", "2m", "1.5h")] == [None, 5, 5, 5, 120, 5400]


@pytest.mark.parametrize("value", ["", "soon", "5d", 0, -1, "0", float("nan"), "nan"])
def test_other_times_are_refused(value):
    with pytest.raises(InputError, match="max_time: got .*, allowed: "):
        seconds(value)
