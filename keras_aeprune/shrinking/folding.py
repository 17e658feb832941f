"""Activations that training turns into straight lines; where activations are, and others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from keras_aeprune import _graph
from keras_aeprune._layers import fits, walk
from keras_aeprune._validation import InputError, keras_model, positive_number, refuse
from keras_aeprune.calibration import Calibration
from keras_aeprune.models.stacked import DenseTranspose
from keras_aeprune.shrinking.passing import activation as passing_activation
from keras_aeprune.shrinking.rebuild import Rebuilt, as_graph, compile_like
from keras_aeprune.shrinking.tracing import register

__all__ = ["FoldableActivation", "alphas", "fold", "prepare"]

_KINDS = {kl.LeakyReLU: "leaky_relu", kl.ELU: "elu", kl.PReLU: "prelu", kl.Softmax: "softmax"}
_NOT_NAMES = ("get", "serialize", "deserialize", "glu", "threshold")  # glu and threshold do or need more
RECTIFIERS = ("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hard_silu")
STANDING = (kl.Activation, kl.ReLU, *_KINDS)  # layers that are an activation and nothing else


@dataclass(frozen=True, eq=False)
class Site:
    """A layer with an activation; `holder` is what stands in the model for it, itself or a wrapper."""

    path: str
    layer: Any
    holder: Any
    name: str
    fixed: str = ""

    @property
    def standing(self) -> bool:
        """Whether the layer is an activation and nothing else."""
        return isinstance(self.layer, STANDING)


def name_of(function: Any) -> str:
    """The name of an activation: of a function, or of a layer that stands for one."""
    if function is None:
        return "linear"
    if type(function) is kl.Activation:
        return name_of(function.activation)
    if isinstance(function, kl.ReLU):
        slope, top, threshold = function.negative_slope, function.max_value, function.threshold
        usual = {(0, None, 0): "relu", (0, 6, 0): "relu6"}.get((slope, top, threshold))
        leaky = "leaky_relu" if top is None and threshold == 0 else None
        return usual or leaky or f"relu(max_value={top}, negative_slope={slope}, threshold={threshold})"
    kind = next((name for kind, name in _KINDS.items() if isinstance(function, kind)), "")
    return kind or getattr(function, "__name__", type(function).__name__)


def sites(model: keras.Model) -> list[Site]:
    """All layers of a model that have an activation, in its order."""
    layers, found = {"": keras_model(model), **dict(walk(model))}, []
    loops = [f"{path}/" for path, layer in layers.items() if isinstance(layer, kl.RNN)]
    for path, layer in layers.items():
        head = path.rpartition("/")[0]
        parent = layers[head]
        if isinstance(layer, keras.Model) or path.startswith(tuple(loops)):
            continue
        if isinstance(layer, kl.RNN):
            cells = getattr(layer.cell, "cells", [layer.cell])
            functions = [getattr(c, n, None) for c in cells for n in ("activation", "recurrent_activation")]
            names = ", ".join(name_of(function) for function in functions if function is not None)
            found.append(Site(path, layer, layer, names or "linear", "recurrent"))
            continue
        function = layer if isinstance(layer, STANDING) else getattr(layer, "activation", None)
        if not callable(function) or getattr(parent, "activation", None) is layer:
            continue
        wrapped = isinstance(parent, kl.Wrapper) and parent.layer is layer
        holder, above = (parent, layers[head.rpartition("/")[0]]) if wrapped else (layer, parent)
        reason = "" if isinstance(above, keras.Model) else f"inside of {head}"
        if not reason and function is not layer and "activation" not in layer.get_config():
            reason = "no argument 'activation'"
        if not reason or name_of(function) != "linear":
            found.append(Site(path, layer, holder, name_of(function), reason))
    return found


def output_ids(model: keras.Model) -> set[int]:
    """Ids of the layers that make a model's outputs, through models inside it."""
    found = set()
    for layer in _graph.output_layers(as_graph(model)):
        inside = isinstance(layer, keras.Model) and _graph.is_graph(layer)
        found |= output_ids(layer) if inside else {id(layer)}
    return found


def heard(chosen: Sequence[Site], instead: Callable[[int, Any, Any], Any]) -> None:
    """Let instead(number, function, inputs) stand for each activation; called inside of `losses.unchanged`."""
    for number, site in enumerate(chosen):
        where = "call" if site.standing else "activation"
        vars(site.layer)[where] = _listening(number, getattr(site.layer, where), instead)


def _listening(number: int, own: Any, instead: Callable[[int, Any, Any], Any]) -> Callable[..., Any]:
    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return instead(number, lambda z: own(z, *args, **kwargs), inputs)

    return call


def batches_for(model: keras.Model, data: Calibration) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of the size that a model takes; refuses samples that do not fit."""
    inputs = model.inputs if _graph.is_graph(model) else []
    if len(inputs) > 1:
        raise InputError(f"model: got {model.name!r} with {len(inputs)} inputs, allowed: one with a single input")
    shape = tuple(inputs[0].shape) if inputs else (None, *data.x.shape[1:])
    fits_in = len(shape) == data.x.ndim and all(
        a in (None, b) for a, b in zip(shape[1:], data.x.shape[1:], strict=True)
    )
    if not fits_in or len(data) % (shape[0] or 1):
        raise refuse("data", f"samples of shape {data.x.shape}", f"{shape}, what {model.name!r} takes")
    return list(data.batches(shape[0] or 256))


def choose(found: Sequence[Site], argument: str, pattern: Any) -> list[Site]:
    """The layers whose activation can be changed that fit a pattern; refused where there are none."""
    fitting = [site for site in found if isinstance(pattern, str) and fits(f"{site.path}/activation", pattern)]
    if free := [site for site in fitting if not site.fixed]:
        return free
    listed = "; ".join(f"{site.path} is fixed: {site.fixed}" for site in fitting)
    allowed = ", ".join(site.path for site in found if not site.fixed)
    raise refuse(argument, pattern, f"what fits one of: {allowed or 'none'}{f' ({listed})' if listed else ''}")


def known() -> list[str]:
    every = (n for n in dir(keras.activations) if n not in _NOT_NAMES and not n.startswith("_"))
    return [name for name in every if callable(getattr(keras.activations, name))]


def check_name(argument: str, name: Any) -> str:
    """`name`, if it is the name of a Keras activation that needs nothing else."""
    if name not in known():
        raise refuse(argument, name, f"the name of a Keras activation: {', '.join(known())}")
    return name


def wanted(found: Sequence[Site], names: Any) -> list[tuple[Site, str]]:
    if not isinstance(names, Mapping):
        raise refuse("names", names, "a dict {path or pattern: name of an activation}")
    chosen: dict[int, tuple[Site, str]] = {}
    for pattern, name in names.items():
        check_name(f"names[{pattern!r}]", name)
        chosen.update((id(site.layer), (site, name)) for site in choose(found, "names", pattern))
    return list(chosen.values())


def after_transposed(model: keras.Model, layer: Any) -> bool:
    """Whether a layer is a Conv2DTranspose, or an activation after one; BatchNormalization may stand between."""
    if not isinstance(layer, (*STANDING, kl.BatchNormalization)):
        return isinstance(layer, kl.Conv2DTranspose)
    parts = [part for _, part in [("", model), *walk(model)] if isinstance(part, keras.Model)]
    before = [one for part in parts if _graph.is_graph(part) for one in _graph.producers(part, layer)]
    return any(not isinstance(one, STANDING) and after_transposed(model, one) for one in before)


class _Exchange(Rebuilt):
    """Puts other layers in the place of some, and leaves some out; Sequential models stay so."""

    def __init__(self, new: Mapping[int, Any]):
        self.gone = {key for key, layer in new.items() if layer is None}
        super().__init__(lambda layer: new.get(id(layer)), call=self._leave_out)

    def _leave_out(self, layer: Any, new: Any, args: tuple, kwargs: dict) -> Any:
        if id(layer) in self.gone:
            return args[0] if args else next(iter(kwargs.values()))
        return new(*args, **kwargs)

    def model(self, model: keras.Model, top: bool = True) -> keras.Model:
        plain = isinstance(model, keras.Sequential) and id(model) not in self.made
        if not plain or not isinstance(as_graph(model), keras.Sequential):
            return super().model(model, top)
        first = model.inputs[0]
        entrance = keras.Input(batch_shape=first.shape, dtype=first.dtype, name=first.name)
        layers = [self._new(layer) for layer in model.layers if id(layer) not in self.gone]
        new = self.made[id(model)] = keras.Sequential([entrance, *(layers or [kl.Identity()])], name=model.name)
        return new


def rebuilt(model: keras.Model, changes: Sequence[tuple[Site, Any]]) -> tuple[keras.Model, dict[str, Any]]:
    """A new model with other activations, names or functions or layers, and its layer for each changed path."""
    new, twins, view = {}, {}, as_graph(model)
    several = {id(layer) for layer in _graph.output_layers(view)} if len(view.outputs) > 1 else ()
    for site, activation in changes:
        if not site.standing:
            given = activation if isinstance(activation, str) else keras.activations.serialize(activation)
            twin = type(site.layer).from_config({**site.layer.get_config(), "activation": given})
        elif isinstance(activation, keras.Layer):
            twin = activation
        elif name_of(activation) == "linear" or activation == "linear":
            twin = kl.Identity(name=site.layer.name) if id(site.holder) in several else None
        else:
            twin = kl.Activation(activation, name=site.layer.name, dtype=site.layer.dtype_policy)
        twins[site.path] = twin
        if site.holder is not site.layer and twin is not None:
            inside = {"layer": keras.saving.serialize_keras_object(twin)}
            twin = type(site.holder).from_config({**site.holder.get_config(), **inside})
        new[id(site.holder)] = twin
    maker = _Exchange(new)
    result = maker.model(model)
    standing = {id(site.holder) for site, _ in changes if site.standing}
    for old, twin in maker.pairs:
        if id(old) in standing or not isinstance(old, keras.Layer):
            continue
        for variable, value in zip(_own(twin, id(old) in new), _own(old, id(old) in new), strict=True):
            variable.assign(value)
    compile_like(result, model)
    return result, twins


def _own(layer: Any, changed: bool) -> list[Any]:
    """The weights of a layer; without those of an activation that is a layer itself, where that was changed."""
    functions = [getattr(part, "activation", None) for part in layer._flatten_layers()] if changed else []
    other = {id(v) for function in functions if isinstance(function, keras.Layer) for v in function.weights}
    return [variable for variable in layer.weights if id(variable) not in other]


@keras.saving.register_keras_serializable("keras_aeprune")
class FoldableActivation(kl.Activation):
    """An activation that training can turn into a straight line.

    `prepare` puts it in the place of a model's activations, as a layer of its own or as the argument `activation`
    of a layer. With one weight alpha, 0 at first and held at 0 or above:

        y = alpha * x + (1 - alpha) * activation(x)
        loss grows by rate * |1 - alpha^2|

    At alpha = 1 it is the identity. The penalty is flat at alpha = 0: the task decides which alphas leave 0, and
    the penalty takes these to 1. Ben Dror et al., "Layer Folding", 2021, https://arxiv.org/abs/2106.09309.

    Args:
        activation: name of a Keras activation, a function, or an activation layer without weights.
        rate: factor of the penalty, > 0, in units of the loss; the paper takes 0.25 beside a cross-entropy.
            Beside a loss of another size, such as a small mean squared error, scale it with the loss.

    Raises:
        InputError: `rate` is no number above 0.

    Example:
        >>> layer = FoldableActivation("relu")
        >>> _ = layer.alpha.assign(0.25)
        >>> layer(ops.convert_to_tensor([[-4.0, 2.0]])).numpy().tolist(), float(layer.losses[0])
        ([[-1.0, 2.0]], 0.234375)
    """

    def __init__(self, activation: Any, rate: float = 0.25, **kwargs: Any):
        super().__init__(activation, **kwargs)
        self.rate = positive_number("rate", rate)
        self.alpha = self.add_weight(
            shape=(), initializer="zeros", regularizer=self._penalty, constraint="non_neg", name="alpha"
        )

    def _penalty(self, alpha: keras.Variable) -> keras.KerasTensor:
        return self.rate * ops.sum(ops.abs(1.0 - ops.square(alpha)))

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to make: alpha is there from the start, so that it is also without an input shape."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return self.alpha * inputs + (1.0 - self.alpha) * self.activation(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


register(FoldableActivation, passing_activation)


def prepare(model: keras.Model, layers: Iterable[str] | str | None = None, *, rate: float = 0.25) -> keras.Model:
    """A model in which training finds out which activations can be left out.

    Use it before a few epochs of `model.fit`; `alphas` shows what became of them, and `fold` takes them away, so
    that linear layers can be merged. Each activation becomes a `FoldableActivation`, which has the formula and
    the penalty; before training the outputs are those of the given model.

    Args:
        model: a built Keras model; it is not changed.
        layers: paths, names or patterns with * of the layers to prepare. None takes every activation that is not
            "linear", except at the outputs of the model, softmax, PReLU and `DenseTranspose`.
        rate: factor of the penalty, > 0, in units of the loss.

    Returns:
        A model of the same kind, with the same weights and an alpha for each activation, compiled like the given
        one. Import keras_aeprune.shrinking.folding before a .keras file of it is loaded.

    Raises:
        InputError: nothing to prepare, a layer that is not there or cannot be prepared, `rate` of 0 or less.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), kl.Dense(4, "relu", name="a"), kl.Dense(2, name="b")])
        >>> alphas(prepare(model))
        {'a': 0.0}
    """
    positive_number("rate", rate)
    found = sites(model)
    if layers is None:
        ends = output_ids(model)
        chosen = [site for site in found if not _unfoldable(site) and id(site.holder) not in ends]
        if not chosen:
            raise InputError(
                f"model: got {model.name!r} without an activation that can be folded, allowed: one that is not "
                "linear, softmax, recurrent or at the output; name others with layers="
            )
    else:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        chosen = list(dict.fromkeys(site for one in patterns for site in choose(found, "layers", one)))
        for site in chosen:
            if reason := _unfoldable(site):
                raise refuse("layers", site.path, f"layers whose activation can be folded; this one {reason}")
    changes = []
    for site in chosen:
        own = site.layer if site.standing and type(site.layer) is not kl.Activation else site.layer.activation
        if isinstance(own, keras.Layer):
            own = type(own).from_config(own.get_config())
        name = {"name": site.layer.name} if site.standing else {}
        changes.append((site, FoldableActivation(own, rate, dtype=site.layer.dtype_policy, **name)))
    return rebuilt(model, changes)[0]


def _unfoldable(site: Site) -> str:
    """Why an activation is not folded; "" where it can be."""
    function = site.layer if site.standing else getattr(site.layer, "activation", None)
    if site.fixed:
        return f"is fixed: {site.fixed}"
    if isinstance(function, FoldableActivation):
        return "is prepared already"
    if type(site.layer) is DenseTranspose or (isinstance(function, keras.Layer) and function.weights):
        return "has an activation with weights of its own, or takes names only"
    return f"is {site.name}" if site.name in ("linear", "softmax", "log_softmax", "sparsemax") else ""


def _prepared(model: keras.Model) -> list[tuple[Site, FoldableActivation]]:
    pairs = [(s, s.layer if s.standing else s.layer.activation) for s in sites(model) if not s.fixed]
    found = [(site, layer) for site, layer in pairs if isinstance(layer, FoldableActivation)]
    if not found:
        raise InputError(
            f"model: got {model.name!r} without a FoldableActivation, allowed: a model of folding.prepare, trained"
        )
    return found


def alphas(model: keras.Model) -> dict[str, float]:
    """{path: alpha} of all prepared activations; at 1 an activation is a straight line.

    Args:
        model: what `prepare` gave, before or after training, or loaded from a file.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), kl.Activation("tanh", name="a"), kl.Dense(2)])
        >>> alphas(prepare(model))
        {'a': 0.0}
    """
    return {site.path: float(layer.alpha) for site, layer in _prepared(model)}


def fold(model: keras.Model, threshold: float = 0.9) -> keras.Model:
    """The model without the activations that training has made straight; the others are as before `prepare`.

    Use it after training a model of `prepare`, and train on for an epoch or more: alphas that are not exactly 0
    or 1 are rounded, which changes the outputs.

        activation = linear where alpha >= threshold, else what it was

    Args:
        model: what `prepare` gave, trained; it is not changed.
        threshold: alpha from which an activation goes, > 0; the paper takes 0.9.

    Returns:
        A model without a `FoldableActivation`, compiled like the given one. Activations that stood as layers of
        their own are gone.

    Raises:
        InputError: nothing in it was prepared, or `threshold` of 0 or less.

    Example:
        >>> model = prepare(keras.Sequential([keras.Input((3,)), kl.Dense(4, "relu", name="a"), kl.Dense(2)]))
        >>> _ = model.layers[0].activation.alpha.assign(0.95)
        >>> fold(model).layers[0].activation.__name__
        'linear'
    """
    positive_number("threshold", threshold)
    changes = []
    for site, layer in _prepared(model):
        own: Any = "linear" if float(layer.alpha) >= threshold else layer.activation
        if isinstance(own, keras.Layer):
            name = {"name": site.layer.name} if site.standing else {}
            own = type(own).from_config({**own.get_config(), **name})
        changes.append((site, own))
    return rebuilt(model, changes)[0]
