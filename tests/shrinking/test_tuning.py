"""Statistics measured again, and training that goes back when it breaks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.shrinking.tuning import GuardedAdam, fine_tune
from keras_aeprune.shrinking.walking import Walk, reestimate_normalization


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(300, 6)).astype("float32")


def autoencoder(optimizer="sgd", loss="mse", **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), kl.Dense(4, "relu", name="code", **options), kl.Dense(6)])
    model.compile(optimizer, loss)
    return model


def test_a_walk_comes_to_the_outputs_of_the_model_through_nested_and_branching_parts(x):
    inner = keras.Sequential([keras.Input((6,)), kl.Dense(6, "relu"), kl.BatchNormalization()], name="inner")
    entrance = keras.Input((6,))
    middle = inner(entrance)
    last = kl.Dense(2, name="last")
    model = keras.Model(entrance, last(kl.Concatenate()([middle, inner(middle * 2) + entrance])))
    steps = {layer.name: batches for layer, batches in Walk(model, x, 128)}
    assert [len(batch) for batch in steps["last"]] == [128, 128, 44]
    np.testing.assert_allclose(last(np.concatenate(steps["last"])), model(x), rtol=1e-5, atol=1e-5)


def test_statistics_are_those_of_numpy_layer_after_layer(x):
    first, second = kl.BatchNormalization(name="first"), kl.BatchNormalization(name="second")
    dense = kl.Dense(5, "tanh")
    model = keras.Sequential([keras.Input((6,)), kl.Dense(4, name="a"), first, dense, second, kl.Dense(1)])
    shifted = x * 3 + 5
    assert reestimate_normalization(model, shifted, batch_size=128) == {"first": "", "second": ""}
    a = np.asarray(model.get_layer("a")(shifted), np.float64)
    np.testing.assert_allclose(first.moving_mean, a.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, a.var(axis=0), rtol=1e-5)
    normalized = (a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + first.epsilon)
    b = np.tanh(normalized @ dense.kernel.numpy() + dense.bias.numpy())
    np.testing.assert_allclose(second.moving_mean, b.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(second.moving_variance, b.var(axis=0), rtol=1e-4)


def test_statistics_of_images_another_axis_and_masked_steps():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 5, 4, 3)).astype("float32")
    for axis in (-1, 1):
        layer = kl.BatchNormalization(axis=axis)
        reestimate_normalization(keras.Sequential([keras.Input((5, 4, 3)), layer]), images, batch_size=16)
        rest = (0, 1, 2) if axis == -1 else (0, 2, 3)
        np.testing.assert_allclose(layer.moving_mean, images.mean(axis=rest), atol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, images.var(axis=rest), rtol=1e-5)
    steps = rng.normal(size=(40, 5, 3)).astype("float32")
    steps[:, 3:] = 0
    layer = kl.BatchNormalization()
    reestimate_normalization(keras.Sequential([keras.Input((5, 3)), kl.Masking(), layer]), steps)
    np.testing.assert_allclose(layer.moving_mean, steps[:, :3].mean(axis=(0, 1)), atol=1e-6)


def test_a_normalization_that_is_called_twice_is_left_and_listed(x):
    layer, entrance = kl.BatchNormalization(name="norm"), keras.Input((6,))
    model = keras.Model(entrance, layer(layer(entrance)))
    assert reestimate_normalization(model, x) == {"norm": "called 2 times"}
    assert not layer.moving_mean.numpy().any()


def test_fine_tuning_improves_and_puts_the_optimizer_back(x):
    model = autoencoder(keras.optimizers.SGD(0.5))
    optimizer = model.optimizer
    before = model.evaluate(x, x, verbose=0)
    tuned = fine_tune(model, x, epochs=4, learning_rate=0.01, batch_size=32, validation=x, progress=False)
    assert tuned.before == pytest.approx(before)
    assert tuned.best == pytest.approx(model.evaluate(x, x, verbose=0)) and tuned.best < 0.9 * before
    assert model.optimizer is optimizer and int(optimizer.iterations) == 0
    model.fit(x, x, epochs=1, batch_size=300, verbose=0)
    assert int(optimizer.iterations) == 1
    assert tuned.rollbacks == () and not tuned.gave_up and len(tuned.history["val_loss"]) == 4


def test_the_same_seed_gives_the_same_weights(x):
    found = []
    for seed in (1, 1, 2):
        model = autoencoder()
        fine_tune(model, x, epochs=1, seed=seed, progress=False)
        found.append(model.get_weights()[0])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_a_training_that_only_harms_ends_with_the_weights_it_began_with(x):
    model = autoencoder()
    start = model.get_weights()
    tuned = fine_tune(
        model, (x, -x), epochs=2, learning_rate=0.05, validation=(x, np.asarray(model(x))), progress=False
    )
    assert tuned.best_epoch == 0 and tuned.best == tuned.before == pytest.approx(0, abs=1e-9)
    assert all(np.array_equal(a, b) for a, b in zip(start, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("cosine", [1.0, 0.75, 0.25]), ("linear", [1.0, 2 / 3, 1 / 3]), ("constant", [1.0] * 3)],
)
def test_the_learning_rate_follows_its_schedule(schedule, rates, x):
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    fine_tune(
        autoencoder(),
        x,
        epochs=3,
        batch_size=300,
        learning_rate=0.1,
        schedule=schedule,
        callbacks=[Spy()],
        progress=False,
    )
    assert seen == pytest.approx([0.1 * rate for rate in rates])


def test_a_rate_that_explodes_is_halved_and_given_up_after_three(x, capsys):
    model = autoencoder()
    start = model.get_weights()
    tuned = fine_tune(model, x, epochs=8, learning_rate=1e6, clip=None, batch_size=16, schedule="constant")
    assert tuned.gave_up and len(tuned.rollbacks) == 3
    assert [text.split("x ")[-1] for text in tuned.rollbacks] == ["0.5", "0.25", "0.125"]
    assert all("gradient norm" in text for text in tuned.rollbacks)
    assert all(np.array_equal(a, b) for a, b in zip(start, model.get_weights(), strict=True))
    assert capsys.readouterr().err.count("back to the weights of epoch 0") == 3


def test_one_broken_loss_goes_back_once_and_training_goes_on(x):
    calls = tf.Variable(0)

    def loss(y, p):
        calls.assign_add(1)
        return tf.reduce_mean(tf.square(y - p), axis=-1) * tf.where(calls == 30, np.nan, 1.0)

    model = autoencoder(loss=loss)
    before = float(np.mean(np.square(np.asarray(model(x)) - x)))
    tuned = fine_tune(model, x, epochs=6, learning_rate=0.01, batch_size=16, progress=False)  # 19 steps an epoch
    assert tuned.rollbacks == (
        "gradient norm inf in epoch 2: back to the weights of epoch 1, learning rate x 0.5",
    )
    assert not tuned.gave_up and tuned.best_epoch == 6 and np.isfinite(tuned.history["loss"]).all()
    assert float(np.mean(np.square(np.asarray(model(x)) - x))) < 0.9 * before


def test_no_step_is_taken_by_an_exploded_gradient_nor_after_it():
    variable, optimizer = keras.Variable([1.0, 1.0]), GuardedAdam(0.1)
    for gradient in (3.0, 2.0, 3.0):
        optimizer.apply([tf.constant([gradient, 0.0])], [variable])
    optimizer.begin_anew()
    for gradient in (3.0, 2.0, 150.0):
        optimizer.apply([tf.constant([gradient, 0.0])], [variable])
    assert float(optimizer.refused) == -1.0
    optimizer.apply([tf.constant([400.0, 0.0])], [variable])
    assert float(optimizer.refused) == 400.0
    optimizer.apply([tf.constant([np.nan, 0.0])], [variable])
    assert float(optimizer.refused) == 400.0 and np.isfinite(variable.numpy()).all()
    optimizer.apply([tf.constant([3.0, 0.0])], [variable])
    assert int(optimizer.seen) == 3


def test_tiny_gradients_that_grow_are_no_explosion():
    variable, optimizer = keras.Variable([1.0]), GuardedAdam(0.1, global_clipnorm=1.0)
    for gradient in (1e-9, 1e-9, 0.5):
        optimizer.apply([tf.constant([gradient])], [variable])
    assert float(optimizer.refused) == -1.0


def test_the_loss_with_a_teacher_keeps_penalties_and_leaves_the_teacher_as_it_was(x):
    teacher = autoencoder()
    model = autoencoder(kernel_regularizer=keras.regularizers.L2(0.1))
    model.set_weights([w * 0.5 for w in teacher.get_weights()])
    weights, out = teacher.get_weights(), np.asarray(model(x))
    own = np.mean(np.square(out - x)) + 0.1 * np.square(model.get_layer("code").kernel.numpy()).sum()
    expected = 0.7 * own + 0.3 * np.mean(np.square(out - np.asarray(teacher(x))))
    loss = model.compute_loss
    tuned = fine_tune(
        model,
        x,
        epochs=1,
        batch_size=300,
        learning_rate=1e-9,
        teacher=teacher,
        distill=0.3,
        validation=x,
        progress=False,
    )
    assert tuned.history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert tuned.history["val_loss"][0] == pytest.approx(own, rel=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(weights, teacher.get_weights(), strict=True))
    assert teacher.trainable and all(layer.trainable for layer in teacher.layers)
    assert model.compute_loss == loss


def test_a_teacher_of_several_outputs_is_followed(x):
    def build():
        entrance = keras.Input((6,))
        model = keras.Model(entrance, {"a": kl.Dense(2, name="a")(entrance), "b": kl.Dense(3, name="b")(entrance)})
        model.compile("adam", "mse")
        return model

    model, teacher = build(), build()
    data = tf.data.Dataset.from_tensor_slices((x, {k: np.asarray(v) for k, v in teacher(x).items()})).batch(50)
    tuned = fine_tune(
        model, data, epochs=10, learning_rate=0.1, validation=data, teacher=teacher, distill=1.0, progress=False
    )
    assert tuned.best < 0.2 * tuned.before


def test_zeros_stay_where_it_is_asked(x):
    model = autoencoder()
    kernel = model.get_layer("code").kernel
    kernel.assign(np.where(np.random.default_rng(0).random((6, 4)) < 0.5, 0, kernel.numpy()))
    zeros, before = kernel.numpy() == 0, kernel.numpy()
    fine_tune(model, x, epochs=2, keep_zeros=True, progress=False)
    assert (kernel.numpy()[zeros] == 0).all() and not np.array_equal(kernel.numpy(), before)
    fine_tune(autoencoder(), x, epochs=1, progress=False)


def test_what_does_not_fit_is_refused(x):
    model = autoencoder()
    for arguments, message in (
        ({"epochs": 0}, "epochs: got 0"),
        ({"learning_rate": -1.0}, "learning_rate: got -1"),
        ({"schedule": "step"}, "schedule: got 'step', allowed: cosine, linear, constant"),
        ({"distill": 2.0}, "distill: got 2"),
        ({"clip": 0}, "clip: got 0"),
        ({"teacher": keras.Sequential([keras.Input((6,)), kl.Dense(5)])}, "teacher: got outputs"),
    ):
        with pytest.raises(InputError, match=message):
            fine_tune(model, x, progress=False, **arguments)
    with pytest.raises(InputError, match="not compiled"):
        fine_tune(keras.Sequential([keras.Input((6,)), kl.Dense(6)]), x)
    with pytest.raises(InputError, match="endless"):
        fine_tune(model, tf.data.Dataset.from_tensors((x, x)).repeat())


def test_a_teacher_that_a_train_step_would_ignore_is_refused(x):
    class Own(keras.Sequential):
        def train_step(self, data):
            return {"loss": tf.constant(0.0)}

    model = Own([keras.Input((6,)), kl.Dense(6)])
    model.compile("adam", "mse")
    with pytest.raises(InputError, match="does not call compute_loss"):
        fine_tune(model, x, epochs=1, teacher=autoencoder(), progress=False)
    assert type(model.optimizer) is keras.optimizers.Adam
