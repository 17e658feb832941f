"""Arrays come back to the bit, whole or as a difference to a base."""

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.compression import delta
from keras_aeprune.compression.codec import pack, unpack
from keras_aeprune.compression.container import Reader

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint8, np.int32, np.int64]


def arrays(dtype):
    rng = np.random.default_rng(0)
    some = (rng.normal(size=(40, 9)) * 40).astype(dtype)
    sparse = np.where(rng.random((40, 9)) < 0.9, 0, some.astype(np.float64)).astype(dtype)
    few = rng.integers(0, 3, (40, 9)).astype(dtype)
    return {"some": some, "sparse": sparse, "few": few, "zeros": np.zeros_like(few), "one": some[:1, :1]}


def back(coded, value):
    reader = Reader(coded.data)
    found = delta.take_array(reader, value.shape, value.dtype)
    reader.done()
    return found


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["some", "sparse", "few", "zeros", "one"])
def test_arrays_come_back_to_the_bit(dtype, name):
    value = arrays(dtype)[name]
    found = back(delta.put_array(value), value)
    assert found.dtype == value.dtype and found.tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "value", [np.float32(3), np.zeros((0, 4), np.float32), np.float32([[-0.0, np.nan, np.inf]])]
)
def test_odd_arrays_come_back_to_the_bit(value):
    value = np.asarray(value)
    found = back(delta.put_array(value), value)
    assert found.shape == value.shape and found.tobytes() == value.tobytes()


def test_bytes_that_repeat_take_almost_nothing():
    value = np.tile(np.random.default_rng(0).integers(-128, 128, 100).astype(np.int8), (40, 1))
    coded = delta.put_array(value)
    assert coded.index == "repeats" and len(coded.data) < 250 and np.array_equal(back(coded, value), value)


def test_shared_values_that_fit_float16_take_two_bytes_each():
    rng = np.random.default_rng(0)
    exact = rng.choice(np.float32([0.5, 1.5, -2.25, 3.0]), 5000)
    odd = rng.choice(np.float32([0.1, 1.3, -2.7, 3.3]), 5000)
    assert delta.put_array(exact).codebook_bytes == 1 + 4 * 2
    assert delta.put_array(odd).codebook_bytes == 1 + 4 * 4


@pytest.mark.parametrize("dtype", TYPES)
def test_exact_differences_come_back_to_the_bit(dtype):
    new, old = arrays(dtype)["some"], arrays(dtype)["sparse"]
    mode, steps = delta.candidates(new, old, None)[1]
    assert mode == delta.STEPS and steps.dtype == delta.coded_dtype(mode, new.dtype)
    found = delta.restored(mode, steps, old)
    assert found.dtype == new.dtype and found.tobytes() == new.tobytes()
    assert np.array_equal(steps == 0, new.view(steps.dtype) == old.view(steps.dtype))


def test_the_next_float_is_one_step_away():
    old = np.float32([1, -1, 1e-30, 1000])
    up = delta.candidates(np.nextafter(old, np.float32(np.inf)), old, None)[1][1]
    down = delta.candidates(np.nextafter(old, np.float32(-np.inf)), old, None)[1][1]
    assert up.tolist() == [2] * 4 and down.tolist() == [1] * 4  # the sign is the lowest bit


def test_shared_differences_keep_what_did_not_change_and_what_became_zero():
    old = np.float32([1, 2, 3, 4, 0])
    new = np.float32([1, 0, 3.1, 4.3, 0])

    def share(difference):
        return np.where(difference == 0, 0, np.float32(0.25))

    mode, coded = delta.candidates(new, old, share)[2]
    assert delta.restored(mode, coded, old).tolist() == [1, 0, 3.25, 4.25, 0]


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    old = keras.Sequential([keras.Input((60,)), keras.layers.Dense(40, "relu"), keras.layers.Dense(60)])
    rng = np.random.default_rng(0)
    old.set_weights(
        [np.where(rng.random(w.shape) < 0.8, 0, w) if w.ndim > 1 else w + 0.1 for w in old.get_weights()]
    )
    new = keras.models.clone_model(old)
    changed = []
    for value in old.get_weights():
        moved = (rng.random(value.shape) < 0.05) & (value != 0)
        changed.append((value + moved * rng.normal(size=value.shape) * 0.01).astype(np.float32))
    changed[0].ravel()[np.flatnonzero(changed[0])[:5]] = 0
    new.set_weights(changed)
    return old, new


@pytest.mark.parametrize("bits", [None, 3])
def test_a_client_sends_only_what_changed(models, tmp_path, bits):
    old, new = models
    whole = pack(new, tmp_path / "whole.kap", bits=bits)
    sent = pack(new, tmp_path / "sent.kap", bits=bits, base=old)
    found = unpack(tmp_path / "sent.kap", base=old)
    assert sent.kind == "keras delta" and sent.bytes < whole.bytes / 2
    for value, packed, wanted, before in zip(
        found.get_weights(), sent.model.get_weights(), new.get_weights(), old.get_weights(), strict=True
    ):
        assert value.tobytes() == packed.tobytes()
        assert np.array_equal(value == 0, wanted == 0) and np.array_equal(value == before, wanted == before)
        assert np.abs(value - wanted).max() <= (0 if bits is None else 0.01)


def test_only_the_base_that_was_packed_against_will_do(models, tmp_path):
    old, new = models
    pack(new, tmp_path / "sent.kap", base=old)
    pack(new, tmp_path / "whole.kap")
    with pytest.raises(InputError, match="base: got None"):
        unpack(tmp_path / "sent.kap")
    with pytest.raises(InputError, match="fingerprint"):
        unpack(tmp_path / "sent.kap", base=new)
    with pytest.raises(InputError, match="needs no base"):
        unpack(tmp_path / "whole.kap", base=old)
    other = keras.Sequential([keras.Input((60,)), keras.layers.Dense(41), keras.layers.Dense(60)])
    with pytest.raises(InputError, match="same architecture"):
        pack(new, tmp_path / "x.kap", base=other)
    assert not (tmp_path / "x.kap").exists()


def test_the_models_that_are_given_stay_as_they_are(models, tmp_path):
    before = [weight.tobytes() for model in models for weight in model.get_weights()]
    pack(models[1], tmp_path / "sent.kap", base=models[0], bits=2)
    assert before == [weight.tobytes() for model in models for weight in model.get_weights()]
