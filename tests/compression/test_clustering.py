"""Shared weights: clusters, their training, and what stays as it was."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.compression.clustering import Cluster, ShareConstraint, _sum_gradients, cluster
from keras_aeprune.compression.codebook import kmeans, sharing_rate
from keras_aeprune.sparsity import KeepSparse, MaskConstraint, Prune

# Figure 3 of Han et al. 2016: weights, their clusters, and gradients of the loss.
WEIGHTS = [[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12], [-0.91, 1.92, 0, -1.03], [1.87, 0, 1.53, 1.49]]
LABELS = [[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]]
GRADIENTS = [
    [-0.03, -0.01, 0.03, 0.02],
    [-0.01, 0.01, -0.02, 0.12],
    [-0.01, 0.02, 0.04, 0.01],
    [-0.07, -0.02, 0.01, -0.02],
]


def slow_kmeans(values, clusters, passes=200):
    """Lloyd by distances to all centres, from evenly spaced ones."""
    centres = np.linspace(values.min(), values.max(), clusters)
    for _ in range(passes):
        labels = np.abs(values[:, None] - centres).argmin(1)
        for k in range(clusters):
            if (labels == k).any():
                centres[k] = values[labels == k].mean()
    return centres[np.abs(values[:, None] - centres).argmin(1)]


def two_layers(optimizer="sgd", zeros=True):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(9, "relu", name="hidden"), keras.layers.Dense(6, name="out")]
    )
    if zeros:
        for layer in model.layers:
            kernel = layer.kernel.numpy()
            layer.kernel.assign(np.where(np.abs(kernel) < 0.2, 0, kernel))
    model.compile(optimizer, "mse")
    return model


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


def kernels(model):
    return [layer.kernel.numpy() for layer in model.layers]


def values_of(kernel):
    return np.unique(kernel[kernel != 0])


def test_the_rate_is_the_papers():
    assert sharing_rate(16, 4, 32) == pytest.approx(3.2)
    assert sharing_rate(1000, 32, 32) == pytest.approx(32000 / (5000 + 1024))


def test_the_papers_kernel_falls_into_its_four_clusters_and_zeros_into_none():
    weights = np.array(WEIGHTS)
    codebook, labels = kmeans(weights, 4)
    np.testing.assert_allclose(codebook, [-1, 0, 1.5, 2], atol=1e-6)
    np.testing.assert_array_equal(labels, np.where(weights == 0, -1, LABELS))


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_the_slow_algorithm(seed):
    generator = np.random.default_rng(seed)
    values = generator.standard_t(3, size=400) * (generator.random(400) < 0.7)
    codebook, labels = kmeans(values.reshape(20, 20), 16)
    shared = np.where(labels >= 0, codebook[labels], 0).ravel()
    np.testing.assert_allclose(shared[values != 0], slow_kmeans(values[values != 0], 16), rtol=1e-5)
    assert not shared[values == 0].any()
    assert (np.diff(codebook) > 0).all()


def test_the_start_by_density_serves_the_many_small_ones_better():
    values = np.random.default_rng(0).standard_t(2, size=3000)
    middle = np.abs(values) < 1

    def error(init):
        codebook, labels = kmeans(values, 8, init=init)
        return np.abs(codebook[labels] - values)[middle].mean()

    assert error("density") < 0.8 * error("linear")


def test_few_different_values_stay_to_the_bit():
    values = np.array([0.3, 0.3, 1e-9, 0.0, -1e9], np.float32)
    codebook, labels = kmeans(values, 4)
    np.testing.assert_array_equal(codebook, np.array([-1e9, 1e-9, 0.3], np.float32))
    np.testing.assert_array_equal(labels, [2, 2, 1, -1, 0])


def test_a_kernel_of_zeros_has_an_empty_codebook():
    codebook, labels = kmeans(np.zeros((2, 2)), 4)
    assert codebook.shape == (0,)
    assert (labels == -1).all()


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="finite"):
        kmeans(np.array([1.0, np.nan]), 2)
    with pytest.raises(InputError, match="linear, density"):
        kmeans(np.ones(3), 2, init="forgy")
    with pytest.raises(InputError, match="clusters: got 0"):
        kmeans(np.ones(3), 0)
    for bits in (0, 13, 2.5, {"hidden": 0}):
        with pytest.raises(InputError, match="bits"):
            Cluster(bits)
    with pytest.raises(InputError, match=r"fits no layer.*hidden, out"):
        cluster(two_layers(), {"hiden": 3})
    with pytest.raises(InputError, match="not compiled"):
        cluster(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]), data=np.ones((4, 2)))


def test_the_summed_gradient_moves_the_papers_values_as_printed():
    """Rate 1: 2.00, 1.50, 0.00, -1.00 become 1.96, 1.48, -0.04, -0.97."""
    variable = keras.Variable(np.array([-1, 0, 1.5, 2], np.float32)[np.array(LABELS)])
    variable.constraint = ShareConstraint(np.array(LABELS))
    optimizer = keras.optimizers.SGD(1.0)
    _sum_gradients(optimizer)
    optimizer.apply([keras.ops.convert_to_tensor(GRADIENTS, "float32")], [variable])
    moved = np.array([-0.97, -0.04, 1.48, 1.96], np.float32)[np.array(LABELS)]
    np.testing.assert_allclose(variable.numpy(), moved, atol=1e-6)


def test_the_mean_of_updated_weights_moves_them_by_the_mean_gradient():
    variable = keras.Variable(np.array([-1, 0, 1.5, 2], np.float32)[np.array(LABELS)])
    variable.constraint = ShareConstraint(np.array(LABELS))
    keras.optimizers.SGD(1.0).apply([keras.ops.convert_to_tensor(GRADIENTS, "float32")], [variable])
    moved = np.array([-1 + 0.03 / 4, -0.04 / 5, 1.5 - 0.02 / 3, 2 - 0.04 / 4], np.float32)[np.array(LABELS)]
    np.testing.assert_allclose(variable.numpy(), moved, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_weights_are_shared_and_zeros_stay_after_every_batch(x, optimizer, gradient):
    model = two_layers(optimizer)
    zeros = [kernel == 0 for kernel in kernels(model)]
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([values_of(kernel) for kernel in kernels(model)])
            for kernel, zero in zip(kernels(model), zeros, strict=True):
                assert not kernel[zero].any()

    model.fit(x, x, batch_size=16, epochs=2, verbose=0, callbacks=[Cluster(3, gradient=gradient), Look()])
    assert len(seen) == 8
    assert all(values.size <= 8 for pair in seen for values in pair)
    assert not np.array_equal(seen[0][0], seen[-1][0])  # the values do move


def test_one_step_of_the_fit_is_that_of_numpy(x):
    model = two_layers(keras.optimizers.SGD(0.1))
    codebook, labels = kmeans(model.layers[1].kernel.numpy(), 4)
    other = two_layers(keras.optimizers.SGD(0.1))
    shared = [kmeans(kernel, 4) for kernel in kernels(other)]
    for layer, (book, marks) in zip(other.layers, shared, strict=True):
        layer.kernel.assign(np.where(marks >= 0, book[marks], 0))
    model.fit(x, x, batch_size=64, verbose=0, callbacks=[Cluster(2, gradient="sum")])
    start = other.layers[1].kernel.numpy()
    other.fit(x, x, batch_size=64, verbose=0)
    gradient = (start - other.layers[1].kernel.numpy()) / 0.1
    for k, value in enumerate(codebook):
        expected = value - 0.1 * gradient[labels == k].sum()
        np.testing.assert_allclose(model.layers[1].kernel.numpy()[labels == k], expected, rtol=1e-4)


def test_after_the_fit_the_model_is_as_free_as_before(x):
    model = two_layers()
    model.layers[0].kernel.constraint = own = keras.constraints.MaxNorm(3)
    model.fit(x, x, verbose=0, callbacks=[Cluster(2, gradient="sum")])
    assert model.layers[0].kernel.constraint is own
    assert model.layers[1].kernel.constraint is None
    assert "apply" not in vars(model.optimizer)
    assert values_of(kernels(model)[1]).size <= 4
    model.fit(x, x, verbose=0)
    assert values_of(kernels(model)[1]).size > 4


class Break(keras.callbacks.Callback):
    """The key that stops a fit."""

    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def interrupted(x, *more):
    model, sharing = two_layers(keras.optimizers.SGD(0.1)), Cluster(2, gradient="sum")
    model.layers[0].kernel.constraint = keras.constraints.MaxNorm(3)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x, verbose=0, callbacks=[sharing, *more, Break()])
    assert "apply" in vars(model.optimizer)
    return model, sharing


def test_what_an_interrupted_fit_left_is_undone_by_the_next_one_with_sharing(x):
    model, _ = interrupted(x)
    # the kernel that is not asked for now is free during this fit, and the gradients are not summed
    other = two_layers(keras.optimizers.SGD(0.1))
    other.layers[0].kernel.constraint = keras.constraints.MaxNorm(3)
    other.set_weights(model.get_weights())
    for one in (model, other):
        one.fit(x, x, batch_size=16, shuffle=False, verbose=0, callbacks=[Cluster({"hidden": 2})])
    for ours, wanted in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert values_of(kernels(model)[1]).size > 4
    assert isinstance(model.layers[0].kernel.constraint, keras.constraints.MaxNorm)
    assert model.layers[1].kernel.constraint is None
    assert "apply" not in vars(model.optimizer)


def test_an_interrupted_fit_can_be_undone_by_hand(x):
    model, sharing = interrupted(x, KeepSparse())  # whose masks come around the sharing
    sharing.release()
    assert "apply" not in vars(model.optimizer)
    first, second = (layer.kernel.constraint for layer in model.layers)
    assert isinstance(first, MaskConstraint) and isinstance(first.inner, keras.constraints.MaxNorm)
    assert isinstance(second, MaskConstraint) and second.inner is None
    model.fit(x, x, verbose=0)  # with batches of the same shape, so that no step is traced again by itself
    assert values_of(kernels(model)[1]).size > 4


def test_a_kernel_that_cannot_be_shared_leaves_the_others_as_they_were(x):
    model = two_layers()
    model.layers[1].kernel.assign(np.full((9, 6), np.nan))
    before = kernels(model)[0]
    with pytest.raises(InputError, match="finite"):
        model.fit(x, x, verbose=0, callbacks=[Cluster(2)])
    np.testing.assert_array_equal(kernels(model)[0], before)
    assert model.layers[0].kernel.constraint is None


def test_the_order_of_sharing_and_masks_in_the_list_does_not_matter(x):
    found = []
    for order in (1, -1):
        model = two_layers(keras.optimizers.SGD(0.1))
        callbacks = [Cluster(2, gradient="sum"), KeepSparse()][::order]
        model.fit(x, x, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks)
        found.append(model.get_weights())
        assert [layer.kernel.constraint.inner for layer in model.layers] == [None, None]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_fit_finds_the_same_values_again(x):
    model = two_layers(keras.optimizers.SGD(0.0))
    model.fit(x, x, verbose=0, callbacks=[Cluster(3)])
    before = kernels(model)
    model.fit(x, x, verbose=0, callbacks=[Cluster(3)])
    for old, new in zip(before, kernels(model), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)


def test_bits_by_pattern_leave_the_others_alone_and_say_so(x):
    model, sharing = two_layers(), Cluster({"hid*": 1})
    before = kernels(model)[1]
    model.fit(x, x, verbose=0, callbacks=[sharing])
    hidden, out = sharing.table.rows
    assert (hidden.path, hidden.bits, hidden.values, hidden.reason) == ("hidden/kernel", 1, 2, "")
    assert (out.bits, out.reason, out.change) == (None, "no bits", None)
    assert values_of(kernels(model)[1]).size > 20
    assert not np.array_equal(kernels(model)[1], before)
    assert "left alone: no bits" in str(sharing.table)


def test_it_goes_with_pruning_and_with_other_zeros_kept(x):
    model = two_layers(zeros=False)
    model.fit(x, x, epochs=5, batch_size=16, verbose=0, callbacks=[Prune(0.75)])
    masks = [kernel != 0 for kernel in kernels(model)]
    model.fit(x, x, verbose=0, callbacks=[KeepSparse(), Cluster(2)])
    for layer, mask in zip(model.layers, masks, strict=True):
        assert isinstance(layer.kernel.constraint, MaskConstraint)
        assert not layer.kernel.numpy()[~mask].any()
        assert values_of(layer.kernel.numpy()).size <= 4


def test_the_function_leaves_its_model_and_gains_by_training(x):
    model, many = two_layers("adam"), np.tile(x, (10, 1))  # many steps in few epochs take less time
    model.fit(many, many, epochs=4, verbose=0)
    before = model.get_weights()
    plain, table = cluster(model, 2)
    settings = {"learning_rate": 0.03, "gradient": "sum", "batch_size": 16, "progress": False}
    trained, _ = cluster(model, 2, data=many, epochs=2, **settings)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert [row.values for row in table.rows] == [4, 4]
    assert all(values_of(kernel).size <= 4 for kernel in kernels(trained))

    def error(other):
        return float(np.square(other.predict(x, verbose=0) - x).mean())

    assert error(trained) < 0.9 * error(plain)


def test_change_is_that_of_the_weights():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[3.0], [5.0]])])
    _, table = cluster(model, 1)
    assert table.rows[0].change == 0
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[3.0], [5.0], [-4.0]])])
    copy, table = cluster(model, 1)
    np.testing.assert_allclose(copy.get_weights()[0].ravel(), [4, 4, -4])
    assert table.rows[0].change == pytest.approx((2 / 50) ** 0.5)


def test_a_model_with_nothing_to_share_is_refused():
    with pytest.raises(InputError, match="nothing to share"):
        cluster(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]))


def test_a_model_whose_kernels_are_frozen_is_refused_with_the_reason_of_each():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="frozen")])
    model.get_layer("frozen").trainable = False
    with pytest.raises(InputError, match="nothing to share.*frozen"):
        cluster(model, 4)


def test_half_precision_and_a_scaled_loss_keep_the_values_shared(x):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, dtype="mixed_float16")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)), "mse")
    model.fit(x, x, epochs=2, verbose=0, callbacks=[Cluster(2, gradient="sum")])
    assert values_of(kernels(model)[0]).size == 4
