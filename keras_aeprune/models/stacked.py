"""Stacked autoencoders: tied weights, and training layer by layer before training all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_aeprune import _layers
from keras_aeprune._graph import is_graph, producers
from keras_aeprune._validation import InputError, fraction, keras_model, positive_int, positive_number, refuse
from keras_aeprune.models.denoising import Corruption
from keras_aeprune.models.dense import dense
from keras_aeprune.models.halves import decoder_of, encoder_of
from keras_aeprune.models.parts import activation_name, assemble

_CHUNK = 4096


@keras.saving.register_keras_serializable("keras_aeprune")
class DenseTranspose(keras.layers.Layer):
    """A dense layer whose kernel is the transpose of another dense layer's, with a bias of its own.

    Use it as the way back through a Dense layer: outputs = activation(inputs W' + b), where W is the kernel of
    the other layer. It starts with a kernel of its own; `tie` replaces that by the other layer's variable, so
    training, masks and assignments act on both.

    Args:
        units: width of the output, 1 or more: the width of the other layer's input.
        activation: Keras name of the activation.
        source: name of the Dense layer that a `TiedAutoencoder` ties this one to; "" for none.

    Raises:
        InputError: units, activation or source that are not allowed.

    >>> there = keras.layers.Dense(2)
    >>> there.build((None, 5))
    >>> back = DenseTranspose(5)
    >>> back.tie(there)
    >>> back.kernel is there.kernel, back(np.ones((1, 2))).shape
    (True, TensorShape([1, 5]))
    """

    def __init__(self, units: int, activation: str = "linear", *, source: str = "", **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(source, str):
            raise refuse("source", source, "the name of a Dense layer, or ''")
        self.units = positive_int("units", units)
        self.activation = keras.activations.get(activation_name("activation", activation))
        self.source = source
        self._activation_name = activation
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(self.units, input_shape[-1]), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.built = True

    def tie(self, layer: keras.layers.Dense) -> None:
        """Take the kernel of a built Dense layer in place of the present one.

        Args:
            layer: a Dense layer with kernel of shape (units of this layer, width of this layer's input).

        Raises:
            InputError: another kind of layer, one that is not built, another shape.
        """
        if not isinstance(layer, keras.layers.Dense) or not layer.built:
            raise InputError(f"layer: got {layer!r}, allowed: a keras.layers.Dense that is built")
        if not self.built:
            self.build((None, layer.units))
        kernel = layer._kernel
        if tuple(kernel.shape) != tuple(self.kernel.shape):
            raise InputError(
                f"layer: {layer.name!r} has a kernel of shape {tuple(kernel.shape)}, allowed: "
                f"{tuple(self.kernel.shape)}, the one that {self.name!r} transposes"
            )
        # the kernel first, as in `build`, so that the order of the weights is that of an untied layer
        for old in (self.kernel, self.bias):
            self._untrack_variable(old)
        self._tracker.unlock()
        for new in (kernel, self.bias):
            self._tracker.add_to_store("trainable_variables", new)
            self._post_track_variable(new)
        self.kernel = kernel
        self._tracker.lock()

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return self.activation(ops.add(ops.matmul(inputs, ops.transpose(self.kernel)), self.bias))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        own = {"units": self.units, "activation": self._activation_name, "source": self.source}
        return {**super().get_config(), **own}


# the kernel belongs to the Dense layer, which comes first in every walk; alone, the decoder has its own
_layers.register(DenseTranspose, _layers.Kernel("kernel", unit_axis=-2, input_axis=-1))


@keras.saving.register_keras_serializable("keras_aeprune")
class TiedAutoencoder(keras.Model):
    """A functional model decoder(encoder(x)) that ties every `DenseTranspose` of its decoder when it is made.

    Made by `stacked(..., tied=True)`. As loading, from_config and clone_model all make a model through its
    class, the tie is there again after each of them.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any):
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.encoder, self.decoder = encoder_of(self), decoder_of(self)
        for _, layer in _layers.walk(self.decoder):
            if isinstance(layer, DenseTranspose) and layer.source:
                layer.tie(self.encoder.get_layer(layer.source))


def stacked(
    input_shape: Sequence[int],
    encoding_dim: int,
    *,
    hidden_units: Sequence[int] | None = None,
    tied: bool = False,
    activation: str = "relu",
    output_activation: str = "sigmoid",
    name: str = "stacked_autoencoder",
) -> keras.Model:
    """A dense autoencoder to be trained layer by layer, with tied weights if wanted, uncompiled.

    Use it with `pretrain` where a deep model does not start to learn, and with tied=True for half the weights:
    each layer of the decoder then uses the transposed kernel of its mirror in the encoder, and has its own
    bias. Pruning sets a tied kernel's weights to zero in both halves. The halves can be saved alone; the
    decoder's file then holds the kernels. A model of one's own that is made of the two halves trains tied, but
    loses the tie when it is saved and loaded: put this model in it as a whole.

    Args:
        input_shape: shape of one sample without the batch axis; several axes are flattened at the entrance.
        encoding_dim: width of the code, from 1 to the number of values in a sample minus 1.
        hidden_units: units of the encoder's hidden layers from the input on; the decoder mirrors them. None
            takes those of `default_sizes`.
        tied: whether the decoder uses the encoder's kernels.
        activation: Keras name of the hidden layers' activation; the code is linear.
        output_activation: Keras name of the last layer's activation: "sigmoid" for data in [0, 1], "linear"
            for other data.
        name: name of the model.

    Returns:
        A keras.Model with the attributes `encoder` and `decoder`, and the layer names of `dense`. Untied it is
        a model of `dense`. Tied, a saved file needs this package to load; `for_inference` gives a copy that
        does not.

    Raises:
        InputError: what `dense` refuses, or a `tied` that is not True or False.

    >>> stacked((784,), 32, hidden_units=(128, 64)).count_params()
    222384
    >>> stacked((784,), 32, hidden_units=(128, 64), tied=True).count_params()   # 784*128 + 128*64 + 64*32 + biases
    111792
    """
    if not isinstance(tied, bool):
        raise refuse("tied", tied, "True or False")
    model = dense(
        input_shape,
        encoding_dim,
        hidden_units=hidden_units,
        activation=activation,
        output_activation=output_activation,
        name=name,
    )
    if not tied:
        return model
    entrance = keras.Input((encoding_dim,), name="code")
    x = entrance
    sources = [layer for layer in model.encoder.layers if isinstance(layer, keras.layers.Dense)]
    for layer, source in zip(_dense_layers(model.decoder), reversed(sources), strict=True):
        function = output_activation if layer.name == "output" else activation
        x = DenseTranspose(layer.units, function, source=source.name, name=layer.name)(x)
    shape = model.decoder.output_shape[1:]
    if len(shape) > 1:
        x = keras.layers.Reshape(shape, name="reshape")(x)
    whole = assemble(model.encoder, keras.Model(entrance, x, name="decoder"), name)
    return TiedAutoencoder(whole.input, whole.output, name=name)


def pretrain(
    model: keras.Model,
    x: np.ndarray,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    noise: float = 0.0,
    verbose: int = 0,
) -> list[list[float]]:
    """Train a dense autoencoder layer by layer, from the input on; then train it as a whole with `fit`.

    Use it where a deep model does not start to learn, or learns little, from random weights. Stage i trains a
    shallow autoencoder h -> layer i of the encoder -> its mirror in the decoder -> h, with mean squared error
    and Adam, where h is x for the first stage and then what the layers before, now trained, make of x. All
    start from the weights in the model; masks of pruned weights hold. Bengio et al., "Greedy layer-wise
    training of deep networks" (NeurIPS 2006).

    Each layer keeps its own activation and its activity penalty, with one exception: a mirror inside the
    decoder whose activation is flat below 0 (relu, relu6) trains without it, so that none of its units is lost
    for good. The model puts it behind again, and it only brings outputs nearer to an h that such a layer made.

    The results are written into the model after the last stage. How it is compiled, the state of its optimizer
    and its noise layers are not touched and play no part.

    Args:
        model: of `dense` (without batch normalization), `stacked`, `sparse`, or `denoising` with a dense base.
        x: samples of the model's input shape, 1 or more, finite numbers.
        epochs: passes over the data in each stage, 1 or more.
        batch_size: samples in one step, 1 or more.
        learning_rate: of Adam, > 0.
        noise: expected fraction of each stage's inputs that are set to 0 while it trains, 0 <= noise < 1, as in
            stacked denoising autoencoders (Vincent et al. 2010).
        verbose: 0 prints nothing, 1 a progress bar, 2 a line for each epoch.

    Returns:
        For each layer of the encoder the training loss of each epoch.

    Raises:
        InputError: a model that is no mirrored dense autoencoder (with the layer), data of another shape,
            values that are not finite, losses or weights that are not (the model is then as it was).

    >>> keras.utils.set_random_seed(0)
    >>> ae = stacked((6,), 2, hidden_units=(4,), tied=True)
    >>> losses = pretrain(ae, np.random.default_rng(0).random((32, 6)), epochs=2)
    >>> [len(stage) for stage in losses]   # the hidden layer and the code, 2 epochs each
    [2, 2]
    """
    pairs = _mirrored(model)
    epochs, batch_size = positive_int("epochs", epochs), positive_int("batch_size", batch_size)
    learning_rate, noise = positive_number("learning_rate", learning_rate), fraction("noise", noise)
    if isinstance(verbose, bool) or verbose not in (0, 1, 2):
        raise refuse("verbose", verbose, "0, 1 or 2")
    h = _samples(x, encoder_of(model).input_shape[1:])
    losses: list[list[float]] = []
    results: list[tuple[keras.Variable, np.ndarray]] = []
    for number, (there, back) in enumerate(pairs, start=1):
        stage = _Stage(there, back, noise, outermost=number == 1)
        stage.model.compile(keras.optimizers.Adam(learning_rate), "mse")
        history = stage.model.fit(h, h, epochs=epochs, batch_size=batch_size, verbose=verbose)
        losses.append([float(loss) for loss in history.history["loss"]])
        values = stage.results()
        # the last step can spoil the weights after the last loss was taken
        if not (np.isfinite(losses[-1]).all() and all(np.isfinite(value).all() for _, value in values)):
            raise InputError(
                f"learning_rate: training layer {number} ({there.name!r}) with {learning_rate} ended in NaN or "
                "infinite values, allowed: a rate and first weights with which they stay finite; try a tenth of it"
            )
        results += values
        if number < len(pairs):
            chunks = [stage.there(h[start : start + _CHUNK]) for start in range(0, len(h), _CHUNK)]
            h = np.concatenate([ops.convert_to_numpy(chunk) for chunk in chunks])
    for variable, value in results:
        variable.assign(value)
    return losses


class _Stage:
    """A shallow autoencoder of copies of one layer and its mirror."""

    def __init__(self, there: keras.Layer, back: keras.Layer, noise: float, outermost: bool):
        self.pairs: list[tuple[keras.Variable, keras.Variable]] = []
        inputs = keras.Input((there._kernel.shape[0],))
        x = Corruption("masking", noise)(inputs) if noise else inputs
        self.there, copy = self._copy(there, "there"), self._copy(back, "back")
        if not outermost and back.activation in (keras.activations.relu, keras.activations.relu6):
            copy.activation = keras.activations.linear
        self.model = keras.Model(inputs, copy(self.there(x)))
        if isinstance(back, DenseTranspose) and back.kernel is there._kernel:
            copy.tie(self.there)
        for old_layer, new_layer in ((there, self.there), (back, copy)):
            for old, new in zip(old_layer.weights, new_layer.weights, strict=True):
                new.assign(old)
                new.constraint = old.constraint  # masks live there, not in the config
                self.pairs.append((old, new))

    @staticmethod
    def _copy(layer: keras.Layer, name: str) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "name": name})

    def results(self) -> list[tuple[keras.Variable, np.ndarray]]:
        return [(old, ops.convert_to_numpy(new)) for old, new in self.pairs]


def _mirrored(model: keras.Model) -> list[tuple[keras.Layer, keras.Layer]]:
    """(layer of the encoder, its mirror in the decoder), from the input on; or the reason why there is none."""
    encoder, decoder = encoder_of(keras_model(model)), decoder_of(model)
    for layer in model.layers:
        if layer is not encoder and layer is not decoder and not isinstance(layer, _ENTRANCE):
            raise _not_dense(layer, "outside of encoder and decoder, allowed there: noise only")
    there, back = _dense_layers(encoder), _dense_layers(decoder)[::-1]
    pairs = list(zip(there, back, strict=False))
    fits = len(there) == len(back) > 0 and all(_kernel_shape(a) == _kernel_shape(b)[::-1] for a, b in pairs)
    if not fits:
        raise InputError(
            f"model: got an encoder with kernels {[_kernel_shape(layer) for layer in there]} and a decoder with "
            f"{[_kernel_shape(layer) for layer in back[::-1]]}, allowed: a decoder that mirrors the encoder"
        )
    return pairs


def _dense_layers(half: keras.Model) -> list[keras.Layer]:
    """The dense layers of a half from its input on; the half is one chain of them."""
    if not is_graph(half):
        raise _not_dense(half, "whose layers are Python code, allowed: functional models")
    found, before = [], None
    for layer in half.layers:
        if not isinstance(layer, _CHAIN):
            raise _not_dense(layer, f"in {half.name!r}, allowed there: Dense, Flatten and Reshape")
        if before is not None and producers(half, layer) != [before]:
            raise _not_dense(layer, f"in {half.name!r} beside others, allowed: one chain of layers")
        if isinstance(layer, keras.layers.Dense | DenseTranspose):
            found.append(layer)
        before = layer
    return found


def _not_dense(layer: keras.Layer, where: str) -> InputError:
    return InputError(
        f"model: got {layer.name!r} ({type(layer).__name__}) {where}; pretrain takes models of dense, stacked "
        "and sparse, and of denoising with a dense base; train others with fit"
    )


def _kernel_shape(layer: keras.Layer) -> tuple[int, ...]:
    if isinstance(layer, DenseTranspose):
        return tuple(layer.kernel.shape)[::-1]
    return tuple(layer._kernel.shape)


def _samples(x: Any, shape: Sequence[int]) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind not in "biuf" or x.shape[1:] != tuple(shape) or not len(x):
        raise refuse("x", f"{x.dtype} array of shape {x.shape}", f"1 or more samples, shape (samples, {shape})")
    flat = x.reshape(len(x), -1).astype("float32", copy=False)
    if not np.isfinite(flat).all():
        raise InputError("x: got NaN or infinite values, allowed: finite numbers; drop or fill them")
    return flat


_CHAIN = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dense,
    DenseTranspose,
)
_ENTRANCE = (
    keras.layers.InputLayer,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    Corruption,
)
