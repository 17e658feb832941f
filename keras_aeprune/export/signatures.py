"""What a file answers to: one signature for the whole model, or named ones for its halves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, one_of, refuse
from keras_aeprune.export.inputs import Inputs, inputs_of, samples
from keras_aeprune.export.trace import named, portable
from keras_aeprune.export.verify import filled
from keras_aeprune.models.halves import code_of, decoder_of, encoder_of

SIGNATURE = "serving_default"
PARTS = ("encoder", "decoder", "autoencoder")
CHUNK = 16  # samples that the Keras model gets at a time


@dataclass(frozen=True)
class Signature:
    """A model under the name that it gets in the file, with samples by input name.

    Args:
        name: of the signature.
        model: a built Keras model.
        inputs: of the model.
        arrays: by input name, shape (n, *input shape), the same n for all.
    """

    name: str
    model: keras.Model
    inputs: Inputs
    arrays: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.arrays.values())))

    def batches(self, count: int | None = None) -> Iterator[Any]:
        """The first `count` samples, a few at a time, in the structure that the model is called with.

        For a model with a fixed batch the last one is filled up with copies of the last sample.
        """
        arrays = [self.arrays[item.name][:count] for item in self.inputs.items]
        size = self.inputs.batch or CHUNK
        for i in range(0, len(arrays[0]), size):
            parts = [array[i : i + size] for array in arrays]
            if self.inputs.batch:
                parts = [filled(part, size) for part in parts]
            yield self.inputs.pack([keras.ops.convert_to_tensor(part) for part in parts])

    def outputs(self, count: int | None = None) -> dict[str, np.ndarray]:
        """What the model itself gives for the first `count` samples, by output name."""
        count = min(self.count, count or self.count)
        parts = []
        with portable(self.model):
            for batch in self.batches(count):
                values = named(self.model(batch, training=False))
                parts.append({name: keras.ops.convert_to_numpy(value) for name, value in values.items()})
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def signatures_of(
    model: keras.Model, parts: Sequence[str] | None, data: Any, *, seed: int, batch: int
) -> tuple[Signature, ...]:
    """The signatures of a file for `model`.

    Args:
        model: a built Keras model.
        parts: None for one signature of the whole model, else names of `PARTS`.
        data: samples of the whole model's input, or None for random ones.
        seed: of the random ones.
        batch: samples an invoke.

    Raises:
        InputError: an unknown part, a model without it, a decoder that does not take what the encoder gives.
    """
    inputs = inputs_of(model, batch)
    arrays = samples(inputs, data, seed=seed)
    whole = Signature(SIGNATURE, model, inputs, arrays)
    if parts is None:
        return (whole,)
    names = _names(parts)
    found = {"autoencoder": Signature("autoencoder", model, inputs, arrays)}
    if "encoder" in names or "decoder" in names:
        encoder = encoder_of(model)
        entrance = inputs_of(encoder, batch)
        found["encoder"] = Signature("encoder", encoder, entrance, _renamed(arrays, inputs, entrance, encoder))
    if "decoder" in names:
        decoder = decoder_of(model)
        entrance = inputs_of(decoder, batch)
        found["decoder"] = Signature("decoder", decoder, entrance, _codes(found["encoder"], decoder, entrance))
    return tuple(found[name] for name in names)


def _names(parts: Any) -> tuple[str, ...]:
    allowed = f"None, or one or more of {', '.join(PARTS)}, each once"
    if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
        raise refuse("parts", parts, allowed)
    for name in parts:
        one_of("parts", name, PARTS)
    if len(set(parts)) < len(parts):
        raise refuse("parts", parts, allowed)
    return tuple(parts)


def _renamed(
    arrays: dict[str, np.ndarray], inputs: Inputs, entrance: Inputs, encoder: keras.Model
) -> dict[str, np.ndarray]:
    """The model's own samples under the names of the encoder's inputs."""
    fits = len(inputs.items) == len(entrance.items) and all(
        one.dtype == other.dtype and len(one.shape) == len(other.shape)
        for one, other in zip(inputs.items, entrance.items, strict=True)
    )
    if not fits:
        raise InputError(
            f"parts: the encoder {encoder.name!r} takes {entrance}, while the model takes {inputs}, allowed: the "
            "same inputs; export the encoder alone with samples of its own"
        )
    values = [arrays[item.name] for item in inputs.items]
    return {item.name: array for item, array in zip(entrance.items, values, strict=True)}


def _codes(encoder: Signature, decoder: keras.Model, entrance: Inputs) -> dict[str, np.ndarray]:
    """What the encoder gives for the samples, by name of the decoder's inputs."""
    parts = []
    with portable(encoder.model):
        for batch in encoder.batches():
            given = encoder.model(batch, training=False)
            flat = keras.tree.flatten(given)
            parts.append([given] if len(flat) == 1 and hasattr(given, "shape") else flat)
            if len(flat) != len(entrance.items):
                parts[-1] = [code_of(given)]
    columns = [
        np.concatenate([keras.ops.convert_to_numpy(value) for value in column])[: encoder.count]
        for column in zip(*parts, strict=True)
    ]
    try:
        return samples(entrance, columns, seed=0)
    except InputError as error:
        raise InputError(
            f"parts: the decoder {decoder.name!r} takes {entrance}, while the encoder gives "
            f"{[array.shape for array in columns]}, allowed: a decoder of the encoder's code; {error}"
        ) from error
