import itertools

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.schedules import ConstantSparsity, DenseSparseDense
from keras_aeprune.sparsity import Prune, release, sparsity_table
from keras_aeprune.sparsity.regrowth import SET, RigL, exchange, get

RNG = np.random.default_rng(0)
X = RNG.random((96, 16), "float32")


def model(seed=0):
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [keras.Input((16,)), layers.Dense(12, activation="relu", name="a"), layers.Dense(16, name="b")]
    )
    net.compile("adam", "mse")
    return net


def slow_exchange(kernel, mask, count, growth):
    """One weight after the other."""
    mask = mask.copy()
    for _ in range(count):
        kept = [i for i in np.ndindex(mask.shape) if mask[i]]
        mask[min(reversed(kept), key=lambda i: abs(kernel[i]))] = False  # of equals, the later one goes
    candidates = [i for i in np.ndindex(mask.shape) if not mask[i]]
    for i in sorted(candidates, key=lambda i: -growth[i])[:count]:
        mask[i] = True
    return mask


@pytest.mark.parametrize("seed", range(6))
def test_exchange_drops_the_smallest_and_grows_the_best_in_exact_numbers(seed):
    rng = np.random.default_rng(seed)
    kernel = rng.integers(1, 6, (5, 6)).astype("float32")
    mask = rng.random((5, 6)) < 0.5
    growth = rng.random((5, 6))
    count = int(mask.sum() // 3)
    new = exchange(kernel, mask, count, growth)
    assert new.sum() == mask.sum()
    np.testing.assert_array_equal(new, slow_exchange(kernel, mask, count, growth))


def test_rigl_fractions_at_five_points():
    rigl = RigL(X, fraction=0.3, until=0.75)
    shares = [rigl.count(1_000_000, round(p * 75_000), 100_000) / 1e6 for p in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(shares, [0.3, 0.256066, 0.15, 0.043934, 0], atol=2e-6)
    assert rigl.due(699, 700, 1000)
    assert not rigl.due(799, 800, 1000)


@pytest.mark.parametrize("regrowth", [SET(0.3, frequency=3, seed=1), RigL(X, frequency=3)], ids=["set", "rigl"])
def test_the_sparsity_stays_while_the_places_change(regrowth):
    net, seen = model(), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_layer("a").kernel.constraint.mask.numpy())

    net.fit(
        X,
        X,
        epochs=4,
        batch_size=16,
        verbose=0,
        callbacks=[Watch(), Prune(ConstantSparsity(0.75, 0), regrowth=regrowth)],
    )
    assert {int(mask.sum()) for mask in seen} == {48}
    assert any((a != b).any() for a, b in itertools.pairwise(seen))
    assert all(row.zeros >= 144 for row in sparsity_table(net).rows)


def test_grown_weights_start_at_zero_and_then_train():
    net = model()
    prune = Prune(ConstantSparsity(0.75, 0), regrowth=SET(0.3, frequency=5))
    net.fit(X, X, epochs=1, batch_size=16, verbose=0, callbacks=[prune])  # 6 steps, one exchange after 5
    kernel = net.get_layer("a").kernel
    mask = kernel.constraint.mask.numpy()
    assert (kernel.numpy()[~mask] == 0).all()
    assert np.count_nonzero(kernel.numpy()[mask] == 0) < 14  # 14 were grown, and one step has moved most


def test_the_same_seed_grows_the_same_weights():
    def run(seed):
        net = model()
        rule = SET(0.3, frequency=3, seed=seed)
        net.fit(X, X, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=[Prune(0.75, regrowth=rule)])
        return net.get_layer("a").kernel.constraint.mask.numpy()

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()


def test_rigl_grows_where_the_gradient_is_largest():
    net = model()
    pruned = [net.get_layer(name).kernel for name in "ab"]
    [gradient, _] = RigL(X, batch_size=96).growth(net, pruned, ["a/kernel", "b/kernel"], step=3)
    kernel = net.get_layer("a").kernel
    before, eps = kernel.numpy(), 1e-2
    slow = np.zeros(4)
    for n, (i, j) in enumerate([(0, 0), (3, 5), (7, 2), (15, 11)]):
        moved = []
        for sign in (1, -1):
            changed = before.copy()
            changed[i, j] += sign * eps
            kernel.assign(changed)
            moved.append(float(net.evaluate(X, X, verbose=0)))
        slow[n] = abs(moved[0] - moved[1]) / (2 * eps)
    kernel.assign(before)
    fast = [gradient[0, 0], gradient[3, 5], gradient[7, 2], gradient[15, 11]]
    np.testing.assert_allclose(fast, slow, rtol=0.02, atol=2e-5)


def test_dense_sparse_dense_ends_dense():
    net = model()
    schedule = DenseSparseDense(0.5, 0, 20, frequency=5)
    net.fit(X, X, epochs=6, batch_size=16, verbose=0, callbacks=[Prune(schedule)])
    assert sum(row.zeros for row in sparsity_table(net).rows) < 20  # those behind dead units have no gradient


def test_a_fit_that_goes_on_needs_the_state_and_takes_it_up(tmp_path):
    rule = SET(0.3, frequency=4, seed=2)
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}

    def prune():
        return Prune(ConstantSparsity(0.75, 0), regrowth=rule, state=tmp_path / "state.npz")

    whole = model()
    whole.fit(X, X, epochs=4, **options, callbacks=[prune()])
    (tmp_path / "state.npz").unlink()
    part = model()
    part.fit(X, X, epochs=2, **options, callbacks=[prune()])
    part.save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras")
    with pytest.raises(InputError, match="state: got 'no file' for a fit that goes on at epoch 2"):
        loaded.fit(
            X, X, epochs=4, initial_epoch=2, **options, callbacks=[Prune(ConstantSparsity(0.75, 0), regrowth=rule)]
        )
    release(loaded)
    loaded.fit(X, X, epochs=4, initial_epoch=2, **options, callbacks=[prune()])
    for name in "ab":
        one, other = (net.get_layer(name).kernel for net in (whole, loaded))
        np.testing.assert_array_equal(one.constraint.mask.numpy(), other.constraint.mask.numpy())
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7)


def test_a_model_without_weights_cannot_go_on_with_regrowth():
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.only = layers.Dense(16)

        def call(self, inputs):
            return self.only(inputs)

    net = Late()
    net.compile("adam", "mse")
    prune = Prune(ConstantSparsity(0.75, 0), regrowth="set")
    with pytest.raises(InputError, match="got a model without weights for a fit that goes on at epoch 1"):
        net.fit(X, X, epochs=3, initial_epoch=1, verbose=0, callbacks=[prune])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SET(0.0),
        lambda: SET(1.0),
        lambda: SET(frequency=0),
        lambda: RigL(),
        lambda: RigL(X, until=0.0),
        lambda: get("rigle"),
        lambda: get("rigl"),
    ],
)
def test_bad_rules_are_refused(make):
    with pytest.raises(InputError, match="got .*, allowed: "):
        make()
