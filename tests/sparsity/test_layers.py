"""The wrapper PruneLowMagnitude: every kind of layer, masks, patterns, precision and its configuration."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from small_models import batch, dense, half, masks, steps, train, values, wrappers, zeros

from keras_aeprune.sparsity import PruneLowMagnitude, collect_prunable_layers, prune_low_magnitude, strip_pruning

# layer, shape of one sample, number of kernels
KINDS = {
    "Dense": (lambda: kl.Dense(4), (6,), 1),
    "EinsumDense": (lambda: kl.EinsumDense("abc,cde->abde", (3, 2, 4)), (3, 6), 1),
    "Conv1D": (lambda: kl.Conv1D(4, 2), (3, 6), 1),
    "Conv2D": (lambda: kl.Conv2D(4, 2), (4, 6, 1), 1),
    "Conv3D": (lambda: kl.Conv3D(2, 3), (5, 4, 6, 3), 1),
    "Conv1DTranspose": (lambda: kl.Conv1DTranspose(2, 3), (4, 3), 1),
    "Conv2DTranspose": (lambda: kl.Conv2DTranspose(2, 3), (4, 3, 3), 1),
    "Conv3DTranspose": (lambda: kl.Conv3DTranspose(2, 3), (3, 4, 3, 3), 1),
    "DepthwiseConv1D": (lambda: kl.DepthwiseConv1D(2), (4, 6), 1),
    "DepthwiseConv2D": (lambda: kl.DepthwiseConv2D(2), (4, 4, 3), 1),
    "SeparableConv1D": (lambda: kl.SeparableConv1D(4, 2), (3, 6), 2),
    "SeparableConv2D": (lambda: kl.SeparableConv2D(4, 2), (4, 4, 2), 2),
    "SimpleRNN": (lambda: kl.SimpleRNN(4), (3, 4), 2),
    "LSTM": (lambda: kl.LSTM(4), (3, 4), 2),
    "GRU": (lambda: kl.GRU(4), (3, 4), 2),
    "cells": (lambda: kl.RNN([kl.LSTMCell(4), kl.GRUCell(4), kl.SimpleRNNCell(4)]), (2, 4), 6),
    "StackedRNNCells": (lambda: kl.RNN(kl.StackedRNNCells([kl.LSTMCell(2), kl.GRUCell(4)])), (2, 4), 4),
    "Bidirectional": (lambda: kl.Bidirectional(kl.GRU(4)), (2, 4), 4),
    "ConvLSTM2D": (lambda: kl.ConvLSTM2D(2, 2), (2, 3, 3, 1), 2),
    "TimeDistributed": (lambda: kl.TimeDistributed(kl.Dense(4)), (3, 4), 1),
    "Dropout": (lambda: kl.Dropout(0.4), (6,), 0),
    "Flatten": (lambda: kl.Flatten(), (3, 2), 0),
    "MaxPooling2D": (lambda: kl.MaxPooling2D(2), (4, 4, 1), 0),
    "BatchNormalization": (lambda: kl.BatchNormalization(), (6,), 0),
    "Rescaling": (lambda: kl.Rescaling(2.0), (6,), 0),
}


def one(layer, shape, *arguments, **keywords):
    return keras.Sequential([keras.Input(shape), PruneLowMagnitude(layer, *arguments, **keywords)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_of_a_layer_loses_half_of_its_weights_and_nothing_else(kind):
    make, shape, kernels = KINDS[kind]
    model = one(make(), shape, half())
    assert zeros(model) == [0.0] * kernels
    train(model)
    sizes = [values(mask).size for layer in wrappers(model) for _, mask, _ in layer.pruning_vars]
    assert zeros(model) == pytest.approx([0.5] * kernels, abs=0.5 / min(sizes, default=1))
    held = {id(kernel) for layer in wrappers(model) for kernel in layer.prunable_weights}
    for weight in model.layers[0].layer.trainable_weights:
        if id(weight) not in held:
            assert np.mean(values(weight) == 0) < 0.5, weight.path
    x = batch((3, *shape))
    np.testing.assert_array_equal(model.predict_on_batch(x), strip_pruning(model).predict_on_batch(x))


def test_embeddings_are_pruned():
    model = keras.Sequential([keras.Input((5,)), PruneLowMagnitude(kl.Embedding(10, 4), half()), kl.Flatten()])
    train(model, x=np.arange(40).reshape(8, 5) % 10)
    assert zeros(model) == [0.5]


@pytest.mark.parametrize("named", [False, True])
def test_attention_is_pruned_with_its_inputs_by_place_or_by_name(named):
    tokens = keras.Input((3, 4))
    attention = kl.MultiHeadAttention(2, 2)
    outputs = attention(query=tokens, value=tokens) if named else attention(tokens, tokens)
    pruned = prune_low_magnitude(keras.Model(tokens, outputs), half())
    train(pruned)
    assert zeros(pruned) == [0.5] * 4
    x = batch((2, 3, 4))
    np.testing.assert_array_equal(pruned.predict_on_batch(x), strip_pruning(pruned).predict_on_batch(x))


def test_a_recurrent_layer_with_states_from_the_model_is_pruned():
    sequence, state = keras.Input((3, 4)), keras.Input((5,))
    pruned = prune_low_magnitude(
        keras.Model([sequence, state], kl.LSTM(5)(sequence, initial_state=[state, state])), half()
    )
    train(pruned, x=[batch((8, 3, 4)), batch((8, 5))], y=batch((8, 5)))
    assert zeros(pruned) == [0.5, 0.5]


def test_what_goes_is_what_is_smallest_after_the_update_and_ties_go_by_position():
    kernel = np.array([[0.5, -0.1, 2.0], [0.3, -4.0, 0.2]], "float32")
    model = one(kl.Dense(3, use_bias=False), (2,), half())
    layer = model.layers[0]
    layer.layer.kernel.assign(kernel)
    train(model, x=np.zeros((4, 2), "float32"))  # no gradient
    np.testing.assert_array_equal(layer.layer.kernel, [[0.5, 0, 2.0], [0, -4.0, 0]])
    assert float(layer.pruning_vars[0][2].numpy()) == 0.5

    tied = one(kl.Dense(4, use_bias=False, kernel_initializer="ones"), (4,), half(target_sparsity=0.75))
    train(tied, x=np.zeros((4, 4), "float32"))
    assert np.count_nonzero(tied.layers[0].layer.kernel) == 4


def test_weights_are_exactly_zero_after_every_update_and_masked_ones_get_no_update():
    model = one(kl.Dense(8), (6,), half(frequency=100))
    first = masks(train(model))[0]
    for _ in range(4):
        kernel = values(wrappers(train(model))[0].layer.kernel)
        assert not kernel[~first].any() and kernel[first].all()


@pytest.mark.parametrize(("asked", "kept"), [(0.0, 48), (0.99, 1), (0.25, 36)])
def test_no_sparsity_is_no_change_and_one_weight_always_stays(asked, kept):
    model = train(one(kl.Dense(8), (6,), half(target_sparsity=asked)))
    assert np.count_nonzero(wrappers(model)[0].layer.kernel) == kept


def test_no_sparsity_trains_exactly_like_no_pruning():
    plain = dense()
    pruned = prune_low_magnitude(plain, half(target_sparsity=0.0))
    for now, then in zip(strip_pruning(train(pruned, 3)).weights, train(plain, 3).weights, strict=True):
        np.testing.assert_array_equal(now, then)


def blocks(mask, height, width):
    """The mask cut into blocks, each as a set of its values, edge blocks included."""
    rows, columns = range(0, mask.shape[0], height), range(0, mask.shape[1], width)
    return [set(mask[r : r + height, c : c + width].ravel().tolist()) for r in rows for c in columns]


@pytest.mark.parametrize("size", [(2, 2), (1, 4), (4, 1), (4, 3)])
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_blocks_live_or_die_together(size, pooling):
    model = train(one(kl.Dense(6), (8,), half(), block_size=size, block_pooling_type=pooling))
    found = blocks(masks(model)[0], *size)
    assert all(len(values) == 1 for values in found)
    assert found.count({False}) == (len(found) + 1) // 2


def test_average_and_maximum_choose_different_blocks():
    kernel = np.array([[3.0, 0.0, 2.0, 2.0]], "float32")  # means 1.5 and 2, maxima 3 and 2
    for pooling, kept in (("AVG", [False, False, True, True]), ("MAX", [True, True, False, False])):
        layer = kl.Dense(4, use_bias=False)
        model = one(layer, (1,), half(), block_size=(1, 2), block_pooling_type=pooling)
        layer.kernel.assign(kernel)
        assert masks(train(model, x=np.zeros((4, 1), "float32")))[0].tolist() == [kept]


def test_convolutions_are_cut_into_blocks_of_inputs_by_filters():
    model = train(one(kl.Conv2D(4, 2), (4, 4, 2), half(), block_size=(2, 2)))
    found = blocks(masks(model)[0].reshape(8, 4), 2, 2)
    assert sorted(map(tuple, found)) == [(False,)] * 4 + [(True,)] * 4


@pytest.mark.parametrize(("layer", "shape"), [(kl.Dense(16), (8,)), (kl.Conv2D(6, (3, 2)), (5, 5, 4))])
@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 2), (3, 4)])
def test_m_of_every_n_weights_along_the_inputs_are_zero(layer, shape, m_by_n):
    m, n = m_by_n
    copied = type(layer).from_config(layer.get_config())
    model = train(one(copied, shape, half(), sparsity_m_by_n=m_by_n))
    [mask] = masks(model)
    runs = mask.reshape(-1, mask.shape[-1]).T.reshape(-1, n)
    assert set((n - runs.sum(axis=1)).tolist()) == {m}


def test_inputs_that_do_not_fill_the_last_run_are_pruned_in_the_others():
    [mask] = masks(train(one(kl.Dense(3), (6,), half(), sparsity_m_by_n=(2, 4))))
    assert mask[:4].sum(axis=0).tolist() == [2, 2, 2]
    assert mask[4:].all()


def test_kernels_that_the_pattern_does_not_fit_are_a_warning_and_stay_dense():
    model = keras.Sequential([keras.Input((4, 4, 4)), kl.DepthwiseConv2D(2, name="each"), kl.Conv2D(4, 1)])
    with pytest.warns(UserWarning, match="each/kernel is not pruned: pattern 2:4"):
        pruned = prune_low_magnitude(model, half(), sparsity_m_by_n=(2, 4))
    assert zeros(train(pruned)) == [0.5]
    with pytest.warns(UserWarning, match="depthwise_kernel is not pruned"):
        assert len(one(kl.SeparableConv2D(4, 2), (4, 4, 2), block_size=(2, 2)).layers[0].pruning_vars) == 1


@pytest.mark.parametrize("pooling", ["MIN", "avg", None])
def test_other_poolings_are_refused(pooling):
    with pytest.raises(ValueError, match=f"Unsupported pooling type '{pooling}'. Should be 'AVG' or 'MAX'"):
        PruneLowMagnitude(kl.Dense(2), block_pooling_type=pooling)


@pytest.mark.parametrize("wrong", [(4, 2), (2, 2), (0, 4), (2,), 2, (1.0, 2), "24", ()])
def test_other_m_by_n_are_refused_with_what_they_mean(wrong):
    with pytest.raises(ValueError, match="m zeros in every n weights, 0 < m < n"):
        PruneLowMagnitude(kl.Dense(2), sparsity_m_by_n=wrong)


def test_blocks_and_m_by_n_together_are_refused():
    with pytest.raises(ValueError, match="block_size: got .* together with sparsity_m_by_n"):
        PruneLowMagnitude(kl.Dense(2), block_size=(2, 2), sparsity_m_by_n=(2, 4))


@pytest.mark.parametrize("size", [(0, 2), (2,), (1.5, 2)])
def test_other_block_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        PruneLowMagnitude(kl.Dense(2), block_size=size)


def test_what_is_no_layer_is_refused_in_tfmots_words():
    with pytest.raises(ValueError, match="initialize `Prune` layer with a `Layer` instance. You passed: 'Dense'"):
        PruneLowMagnitude("Dense")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_low_and_prunes_the_float32_weights(policy):
    model = prune_low_magnitude(dense((8, 6), dtype=policy), half())
    train(model, steps=2)
    assert zeros(model) == [0.5, 0.5]
    assert {str(kernel.dtype) for layer in wrappers(model) for kernel in layer.prunable_weights} == {"float32"}
    assert wrappers(model)[0](batch((2, 6))).dtype == policy.removeprefix("mixed_")
    assert strip_pruning(model).layers[0].dtype_policy.name == policy


def test_a_scaled_loss_in_float16_prunes_too():
    model = prune_low_magnitude(dense(dtype="mixed_float16"), half())
    train(model, 3, optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0))
    assert (zeros(model), steps(model)) == ([0.5, 0.5], [3, 3])


def test_the_configuration_makes_an_equal_layer():
    layer = PruneLowMagnitude(kl.Dense(4), half(), sparsity_m_by_n=(2, 4), criterion="magnitude", name="p")
    copied = PruneLowMagnitude.from_config(layer.get_config())
    assert copied.get_config() == layer.get_config()
    assert (copied.sparsity_m_by_n, copied.name, copied.pruning_schedule) == ((2, 4), "p", half())
    block = PruneLowMagnitude(kl.Dense(4), block_size=(2, 2), block_pooling_type="MAX")
    assert PruneLowMagnitude.from_config(block.get_config()).get_config() == block.get_config()


def test_a_model_of_wrapped_layers_is_made_again_from_its_configuration():
    stack = [kl.Conv2D(3, 2), kl.MaxPooling2D(2), kl.Flatten(), kl.Dense(5), kl.Dropout(0.4), kl.Dense(4)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *(PruneLowMagnitude(layer, half()) for layer in stack)])
    assert sum(len(layer.pruning_vars) for layer in model.layers) == 3
    assert len(collect_prunable_layers(model)) == 6
    assert keras.Sequential.from_config(model.get_config()).get_config() == model.get_config()


def test_names_tell_the_wrapped_layer():
    assert PruneLowMagnitude(kl.Dense(2, name="code")).name == "prune_low_magnitude_code"


def test_nothing_of_the_masks_is_trained():
    model = prune_low_magnitude(dense(), half())
    assert len(model.trainable_variables) == 4
    assert {str(variable.dtype) for variable in model.non_trainable_variables} == {"bool", "float32", "int64"}
