"""A teacher's share in the loss: its size, what it reaches, and what stays as it was."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.compression.distillation import distill
from keras_aeprune.sparsity import Prune

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(seed, activation=None, **compiled):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation, name="out")])
    model.layers[0].bias.assign([0.5, -0.5, 1.0, 0.0])
    if compiled:
        model.compile(**compiled)
    return model


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(32, 5)).astype("float32"), generator.integers(0, 4, 32)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def still():
    """No step, so that the loss of one batch is that of the given weights."""
    return keras.optimizers.SGD(0.0)


def expected(student, teacher, data, alpha, temperature):
    x, y = data
    kernel, bias = student.get_weights()
    z = x @ kernel + bias
    kernel, bias = teacher.get_weights()
    u = x @ kernel + bias
    own = -np.log(softmax(z)[np.arange(len(y)), y]).mean()
    p, q = softmax(u / temperature), softmax(z / temperature)
    return (1 - alpha) * own + alpha * temperature**2 * (p * np.log(p / q)).sum(1).mean()


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.7, 4.0), (1.0, 2.5)])
def test_the_loss_is_the_formula(data, alpha, temperature):
    student, teacher = classifier(1, optimizer=still(), loss=LOGITS), classifier(2)
    settings = {"alpha": alpha, "temperature": temperature, "epochs": 1, "progress": False}
    history = distill(student, teacher, data, **settings)
    assert history["loss"][0] == pytest.approx(expected(student, teacher, data, alpha, temperature), rel=1e-5)


def test_probabilities_give_the_same_loss_as_their_logits(data):
    loss = "sparse_categorical_crossentropy"
    student, teacher = classifier(1, "softmax", optimizer=still(), loss=loss), classifier(2, "softmax")
    history = distill(student, teacher, data, alpha=0.7, temperature=3.0, epochs=1, progress=False)
    assert history["loss"][0] == pytest.approx(expected(student, teacher, data, 0.7, 3.0), rel=1e-4)


def test_outputs_that_are_no_classes_are_compared_by_their_squares(data):
    x = data[0]
    student, teacher = classifier(1, optimizer=still(), loss="mse"), classifier(2)
    y = np.zeros((32, 4), "float32")
    history = distill(student, teacher, (x, y), alpha=0.25, epochs=1, progress=False)
    z, u = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    assert history["loss"][0] == pytest.approx(
        0.75 * np.square(z).mean() + 0.25 * np.square(z - u).mean(), rel=1e-5
    )


def test_penalties_count_and_validation_is_the_students_own_loss(data):
    student, teacher = classifier(1), classifier(2)
    student.layers[0].kernel.regularizer = keras.regularizers.L2(1.0)
    student.compile(still(), LOGITS)
    history = distill(
        student, teacher, data, alpha=0.5, temperature=1.0, epochs=1, validation=data, progress=False
    )
    penalty = float(np.square(student.get_weights()[0]).sum())
    assert history["loss"][0] == pytest.approx(
        expected(student, teacher, data, 0.5, 1.0) + 0.5 * penalty, rel=1e-4
    )
    assert history["val_loss"][0] == pytest.approx(expected(student, teacher, data, 0.0, 1.0) + penalty, rel=1e-4)


def test_the_student_comes_to_give_what_the_teacher_gives(data):
    student, teacher = classifier(1, optimizer=keras.optimizers.Adam(0.05), loss=LOGITS), classifier(2)
    teacher.trainable = True
    before = teacher.get_weights()
    many = tuple(np.concatenate([part] * 25) for part in data)  # 200 steps in few epochs take less time
    distill(student, teacher, many, alpha=1.0, temperature=2.0, epochs=8, batch_size=32, progress=False)
    given, wanted = (softmax(model.predict(data[0], verbose=0)) for model in (student, teacher))
    np.testing.assert_allclose(given, wanted, atol=0.02)
    assert teacher.trainable and teacher.layers[0].trainable
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_later_fit_has_no_teacher(data):
    student, teacher = classifier(1, optimizer=still(), loss=LOGITS), classifier(2)
    distill(student, teacher, data, alpha=1.0, epochs=1, progress=False)
    history = student.fit(*data, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected(student, teacher, data, 0.0, 1.0), rel=1e-5)
    assert "compute_loss" not in vars(student)


def test_pruning_goes_on_inside(data):
    student, teacher = classifier(1, optimizer="adam", loss=LOGITS), classifier(2)
    distill(student, teacher, data, epochs=5, batch_size=8, callbacks=[Prune(0.75)], progress=False)
    assert (student.layers[0].kernel.numpy() == 0).mean() == 0.75


def test_batches_are_taken_as_they_come(data):
    import tensorflow as tf

    student, teacher = classifier(1, optimizer=still(), loss=LOGITS), classifier(2)
    batches = tf.data.Dataset.from_tensor_slices(data).batch(32)
    history = distill(student, teacher, batches, alpha=0.5, temperature=2.0, epochs=1, progress=False)
    assert history["loss"][0] == pytest.approx(expected(student, teacher, data, 0.5, 2.0), rel=1e-5)
    with pytest.raises(InputError, match="endless"):
        distill(student, teacher, batches.repeat(), progress=False)


def test_what_cannot_be_a_teacher_is_refused(data):
    student = classifier(1, optimizer=still(), loss=LOGITS)
    with pytest.raises(InputError, match="the student .* itself"):
        distill(student, student, data)
    with pytest.raises(InputError, match=r"outputs \(None, 3\)"):
        distill(student, keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), data)
    with pytest.raises(InputError, match="are probabilities"):
        distill(student, classifier(2, "softmax"), data)
    with pytest.raises(InputError, match="are no probabilities"):
        distill(student, classifier(2), data, match="probabilities")
    with pytest.raises(InputError, match="not compiled"):
        distill(classifier(1), classifier(2), data)
    with pytest.raises(InputError, match="auto, logits"):
        distill(student, classifier(2), data, match="softmax")


def test_a_train_step_that_hears_no_teacher_is_an_error(data):
    class Deaf(keras.Sequential):
        def train_step(self, batch):
            return {"loss": keras.ops.mean(self(batch[0]))}

    student = Deaf([keras.Input((5,)), keras.layers.Dense(4)])
    student.compile(still(), LOGITS)
    with pytest.raises(InputError, match="train_step does not call compute_loss"):
        distill(student, classifier(2), data, epochs=1, progress=False)
