"""Every kind of layer: what is cut out of it, or of those around it, is as if it had been zero."""

import keras
import pytest
from keras import layers as kl

RNN = {
    "lstm": kl.LSTM,
    "gru": kl.GRU,
    "gru_reset_before": lambda units, **options: kl.GRU(units, reset_after=False, **options),
    "simple": kl.SimpleRNN,
}
CONVOLUTIONS = {1: kl.Conv1D, 2: kl.Conv2D, 3: kl.Conv3D}
DEPTHWISE = {1: (kl.DepthwiseConv1D, kl.SeparableConv1D), 2: (kl.DepthwiseConv2D, kl.SeparableConv2D)}
TRANSPOSED = {1: kl.Conv1DTranspose, 2: kl.Conv2DTranspose, 3: kl.Conv3DTranspose}


def kinds():
    """(name, shape of one sample, layers, {group: units that can go})."""
    yield "dense", (6,), [kl.Dense(8, "relu", name="k"), kl.Dense(3)], {"k": 8}
    yield "dense_without_bias", (6,), [kl.Dense(8, "gelu", use_bias=False, name="k"), kl.Dense(3)], {"k": 8}
    yield "dense_on_sequences", (5, 6), [kl.Dense(8, "tanh", name="k"), kl.Dense(3)], {"k": 8}
    for rank, conv in CONVOLUTIONS.items():
        shape = (7,) * rank + (2,)
        for name, options in {
            "strides_same": {"strides": 2, "padding": "same", "activation": "relu"},
            "strides_valid": {"strides": 2},
            "dilated": {"dilation_rate": 2, "use_bias": False},
        }.items():
            yield f"conv{rank}_{name}", shape, [conv(6, 3, name="k", **options), conv(3, 1)], {"k": 6}
        up = TRANSPOSED[rank]
        for name, options in {
            "same": {"strides": 2, "padding": "same", "activation": "relu"},
            "valid": {"strides": 3, "padding": "valid", "output_padding": 1, "use_bias": False},
        }.items():
            layers = [conv(4, 3, name="a"), up(6, 4, name="k", **options), up(2, 2)]
            yield f"transposed{rank}_{name}", shape, layers, {"a": 4, "k": 6}
        pools = {1: kl.GlobalAveragePooling1D, 2: kl.GlobalAveragePooling2D, 3: kl.GlobalAveragePooling3D}
        tops = {1: kl.GlobalMaxPooling1D, 2: kl.GlobalMaxPooling2D, 3: kl.GlobalMaxPooling3D}
        yield f"average_of_all{rank}", shape, [conv(6, 3, name="k"), pools[rank](), kl.Dense(3)], {"k": 6}
        layers = [conv(6, 3, name="k"), tops[rank](keepdims=True), conv(4, 1, name="b"), kl.Flatten(), kl.Dense(3)]
        yield f"largest_of_all{rank}", shape, layers, {"k": 6, "b": 4}
        ups = {1: kl.UpSampling1D, 2: kl.UpSampling2D, 3: kl.UpSampling3D}
        pads = {1: kl.ZeroPadding1D, 2: kl.ZeroPadding2D, 3: kl.ZeroPadding3D}
        crops = {1: kl.Cropping1D, 2: kl.Cropping2D, 3: kl.Cropping3D}
        maxima = {1: kl.MaxPooling1D, 2: kl.MaxPooling2D, 3: kl.MaxPooling3D}
        means = {1: kl.AveragePooling1D, 2: kl.AveragePooling2D, 3: kl.AveragePooling3D}
        layers = [
            conv(6, 3, name="k"),
            maxima[rank](2),
            ups[rank](3),
            pads[rank](1),
            crops[rank](2),
            means[rank](2),
        ]
        yield f"sizes{rank}", shape, [*layers, conv(3, 2)], {"k": 6}
        if rank == 3:
            continue  # nothing in what follows is another layer for volumes
        layers = [conv(6, 3, name="k"), kl.Flatten(), kl.Dense(3)]
        yield f"flatten{rank}", shape, layers, {"k": 6}
        layers = [kl.Dense(4**rank * 5, name="k"), kl.Reshape((4,) * rank + (5,)), conv(3, 2)]
        yield f"reshape_up{rank}", (6,), layers, {"k": 5}
        layers = [conv(6, 3, name="k"), kl.BatchNormalization(), conv(3, 1)]
        yield f"batch_normalization{rank}", shape, layers, {"k": 6}
        layers = [conv(6, 3, name="k"), kl.PReLU(shared_axes=list(range(1, rank + 1))), conv(3, 1)]
        yield f"prelu_shared{rank}", shape, layers, {"k": 6}
        yield f"prelu{rank}", shape, [conv(6, 3, name="k"), kl.PReLU(), conv(3, 1)], {"k": 6}
    yield "causal", (9, 2), [kl.Conv1D(6, 3, padding="causal", name="k"), kl.Dense(3)], {"k": 6}
    for times in (1, 2):
        for rank, (depthwise, separable) in DEPTHWISE.items():
            shape, conv = (8,) * rank + (2,), CONVOLUTIONS[rank]
            layer = depthwise(3, strides=2, padding="same", depth_multiplier=times, activation="relu")
            yield f"depthwise{rank}_{times}", shape, [conv(6, 3, name="k"), layer, conv(3, 1)], {"k": 6}
            layer = separable(4, 3, padding="same", depth_multiplier=times, activation="relu", name="s")
            yield f"separable{rank}_{times}", shape, [conv(6, 3, name="k"), layer, conv(3, 1)], {"k": 6, "s": 4}
    for name, layer in {
        "bare": kl.BatchNormalization(center=False, scale=False),
        "axis_named": kl.BatchNormalization(axis=2),
    }.items():
        yield f"batch_normalization_{name}", (5, 6), [kl.Dense(8, name="k"), layer, kl.Dense(3)], {"k": 8}
    layers = [kl.Conv2D(6, 3, name="k"), kl.Reshape((-1, 6)), kl.Dense(4, name="d"), kl.Reshape((36, 2, 2))]
    yield "reshape_keeps_channels", (8, 8, 2), [*layers, kl.Flatten(), kl.Dense(3)], {"k": 6, "d": 2}
    layers = [kl.Conv2D(6, 3, name="k"), kl.Reshape((-1,)), kl.Dense(3)]
    yield "reshape_down", (6, 5, 2), layers, {"k": 6}
    layers = [kl.Conv2D(6, 3, name="k"), kl.Permute((2, 1, 3)), kl.Conv2D(3, (2, 1))]
    yield "permute_positions", (7, 5, 2), layers, {"k": 6}
    layers = [kl.Dense(24, name="k"), kl.Reshape((4, 6)), kl.Permute((2, 1)), kl.Conv1D(5, 2, name="c")]
    yield "permute_channels", (5,), [*layers, kl.Dense(3)], {"k": 1, "c": 5}  # a step is made of all of them
    for name, layer in {
        "rescaling": kl.Rescaling(0.5, offset=1.0),
        "dropout": kl.Dropout(0.5),
        "spatial_dropout": kl.SpatialDropout1D(0.5),
        "noise": kl.GaussianNoise(1.0),
        "activity": kl.ActivityRegularization(0.1),
        "leaky": kl.LeakyReLU(),
        "elu": kl.ELU(),
        "gelu": kl.Activation("gelu"),
        "sigmoid": kl.Activation("sigmoid"),  # of zero it is not zero
        "softmax_over_steps": kl.Softmax(axis=1),
        "identity": kl.Identity(),
    }.items():
        yield name, (5, 6), [kl.Dense(8, name="k"), layer, kl.Dense(3)], {"k": 8}
    yield "repeat", (6,), [kl.Dense(8, name="k"), kl.RepeatVector(4), kl.Conv1D(3, 2)], {"k": 8}
    for name, rnn in RNN.items():
        layers = [rnn(6, return_sequences=True, name="k"), rnn(4, go_backwards=True, name="l"), kl.Dense(3)]
        yield name, (5, 3), layers, {"k": 6, "l": 4}
        layers = [rnn(6, use_bias=False, unroll=True, recurrent_dropout=0.1, name="k"), kl.Dense(3)]
        yield f"{name}_unrolled", (5, 3), layers, {"k": 6}
        first = kl.Bidirectional(rnn(6, return_sequences=True), name="k")
        last = kl.Bidirectional(rnn(4), backward_layer=rnn(4, go_backwards=True), name="l")
        yield f"{name}_both_ways", (5, 3), [first, last, kl.Dense(3)], {"k/forward": 6, "l/forward": 4}
    for mode in ("sum", "mul", "ave"):
        layer = kl.Bidirectional(kl.GRU(6, return_sequences=True), merge_mode=mode, name="k")
        yield f"both_ways_{mode}", (5, 3), [layer, kl.LSTM(4, name="l"), kl.Dense(3)], {"k/forward": 6, "l": 4}
    images = (4, 6, 6, 2)
    each = kl.TimeDistributed
    layers = [each(kl.Dense(6, "relu"), name="k"), each(kl.Dense(4), name="l"), each(kl.Dense(3))]
    yield "each_step_dense", (5, 3), layers, {"k": 6, "l": 4}
    layers = [each(kl.Conv2D(6, 3, strides=2), name="k"), each(kl.BatchNormalization()), each(kl.ReLU())]
    layers += [each(kl.DepthwiseConv2D(2, depth_multiplier=2)), each(kl.Flatten()), kl.LSTM(4, name="l")]
    yield "each_step_images", images, [*layers, kl.Dense(3)], {"k": 6, "l": 4}


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind[0])
def test_cut_equals_masked(law, kind):
    name, shape, layers, sizes = kind
    like_another = name.endswith(("_same", "_valid")) and "2" not in name  # a file of it was read before
    proof = law(keras.Sequential([keras.Input(shape), *layers]), save=not like_another)
    assert proof.sizes == sizes
