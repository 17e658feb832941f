import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune.sparsity import MaskConstraint, Pruner, release, sparsity_table


def model():
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, name="a"), layers.Dense(5, name="b")])


def test_the_constraint_zeroes_what_the_mask_says_and_keeps_no_negative_zero():
    mask = keras.Variable(np.array([True, False, False]), dtype="bool", trainable=False)
    out = np.asarray(MaskConstraint(mask)(keras.ops.convert_to_tensor([-1.0, -2.0, np.nan])))
    np.testing.assert_array_equal(out, [-1.0, 0.0, 0.0])
    assert not np.signbit(out[1:]).any()


def test_the_constraint_follows_the_one_the_user_had():
    mask = keras.Variable(np.array([True, False]), dtype="bool", trainable=False)
    out = MaskConstraint(mask, keras.constraints.NonNeg())(keras.ops.convert_to_tensor([-1.0, 2.0]))
    np.testing.assert_array_equal(np.asarray(out), [0.0, 0.0])


def test_update_zeroes_the_smallest_weights_and_restored_brings_the_zeros_back():
    net = model()
    before = net.get_layer("a").kernel.numpy()
    pruner = Pruner(net)
    pruner.update(0.5)
    after = net.get_layer("a").kernel.numpy()
    assert (after == 0).sum() == 24
    assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    assert pruner.sparsity() == pytest.approx((24 + 20) / 88)
    net.get_layer("a").kernel.assign(before)
    pruner.restored()
    np.testing.assert_array_equal(net.get_layer("a").kernel.numpy(), after)


def test_a_kernel_of_zeros_only_is_not_taken_for_pruned():
    net = model()
    net.get_layer("a").kernel.assign(np.zeros((6, 8)))
    pruner = Pruner(net)
    assert [target.floor for target in pruner.targets] == [0, 0]
    assert pruner.targets[0].mask.all()


def test_random_criterion_prunes_as_many_but_other_weights():
    one, other = model(), model()
    Pruner(one).update(0.5)
    Pruner(other, criterion="random").update(0.5)
    a, b = (net.get_layer("a").kernel.numpy() == 0 for net in (one, other))
    assert a.sum() == b.sum() == 24
    assert (a != b).any()


def test_a_second_pruner_takes_the_first_ones_place():
    net = model()
    Pruner(net).update(0.5)
    Pruner(net).update(0.75)
    kernel = net.get_layer("a").kernel
    assert kernel.constraint.inner is None
    assert (kernel.numpy() == 0).sum() == 36
    assert release(net) == 2
    assert kernel.constraint is None


def test_the_table_of_a_pruner_is_the_models_table():
    net = model()
    pruner = Pruner(net, exclude="b")
    pruner.update(0.25)
    table = pruner.table()
    assert table.to_dict() == sparsity_table(net).to_dict()
    assert table["a/kernel"].asked == 0.25
    assert table["b/kernel"].reason == "excluded"
