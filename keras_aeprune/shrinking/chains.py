"""The calls of a model, graph by graph, and which follow which once some of them are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_aeprune import _graph
from keras_aeprune._layers import walk
from keras_aeprune.shrinking.rebuild import as_graph, entrance_shapes

__all__ = ["Graph", "Graphs", "Step", "Wiring"]


@dataclass(eq=False)
class Step:
    """One call of a layer, operation or nested model; an entrance of the graph has operation None.

    Args:
        path: of the layer through nested models.
        operation: what is called.
        node: the call; None for an entrance.
        sources: the steps whose tensors it takes, in the order of its arguments.
        once: whether its layer is called here only and shares no weight with another layer.
    """

    path: str
    operation: Any
    node: Any = None
    sources: tuple[Step, ...] = ()
    once: bool = True

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of what it makes, without the batch axis."""
        return tuple(self.node.outputs[0].shape[1:])

    @property
    def taken(self) -> tuple[int | None, ...]:
        """Shape of the first tensor that it takes, without the batch axis."""
        return tuple(self.node.input_tensors[0].shape[1:])

    @property
    def plain(self) -> bool:
        """One tensor in, one out, and not told to act as in training."""
        one = len(self.sources) == 1 and len(self.node.outputs) == 1
        return one and not self.node.arguments.kwargs.get("training")


@dataclass(eq=False)
class Graph:
    """The calls of one model, in an order in which they can be made.

    Args:
        path: of the model, "" for the outermost.
        model: it.
        view: the graph that stands for it; itself where its calls are known.
        steps: its calls, without entrances.
        outputs: the steps that make its outputs.
    """

    path: str
    model: keras.Model
    view: keras.Model
    steps: list[Step] = field(default_factory=list)
    outputs: list[Step] = field(default_factory=list)


class Graphs:
    """All graphs of a model, each nested model once.

    Args:
        model: a built Keras model that `as_graph` takes.

    Example:
        >>> half = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="code")], name="encoder")
        >>> graphs = Graphs(keras.Sequential([keras.Input((3,)), half, keras.layers.Dense(3, name="output")]))
        >>> [(graph.path, [step.path for step in graph.steps]) for graph in graphs]
        [('', ['encoder', 'output']), ('encoder', ['encoder/code'])]
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self._paths = {id(layer): path for path, layer in walk(model)}
        self._found: dict[int, Graph] = {}
        self._add(model, "", None)
        steps = [step for graph in self for step in graph.steps]
        calls = Counter(id(step.operation) for step in steps)
        layers = {id(step.operation): step.operation for step in steps}
        holders = Counter(
            id(variable)
            for layer in layers.values()
            if isinstance(layer, keras.Layer) and not isinstance(layer, keras.Model)
            for variable in layer.weights
        )
        for step in steps:
            shared = any(holders[id(v)] > 1 for v in getattr(step.operation, "weights", ()))
            step.once = calls[id(step.operation)] == 1 and not shared

    def __iter__(self) -> Iterator[Graph]:
        return iter(self._found.values())

    def of(self, model: Any) -> Graph | None:
        """The graph of a nested model."""
        return self._found.get(id(model))

    def known(self, model: Any) -> Graph:
        """The graph of a model that is one of them."""
        return self._found[id(model)]

    @property
    def views(self) -> dict[int, keras.Model]:
        """{id of a model: the graph that stands for it}."""
        return {key: graph.view for key, graph in self._found.items()}

    def _add(self, model: keras.Model, path: str, shapes: Any) -> None:
        graph = self._found[id(model)] = Graph(path, model, as_graph(model, shapes))
        kinds: Counter[str] = Counter()

        def call(node: Any, args: tuple, kwargs: dict) -> list[Step]:
            operation = node.operation
            name = operation.name
            if graph.view is not model and not isinstance(operation, keras.Layer):
                kind = type(operation).__name__.lower()  # its own name has a new number each time it is traced
                kinds[kind] += 1
                name = kind if kinds[kind] == 1 else f"{kind}_{kinds[kind]}"
            inside = f"{path}/{name}" if path else name
            sources = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Step)]
            step = Step(self._paths.get(id(operation), inside), operation, node, tuple(sources))
            graph.steps.append(step)
            return [step] * len(node.outputs)

        graph.outputs = _graph.run(graph.view, [Step("", None) for _ in graph.view.inputs], call)
        for step in graph.steps:
            if isinstance(step.operation, keras.Model) and id(step.operation) not in self._found:
                known = _graph.is_graph(step.operation)
                self._add(step.operation, step.path, None if known else entrance_shapes(step.node))


class Wiring:
    """Which step takes what in one graph, when some steps are passed by.

    Args:
        graph: of the model.
        passed: {id of an operation: number of its source that stands for what it makes}.
    """

    def __init__(self, graph: Graph, passed: Mapping[int, int]):
        self.graph, self._passed = graph, passed
        self.outputs = [self.real(step) for step in graph.outputs]
        reached: dict[int, Step] = {}
        waiting = list(self.outputs)
        while waiting:
            step = waiting.pop()
            if step.operation is not None and id(step) not in reached:
                reached[id(step)] = step
                waiting.extend(self.sources(step))
        self.steps = [step for step in graph.steps if id(step) in reached]
        self._takers: dict[int, list[Step]] = {}
        for step in self.steps:
            for source in self.sources(step):
                self._takers.setdefault(id(source), []).append(step)

    def real(self, step: Step) -> Step:
        """The step that makes what `step` made before some were passed by."""
        while step.operation is not None and id(step.operation) in self._passed:
            step = step.sources[self._passed[id(step.operation)]]
        return step

    def sources(self, step: Step) -> list[Step]:
        """The steps whose tensors it takes."""
        return [self.real(source) for source in step.sources]

    def takers(self, step: Step) -> list[Step]:
        """The steps that take its tensors, one for each time."""
        return self._takers.get(id(step), [])

    def only_taker(self, step: Step) -> Step | None:
        """The one step that takes all that it makes; None where there are more, or it makes an output."""
        takers = self.takers(step)
        return takers[0] if len(takers) == 1 and step not in self.outputs else None
