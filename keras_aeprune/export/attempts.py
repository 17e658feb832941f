"""Everything that is tried for a request, and which of the files is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.export.candidates import Candidate, Candidates, Tried, codings
from keras_aeprune.export.check import ExportedFile, ExportMismatch, check, reference
from keras_aeprune.export.convert import ConversionError, Job
from keras_aeprune.export.dead import Removal, without_dead_units
from keras_aeprune.export.precisions import SMALLEST, Precision
from keras_aeprune.export.request import Request, Target, detector_error
from keras_aeprune.export.trace import Endpoint, Traced, write_saved_model
from keras_aeprune.export.twins import loop_error, twin, ways

# What a detector does after the autoencoder. In int8 a squared error has 256 levels up to the largest one, and
# nearly all normal scores share a few of them; in float32 it costs a few additions and multiplications a value.
DETECTOR_OPS = (
    *("SUB", "ADD", "MUL", "DIV", "SQUARED_DIFFERENCE", "SQUARE", "ABS", "MEAN", "SUM"),
    *("REDUCE_MAX", "GREATER", "CAST", "MAXIMUM"),
)


@dataclass
class Attempt:
    """One candidate for one target, and what came of it: an `ExportedFile`, an error, or None so far."""

    target: Target
    candidate: Candidate
    variant: Variant | None = None
    job: Job | None = None
    outcome: Any = None
    note: str = ""


@dataclass(frozen=True)
class Variant:
    """What is converted: the models without dead units, with or without loops, as a SavedModel."""

    traced: Traced
    removals: tuple[Removal, ...]


class Attempts:
    """Everything that is tried for one request; `made` lists it, target by target."""

    def __init__(self, asked: Request, folder: Path):
        self.asked, self.folder = asked, folder
        folder.mkdir()
        self._variants: dict[tuple[bool, bool], Variant | InputError] = {}
        self._removals: dict[bool, tuple[Removal, ...]] = {}
        self._calibration: dict[str, dict[str, Path]] = {}
        self.made: list[Attempt] = []
        for target in asked.targets:
            for row in target.rows:
                self._add(target, row)

    def _add(self, target: Target, row: Precision) -> None:
        asked, several = self.asked, len(target.rows) > 1
        if row.needs_data and not asked.has_data:
            error = InputError(f"data: got None, allowed for quantize={row.name!r}: inputs to calibrate with")
            self.made.append(Attempt(target, Candidate(row), outcome=error))
            return
        if asked.threshold is not None and not row.for_detectors:
            self.made.append(Attempt(target, Candidate(row), outcome=detector_error(row)))
            return
        models = [signature.model for signature in asked.signatures]
        try:
            flags, note = ways(models, row, asked.unroll, both=several)
        except InputError as error:
            self.made.append(Attempt(target, Candidate(row), outcome=error))
            return
        for flag in flags:
            self._add_coded(target, row, flag, note)

    def _add_coded(self, target: Target, row: Precision, unroll: bool, note: str) -> None:
        asked = self.asked
        variant = self._variant(row.needs_data, unroll)
        optional = unroll and asked.unroll == "auto" and not row.needs_data and len(target.rows) == 1
        if isinstance(variant, InputError) and optional:
            unroll, note = False, f"not unrolled: {variant}"
            variant = self._variant(row.needs_data, unroll)
        try:
            if isinstance(variant, InputError):
                raise variant
            if row.needs_data and variant.traced.has_loop:
                raise loop_error([signature.model for signature in asked.signatures], row)
            sparse = codings(row, asked.sparse, variant.traced.zeros_pay)
        except InputError as error:
            self.made.append(Attempt(target, Candidate(row, unrolled=unroll), outcome=error))
            return
        for coding in sparse:
            candidate = Candidate(row, coding, unroll)
            job = Job(
                variant.traced.folder,
                self.folder / f"{len(self.made)}.tflite",
                row,
                self._arrays() if row.needs_data else None,
                tuple(signature.name for signature in asked.signatures),
                asked.batch,
                coding,
                () if asked.threshold is None else DETECTOR_OPS,
            )
            self.made.append(Attempt(target, candidate, variant, job, note=note))

    def _variant(self, needs_data: bool, unroll: bool) -> Variant | InputError:
        """Made once, or the reason why it cannot be."""
        removals = self._without_dead(needs_data)
        key = (any(removal.on_data for removal in removals), unroll)
        if key not in self._variants:
            try:
                endpoints = [
                    Endpoint(
                        signature.name,
                        twin(removal.model) if unroll else removal.model,
                        signature.inputs,
                        tuple(signature.arrays[item.name].shape[1:] for item in signature.inputs.items),
                    )
                    for signature, removal in zip(self.asked.signatures, removals, strict=True)
                ]
                folder = self.folder / f"saved_model_{len(self._variants)}"
                self._variants[key] = Variant(write_saved_model(endpoints, folder, self.asked.batch), removals)
            except InputError as error:
                self._variants[key] = error
        return self._variants[key]

    def _without_dead(self, needs_data: bool) -> tuple[Removal, ...]:
        if needs_data not in self._removals:
            signatures = self.asked.signatures
            shared = len(signatures) > 1 and any(signature.model is self.asked.model for signature in signatures)
            self._removals[needs_data] = tuple(
                Removal(signature.model) if shared else without_dead_units(signature, with_data=needs_data)
                for signature in signatures
            )
        return self._removals[needs_data]

    def _arrays(self) -> dict[str, dict[str, Path]]:
        """The samples as files, written once."""
        if not self._calibration:
            for i, signature in enumerate(self.asked.signatures):
                files = self._calibration.setdefault(signature.name, {})
                for k, (name, array) in enumerate(signature.arrays.items()):
                    files[name] = self.folder / f"calibration_{i}_{k}.npy"
                    np.save(files[name], array, allow_pickle=False)
        return self._calibration


def check_all(asked: Request, converted: list[Attempt]) -> None:
    """Fill in what was found in each converted file, or the error."""
    if not converted:
        return
    try:
        expected = reference(asked)
    except InputError as error:
        for one in converted:
            one.outcome = error
        return
    for one in converted:
        assert one.job is not None  # since it was converted
        assert one.variant is not None
        try:
            one.outcome = check(
                *(asked, one.candidate),
                converted=one.job.output,
                path=one.target.path,
                traced=one.variant.traced,
                expected=expected,
                removals=one.variant.removals,
                notes=[one.note] * bool(one.note),
            )
        except (ConversionError, ExportMismatch) as error:
            one.outcome = error


def outcomes_of(asked: Request, attempts: list[Attempt]) -> list[Any]:
    """Per target: the best file with the table of all, an error where none is right, None while one is open."""
    outcomes: list[Any] = []
    for target in asked.targets:
        tried = [one for one in attempts if one.target is target]
        if any(one.outcome is None for one in tried):
            outcomes.append(None)
            continue
        kept = best(tried)
        if kept is None:
            outcomes.append(_error(target, tried))
        elif len(tried) == 1:
            outcomes.append(kept.outcome)
        else:
            rows = tuple(_row(one, one is kept) for one in tried)
            outcomes.append(replace(kept.outcome, candidates=Candidates(rows)))
    return outcomes


def best(tried: list[Attempt]) -> Attempt | None:
    """The smallest file that is right, if there is one."""
    right = [one for one in tried if isinstance(one.outcome, ExportedFile)]
    return min(right, key=lambda one: (one.outcome.bytes, one.outcome.gzip_bytes), default=None)


def _row(one: Attempt, kept: bool) -> Tried:
    if isinstance(one.outcome, Exception):
        return Tried(one.candidate.name, reason=" ".join(str(one.outcome).split()))
    found = one.outcome
    return Tried(
        *(one.candidate.name, found.bytes, found.gzip_bytes, found.max_difference, found.rms_difference), kept=kept
    )


def _error(target: Target, tried: list[Attempt]) -> Exception:
    first = tried[0].outcome
    if target.quantize != SMALLEST or isinstance(first, InputError):
        return first  # the dense file's, or what is wrong with the model itself
    reasons = "; ".join(f"{one.candidate.name}: {one.outcome}" for one in tried)
    return ExportMismatch(f"{SMALLEST}: none of {len(tried)} files is right: {reasons}")
