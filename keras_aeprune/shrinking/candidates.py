"""What could be taken out of a model's depth, and the model without it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers as kl

from keras_aeprune._layers import kernels_of
from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune.shrinking.chains import Graph, Graphs, Step, Wiring
from keras_aeprune.shrinking.linear import linear_of
from keras_aeprune.shrinking.merging import Merging, does_nothing

__all__ = ["Candidate", "Depth", "LayerCut"]

_ACTIVATIONS = (kl.Activation, kl.ReLU, kl.LeakyReLU, kl.ELU, kl.PReLU, kl.Softmax)
_OPERATIONS = {"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "Tanh", "Softplus"}
_FOLLOWING = (kl.BatchNormalization, kl.Dropout, kl.GaussianDropout, kl.GaussianNoise, kl.AlphaDropout)


@dataclass(frozen=True)
class LayerCut:
    """One thing that could be taken out of a model's depth.

    Args:
        path: of the layer through nested models: the one with the activation, the Add behind a block, the layer.
        kind: "activation" (it becomes the identity, so that the linear maps on both sides can merge), "block"
            (the branch of a residual Add goes, what it was added to goes on) or "layer" (with its normalization
            and activation; what came in goes on).
        saves_params: weights that go with it when the rest is merged, beyond what `merge` saves without it; 0
            or more.
        reason: why it cannot go; "" where it can.

    Example:
        >>> print(LayerCut("encoder/hidden_2", "activation", saves_params=2080))
        encoder/hidden_2 (activation): saves 2,080 weights
    """

    path: str
    kind: str
    saves_params: int
    reason: str = ""

    def __str__(self) -> str:
        told = f"stays, {self.reason}" if self.reason else f"saves {self.saves_params:,} weights"
        return f"{self.path} ({self.kind}): {told}"


@dataclass(eq=False)
class Candidate:
    """A `LayerCut` and what is done for it.

    Args:
        cut: as it is shown.
        step: the call that it is named after.
        passed: {id of an operation that is left out: number of its source that goes on}.
        straight: ids of layers whose own activation goes.
    """

    cut: LayerCut
    step: Step
    passed: dict[int, int] = field(default_factory=dict)
    straight: set[int] = field(default_factory=set)


class Depth:
    """What could be taken out of one model.

    Args:
        model: a built Keras model.
    """

    def __init__(self, model: keras.Model):
        self.model, self.graphs = model, Graphs(model)
        self._wirings = {id(graph): Wiring(graph, {}) for graph in self.graphs}
        self._places = {id(step.operation): (graph, step) for graph in self.graphs for step in graph.steps}
        self._base = Merging(self.graphs).params
        self.candidates = [found for graph, step in self._ordered(model) for found in self._of(graph, step)]
        self._chains = {
            step.path: [step, *self.chain(graph, step)]
            for graph, step in self._ordered(model)
            if _has_kernel(step.operation)
        }

    def _ordered(self, model: keras.Model, seen: set[int] | None = None) -> Iterator[tuple[Graph, Step]]:
        """All steps in the order in which a batch goes through them, those of nested models in their place."""
        seen, graph = set() if seen is None else seen, self.graphs.known(model)
        for step in self._wirings[id(graph)].steps:
            if not isinstance(step.operation, keras.Model):
                yield graph, step
            elif id(step.operation) not in seen:
                seen.add(id(step.operation))
                yield from self._ordered(step.operation, seen)

    # what could go

    def _of(self, graph: Graph, step: Step) -> Iterator[Candidate]:
        operation = step.operation
        if type(operation) in _ACTIVATIONS or type(operation).__name__ in _OPERATIONS:
            if not does_nothing(operation):
                yield self._activation(graph, step, {id(operation): 0}, set())
            return
        found = linear_of(operation)
        if found is not None and not found.linear:
            yield self._activation(graph, step, {}, {id(operation)})
        if type(operation) is kl.Add or (
            not isinstance(operation, keras.Layer) and type(operation).__name__ == "Add"
        ):
            yield self._block(graph, step)
        elif _has_kernel(operation):
            yield self._layer(graph, step)

    def _activation(self, graph: Graph, step: Step, passed: dict[int, int], straight: set[int]) -> Candidate:
        reason = "" if step.once else "its layer is used in several places, or shares weights"
        if not reason and len(step.sources) != 1:
            reason = "takes several tensors"
        if not reason and self._last(graph, step):
            reason = "makes the output of the model"
        return self._candidate(step, "activation", reason, passed, straight)

    def _block(self, graph: Graph, step: Step) -> Candidate:
        wiring = self._wirings[id(graph)]
        sources = wiring.sources(step)
        reason, stays = "", 0
        if len(sources) != 2 or sources[0] is sources[1]:
            reason = f"adds {len(step.sources)} tensors of {len(set(map(id, sources)))} layers, not two of two"
        else:
            identities = [n for n in (0, 1) if _feeds(wiring, sources[n], sources[1 - n])]
            if not identities:
                reason = "neither of its inputs is what the other one was made of"
            else:
                stays = identities[0]
                if tuple(step.node.input_tensors[stays].shape[1:]) != step.shape:
                    reason = "its inputs have different shapes"
                elif not step.once:
                    reason = "is used in several places"
                elif sources[stays].operation is None and step in wiring.outputs:
                    reason = "nothing would be left of its model"
        return self._candidate(step, "block", reason, {id(step.operation): stays}, set())

    def _layer(self, graph: Graph, step: Step) -> Candidate:
        wiring = self._wirings[id(graph)]
        steps = [step, *self.chain(graph, step)]
        reason = ""
        if self._last(graph, steps[-1]):
            reason = "makes the output of the model"
        elif step.taken != step.shape:
            reason = f"takes {step.taken} and makes {step.shape}"
        elif not all(one.once and one.plain for one in steps):
            reason = "is used in several places, shares weights or has several inputs or outputs"
        elif steps[-1] in wiring.outputs:
            reason = f"makes the output of {graph.path or 'the model'}"
        return self._candidate(step, "layer", reason, {id(one.operation): 0 for one in steps}, set())

    def _candidate(
        self, step: Step, kind: str, reason: str, passed: dict[int, int], straight: set[int]
    ) -> Candidate:
        saves = 0 if reason else self._base - Merging(self.graphs, passed, straight).params
        return Candidate(LayerCut(step.path, kind, saves, reason), step, passed, straight)

    def chain(self, graph: Graph, step: Step) -> list[Step]:
        """Normalization, noise and the activation that follow a layer and nothing else."""
        wiring, found = self._wirings[id(graph)], []
        last = linear_of(step.operation)
        while last is None or last.linear:
            after = wiring.only_taker(step)
            if after is None or type(after.operation) not in (*_FOLLOWING, *_ACTIVATIONS):
                break
            step = after
            found.append(step)
            if type(step.operation) in _ACTIVATIONS and not does_nothing(step.operation):
                break
        return found

    def _last(self, graph: Graph, step: Step) -> bool:
        """Whether nothing with weights stands between a step and the output of the whole model."""
        wiring = self._wirings[id(graph)]
        while step not in wiring.outputs:
            after = wiring.only_taker(step)
            if after is None or bool(getattr(after.operation, "weights", ())) or len(after.sources) > 1:
                return False
            step = after
        if graph.model is self.model:
            return True
        return self._last(*self._places[id(graph.model)])

    # what is chosen

    def chosen(self, cuts: Any) -> list[Candidate]:
        """The candidates that paths and cuts name.

        Raises:
            InputError: for a name of nothing, of two things, or of what cannot go.
        """
        several = isinstance(cuts, Iterable) and not isinstance(cuts, str)
        wanted = list(cuts) if several else [cuts]
        if not wanted:
            raise refuse("cuts", cuts, "at least one path or LayerCut")
        return [self._one(one) for one in wanted]

    def _one(self, wanted: Any) -> Candidate:
        path = wanted if isinstance(wanted, str) else getattr(wanted, "path", None)
        kind = getattr(wanted, "kind", None)
        named = [c for c in self.candidates if c.cut.path == path and kind in (None, c.cut.kind)]
        able = [c for c in named if not c.cut.reason]
        if not named:
            known = ", ".join(dict.fromkeys(c.cut.path for c in self.candidates if not c.cut.reason))
            raise refuse("cuts", wanted, f"paths of removable(model): {shown(known, 400)}")
        if not able:
            told = "; ".join(f"as {c.cut.kind}: {c.cut.reason}" for c in named)
            raise InputError(
                f"cuts: {path!r} cannot go ({told}), allowed: what removable(model) has no reason for"
            )
        if len(able) > 1:
            kinds = " or ".join(c.cut.kind for c in able)
            raise InputError(
                f"cuts: {path!r} can go as {kinds}, allowed: the LayerCut of removable(model) that is meant"
            )
        return able[0]

    def without(self, candidates: Iterable[Candidate], *, merge: bool = True) -> keras.Model:
        """The model without them, not compiled."""
        passed: dict[int, int] = {}
        straight: set[int] = set()
        for candidate in candidates:
            passed.update(candidate.passed)
            straight |= candidate.straight
        return Merging(self.graphs, passed, straight, merges=merge).model()

    # the two sides of an autoencoder

    def kernel_before(self, step: Step) -> str | None:
        """Path of the layer with the kernel whose outputs an activation takes; None where there is none."""
        return next((steps[0].path for steps in self._chains.values() if step in steps), None)

    def knows(self, path: str) -> bool:
        """Whether a path names a layer with a kernel or what follows it."""
        return any(path == step.path for steps in self._chains.values() for step in steps)

    def mirror(self, path: str, *, whole: bool = False) -> str | None:
        """The path on the other side; see `mirrored`. With `whole`, of layers alone that keep the width."""
        if not self.knows(path):
            raise refuse("path", path, f"a layer with a kernel: {shown(', '.join(self._chains), 400)}")
        layers = list(self._chains.values())
        hidden = [steps for steps in layers if not self._last(self._places[id(steps[-1].operation)][0], steps[-1])]
        here = next(steps for steps in layers if any(step.path == path for step in steps))
        if here not in hidden:
            return None
        middle = min(range(len(hidden)), key=lambda n: math.prod(size or 1 for size in hidden[n][0].shape))
        width = here[0].shape[-1]
        sides = [hidden[:middle], hidden[middle + 1 :][::-1]]
        sides = [
            [s for s in side if s[0].shape[-1] == width and (not whole or s[0].taken[-1] == width)]
            for side in sides
        ]
        for side, other in (sides, sides[::-1]):
            if here in side and side.index(here) < len(other):
                return _at_same_place(here, other[side.index(here)], path)
        return None


def _has_kernel(operation: Any) -> bool:
    """Whether a layer, or one that it wraps, has weights that mix what comes in."""
    return isinstance(operation, keras.Layer) and any(kernels_of(part) for part in operation._flatten_layers())


def _feeds(wiring: Wiring, first: Step, last: Step) -> bool:
    """Whether `last` is computed from what `first` makes."""
    waiting, seen = [last], set()
    while waiting:
        step = waiting.pop()
        if step is first:
            return True
        if id(step) not in seen and step.operation is not None:
            seen.add(id(step))
            waiting.extend(wiring.sources(step))
    return False


def _at_same_place(here: list[Step], there: list[Step], path: str) -> str:
    """In the mirror the layer itself for the layer, else the one of the kind that `path` names."""
    step = next(step for step in here if step.path == path)
    if step is here[0]:
        return there[0].path
    alike = [one for one in there[1:] if type(one.operation) is type(step.operation)]
    return (alike[0] if alike else there[0]).path
