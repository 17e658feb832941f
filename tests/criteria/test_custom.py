import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import sparsity
from keras_aeprune._validation import InputError
from keras_aeprune.criteria import base
from keras_aeprune.criteria.custom import register
from keras_aeprune.criteria.scoring import scores

X = np.random.default_rng(0).random((32, 4), "float32")


@pytest.fixture(autouse=True)
def _own_names_go_away():
    before = dict(base._registry._members)
    yield
    base._registry._members.clear()
    base._registry._members.update(before)


def model():
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((4,)), kl.Dense(4, name="a"), kl.Dense(4, name="b")])
    net.compile("sgd", "mse")
    return net


def test_a_function_of_kernel_and_path_prunes_by_its_name():
    paths = []

    @register("largest_first")
    def largest_first(kernel, path):
        """Backwards."""
        paths.append(path)
        return -np.abs(kernel)

    net = model()
    before = np.abs(net.get_layer("a").kernel.numpy())
    net.fit(X, X, epochs=2, verbose=0, batch_size=32, callbacks=[sparsity.Prune(0.5, criterion="largest_first")])
    zero = net.get_layer("a").kernel.numpy() == 0
    assert zero.sum() == 8
    assert before[zero].min() > before[~zero].max() - 0.1
    assert set(paths) == {"a/kernel", "b/kernel"}
    assert base._registry._members["largest_first"].__doc__ == "Backwards."


def test_a_function_of_everything_seen_gets_model_data_and_loss():
    @register("by_input", needs="activations")
    def by_input(seen):
        assert seen.loss == "mae"
        size = np.abs(seen.data.x).mean(axis=0)
        return [np.abs(k) * size[:, None] for k in seen.kernels]

    net = model()
    expected = np.abs(net.get_layer("b").kernel) * np.abs(X).mean(axis=0)[:, None]
    np.testing.assert_allclose(scores(net, "by_input", X, loss="mae")["b/kernel"], expected, rtol=1e-6)
    with pytest.raises(InputError, match="data: got None"):
        sparsity.Pruner(net, criterion="by_input")
    with pytest.raises(InputError, match="looks at a whole model"):
        sparsity.prune_low_magnitude(net, criterion="by_input")


def test_a_function_without_data_may_look_at_all_kernels():
    @register("last_layer_stays")
    def last_layer_stays(seen):
        return [np.full(k.shape, float(i)) for i, k in enumerate(seen.kernels)]

    assert scores(model(), "last_layer_stays")["b/kernel"].max() == 1


def test_a_function_comes_back_from_its_serialized_form():
    register("plain")(lambda kernel, path: kernel)
    member = base.get("plain")
    config = base.serialize(member)
    assert config == {"class_name": "plain", "config": {}}
    assert type(base.get(config)) is type(member)


def test_a_class_is_registered_as_it_always_was():
    @register("own_class")
    class Own(base.Criterion):
        def __init__(self, power=2):
            self.power = power

        def scores(self, kernel, path):
            return np.abs(kernel) ** self.power

    assert base.get("own_class").power == 2
    assert base.serialize(Own(3)) == {"class_name": "own_class", "config": {"power": 3}}
    with pytest.raises(InputError, match="needs: got 'gradients', allowed: for a class none"):
        register("other", needs="gradients")(Own)


def test_a_name_that_is_taken_is_refused_and_the_same_cell_may_run_twice():
    with pytest.raises(InputError, match="criterion 'magnitude' is already registered"):
        register("magnitude")(lambda kernel, path: kernel)

    def cell(sign):
        @register("mine")
        def mine(kernel, path):
            return sign * kernel

        return mine

    cell(1)
    cell(-1)
    assert base.get("mine").scores(np.ones((1, 1), "float32"), "a").item() == -1
    with pytest.raises(InputError, match="criterion 'mine' is already registered"):

        @register("mine")
        def other(kernel, path):
            return kernel


@pytest.mark.parametrize("wrong", [3, "text", int, lambda: 1, lambda a, b, c: 1, lambda kernel, *, scale: 1])
def test_what_is_no_criterion_is_refused(wrong):
    with pytest.raises(InputError, match=r"criterion 'wrong': got .* allowed: a Criterion class, a function"):
        register("wrong")(wrong)
    assert "wrong" not in base.names()


def test_a_function_of_one_kernel_cannot_need_data():
    with pytest.raises(InputError, match=r"needs='gradients' with f\(kernel, path\), allowed: f\(seen\)"):
        register("wrong", needs="gradients")(lambda kernel, path: kernel)


def test_an_optional_argument_does_not_change_the_form():
    register("scaled")(lambda kernel, path, scale=2: scale * kernel)
    assert base.get("scaled").scores(np.ones((1, 1), "float32"), "a").item() == 2


def test_a_result_that_breaks_the_law_names_criterion_and_kernel():
    register("short")(lambda kernel, path: kernel[:1])
    register("holed")(lambda kernel, path: np.log(kernel * 0 - 1))
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=r"16 for a/kernel from .*divides by 0"):
        sparsity.Pruner(model(), criterion="holed").update(0.5)
    with pytest.raises(InputError, match=r"scores of shape \(1, 4\) for a/kernel, allowed: \(4, 4\)"):
        scores(model(), "short")
