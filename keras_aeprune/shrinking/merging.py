"""Linear maps that follow each other become one: fewer layers, the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers as kl

from keras_aeprune import _graph
from keras_aeprune._validation import keras_model, refuse
from keras_aeprune.shrinking.chains import Graph, Graphs, Step, Wiring
from keras_aeprune.shrinking.linear import Linear, linear_of, together
from keras_aeprune.shrinking.rebuild import Rebuilt, compile_like

__all__ = ["Merge", "merge", "mergeable"]


@dataclass(frozen=True)
class Merge:
    """Two layers of which one can be made, or why not.

    Args:
        path: the layer that comes first.
        into: the layer that takes its outputs. BatchNormalization goes into the other one; where none of them
            is that, the name of this one stays.
        saves_params: weights that are saved; below 0 only with only_smaller=False.
        reason: why they stay two; "" where they become one.
    """

    path: str
    into: str
    saves_params: int
    reason: str = ""

    def __str__(self) -> str:
        told = f"stays, {self.reason}" if self.reason else f"saves {self.saves_params:,} weights"
        return f"{self.path} + {self.into}: {told}"


def mergeable(model: keras.Model, *, only_smaller: bool = True) -> tuple[Merge, ...]:
    """What `merge` would do, and the neighbours that it would leave, each with the reason.

    Args:
        model: a built Keras model.
        only_smaller: as for `merge`.

    Returns:
        One `Merge` for each, those that are done first, in the order in which they are done.

    Raises:
        InputError: as for `merge`.

    Example:
        >>> layers = [keras.layers.Dense(8, name="a"), keras.layers.Dense(2, name="b")]
        >>> for pair in mergeable(keras.Sequential([keras.Input((4,)), *layers])):
        ...     print(pair)
        a + b: saves 48 weights
    """
    return Merging(_checked(model, only_smaller), only_smaller=only_smaller).merges


def merge(model: keras.Model, *, only_smaller: bool = True) -> keras.Model:
    """A smaller model with the same outputs: neighbouring linear maps become one.

    Use it before a model is exported, and after activations were taken out (`without` does it). With x W1 + b1
    and then x W2 + b2, written for Dense layers,

        W = W1 W2,   b = b1 W2 + b2

    - BatchNormalization goes into the Dense layer or convolution (transposed, depthwise and separable ones too)
      before it, or into the Dense layer or convolution behind it
    - of two Dense layers and 1 x 1 convolutions, or one of them and another convolution, one is left; it has the
      name and activation of the second. A bias before a padded convolution is in the way: the padding has none
    - linear Activation layers and Identity layers are left out

    All this is done in float64, once. Weights are counted with their zeros: merging two sparse kernels gives a
    dense one. Only layers that are used once and whose outputs nobody else takes are merged, and nothing is
    merged across the border of a nested model, so an encoder keeps its code; so does one that is an attribute
    `encoder` of the model and shares its layers. The result is exact up to rounding; networks that are widened
    for training and merged after it: Bhardwaj et al. "Collapsible linear blocks", 2021,
    https://arxiv.org/abs/2103.09404.

    Args:
        model: a built Keras model, Sequential, functional, nested, or subclassed if it can be traced. It is not
            changed.
        only_smaller: False merges also where the result has more weights: of x W1 W2 with a narrow middle.

    Returns:
        A new model, compiled as the given one; Sequential where that is.

    Raises:
        InputError: a model that is not built, or a subclassed one that cannot be traced.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), keras.layers.Dense(1)])
        >>> import numpy as np
        >>> values = [[[1.0, -1.0]], [0.5, 1.0], [[2.0], [-1.0]], [-1.5]]
        >>> model.set_weights([np.array(value) for value in values])
        >>> [value.tolist() for value in merge(model).get_weights()]  # 1*2 + -1*-1; .5*2 + 1*-1 - 1.5
        [[[3.0]], [-1.5]]
    """
    merging = Merging(_checked(model, only_smaller), only_smaller=only_smaller)
    new = merging.model()
    compile_like(new, model)
    return new


def _checked(model: Any, only_smaller: Any) -> Graphs:
    if not isinstance(only_smaller, bool):
        raise refuse("only_smaller", only_smaller, "True or False")
    return Graphs(keras_model(model))


class Merging:
    """What is merged in a model from which some calls and activations are taken, thought out before it is done.

    Args:
        graphs: of the model.
        passed: {id of an operation that is left out: number of its source that goes on in its place}.
        straight: ids of layers whose own activation is left out.
        only_smaller: as for `merge`.
        merges: False only takes out.
    """

    def __init__(
        self,
        graphs: Graphs,
        passed: Mapping[int, int] | None = None,
        straight: Collection[int] = (),
        *,
        only_smaller: bool = True,
        merges: bool = True,
    ):
        self.graphs, self._straight, self._only_smaller = graphs, frozenset(straight), only_smaller
        self._passed = dict(passed or {})
        self._maps: dict[int, Linear] = {}  # by the id of the layer in whose place it stands
        self._changed: set[int] = set()
        self._wirings: dict[int, Wiring] = {}
        self._left: dict[tuple[str, str], Merge] = {}
        self._done: list[Merge] = []
        self._codes = {id(layer) for layer in _codes(graphs)}
        for graph in graphs:
            self._wire(graph)
            for step in self._wiring(graph).steps:
                found = linear_of(step.operation, id(step.operation) in self._straight)
                if found is not None:
                    self._maps[id(step.operation)] = found
            if merges:
                self._merge(graph)

    @property
    def merges(self) -> tuple[Merge, ...]:
        """What is merged, then what is not."""
        return (*self._done, *self._left.values())

    @property
    def params(self) -> int:
        """Weights of the model that `model` makes."""
        return self._count(self.graphs.model, {})

    def _count(self, model: keras.Model, seen: dict[int, int]) -> int:
        total = 0
        for step in self._wiring(self.graphs.known(model)).steps:
            layer = step.operation
            if id(layer) in seen or not isinstance(layer, keras.Layer):
                continue
            seen[id(layer)] = 1
            if isinstance(layer, keras.Model):
                total += self._count(layer, seen)
            else:
                total += self._maps[id(layer)].params if id(layer) in self._changed else layer.count_params()
        return total

    def _wire(self, graph: Graph) -> None:
        self._wirings[id(graph)] = Wiring(graph, self._passed)

    def _wiring(self, graph: Graph) -> Wiring:
        return self._wirings[id(graph)]

    def _merge(self, graph: Graph) -> None:
        for step in self._wiring(graph).steps:
            if does_nothing(step.operation) and step.once and step.plain and not self._alone(graph, step):
                self._passed[id(step.operation)] = 0
                self._done.append(Merge(step.path, "what follows", 0))
        self._wire(graph)
        while True:
            pairs = [(one, two) for one in self._wiring(graph).steps for two in [self._next(graph, one)] if two]
            found = [(self._try(one, two), one, two) for one, two in pairs]
            good = [(new, one, two) for new, one, two in found if new is not None]
            if not good:
                return
            # what saves most first: another order can end with more weights
            new, one, two = max(good, key=lambda entry: self._saved(*entry))
            self._done.append(Merge(one.path, two.path, self._saved(new, one, two)))
            stays, goes = (one, two) if self._maps[id(two.operation)].normalizes else (two, one)
            self._passed[id(goes.operation)] = 0
            self._maps[id(stays.operation)] = new
            self._changed.add(id(stays.operation))
            self._wire(graph)
            self._left = {k: v for k, v in self._left.items() if goes.path not in k}

    def _alone(self, graph: Graph, step: Step) -> bool:
        """Whether it joins an entrance to an exit, so that nothing would be left."""
        wiring = self._wiring(graph)
        return step in wiring.outputs and wiring.sources(step)[0].operation is None

    def _next(self, graph: Graph, one: Step) -> Step | None:
        """The map that takes what a linear map makes; notes why there is none that can be merged."""
        first = self._maps.get(id(one.operation))
        if first is None or not first.linear:
            return None
        wiring = self._wiring(graph)
        takers = [step for step in wiring.takers(one) if id(step.operation) in self._maps]
        two = wiring.only_taker(one)
        reason = ""
        if two is None:
            reason = "others take what lies between them"
        elif id(one.operation) in self._codes:
            reason = "the first one makes the code of the model's encoder"
        elif not (one.once and two.once):
            reason = "one of them is used in several places, or shares weights"
        elif not (one.plain and two.plain):
            reason = "one of them is called with more than one tensor, or as in training"
        if reason:
            for step in takers:
                self._leave(one, step, reason)
            return None
        return two if takers else None

    def _try(self, one: Step, two: Step) -> Linear | None:
        first, second = self._maps[id(one.operation)], self._maps[id(two.operation)]
        new, reason = together(first, second)
        saved = 0 if new is None else self._saved(new, one, two)
        if self._only_smaller and saved < 0:
            new, reason = None, f"one layer would have {-saved:,} weights more"
        if new is None:
            self._leave(one, two, reason)
        return new

    def _saved(self, new: Linear, one: Step, two: Step) -> int:
        return self._maps[id(one.operation)].params + self._maps[id(two.operation)].params - new.params

    def _leave(self, one: Step, two: Step, reason: str) -> None:
        self._left[one.path, two.path] = Merge(one.path, two.path, 0, reason)

    def model(self) -> keras.Model:
        """The new model, not compiled."""

        def make(layer: Any) -> Any:
            if id(layer) in self._changed:
                new = self._maps[id(layer)]
                return type(new.layer).from_config(new.settings())
            if id(layer) in self._straight:
                return type(layer).from_config({**layer.get_config(), "activation": "linear"})
            return None

        maker = _Passing(self._passed, self.graphs.views, make)
        new = maker.model(self.graphs.model)
        for old, twin in maker.pairs:
            if id(old) not in self._passed and isinstance(old, keras.Layer) and old.weights:
                changed = id(old) in self._changed
                twin.set_weights(self._maps[id(old)].weights() if changed else old.get_weights())
        return new


def does_nothing(operation: Any) -> bool:
    """Whether a layer returns what it gets.

    Example:
        >>> does_nothing(keras.layers.Activation("linear")), does_nothing(keras.layers.Activation("relu"))
        (True, False)
    """
    if getattr(operation, "activity_regularizer", None) is not None:
        return False
    linear = type(operation) is kl.Activation and operation.activation is keras.activations.linear
    return linear or type(operation) is kl.Identity


def _codes(graphs: Graphs) -> list[Any]:
    """The layers that make the outputs of an `encoder` that shares its layers with the model."""
    encoder = vars(graphs.model).get("encoder")
    known = isinstance(encoder, keras.Model) and _graph.is_graph(encoder) and encoder.built
    return _graph.output_layers(encoder) if known and graphs.of(encoder) is None else []


class _Passing(Rebuilt):
    """Builds a model without some calls; Sequential ones stay Sequential."""

    def __init__(self, passed: Mapping[int, int], views: Mapping[int, keras.Model], make: Callable[[Any], Any]):
        super().__init__(make, call=self._called)
        self._passed = passed
        self._views.update(views)

    def model(self, model: keras.Model, top: bool = True) -> keras.Model:
        if id(model) in self.made or not isinstance(self._views.get(id(model), model), keras.Sequential):
            return super().model(model, top)
        tensor = model.inputs[0]
        entrance = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        layers = [self._new(layer) for layer in model.layers if id(layer) not in self._passed]
        new = self.made[id(model)] = keras.Sequential([entrance, *layers], name=model.name)
        for name in ("encoder", "decoder"):
            half = self.made.get(id(vars(model).get(name)))
            if half is not None:
                setattr(new, name, half)
        return new

    def _called(self, layer: Any, new: Any, args: tuple, kwargs: dict) -> Any:
        if id(layer) not in self._passed:
            return new(*args, **kwargs)
        tensors = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, keras.KerasTensor)]
        return tensors[self._passed[id(layer)]]
