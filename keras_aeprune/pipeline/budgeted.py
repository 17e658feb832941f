"""compress() with a budget: a model of the user's own, or the narrowest good one for data, brought into limits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras

from keras_aeprune import datasets, models, report
from keras_aeprune._files import fingerprint, write_json, writing
from keras_aeprune._progress import Say, no_retracing_lines, silent, to_stderr
from keras_aeprune._validation import BudgetError, InputError, one_of, positive_int, positive_number
from keras_aeprune._version import __version__
from keras_aeprune.compression.codec import pack
from keras_aeprune.pipeline.budget import Budget
from keras_aeprune.pipeline.folder import RunFolder
from keras_aeprune.pipeline.ladder import Ladder, Task
from keras_aeprune.pipeline.model_files import compile_for, evaluated, shaped, targets_of
from keras_aeprune.search.width import encoding_width

__all__ = ["Compressed", "compress_to_budget"]

_FORMAT = 1
_TARGETS = {  # what a device is given: precision of the file, multiple of which widths are
    "phone": ("int8", 8),
    "micro": ("int8_io", 4),
}


@dataclass(frozen=True)
class Compressed:
    """What `compress_to_budget` made; prints what each step bought.

    Attributes:
        folder: of the run.
        rows: each step's file: bytes, latency, scores on the validation and the test samples.
        chosen: the row that was handed out.
        files: {"model.keras", "model.tflite", "model.kap", "report.html", "report.json": path}.
        notes: what was done to the data on the way in.

    Example:
        >>> same = {"parameters": 34248, "macs": 33792, "gzip_bytes": 9000, "latency_us": 5.0, "bought": ""}
        >>> given = {"step": "given", "bytes": 139000, "latency_ratio": 1.0, "test_scores": {"mse": 0.013}, **same}
        >>> int8 = {"step": "int8", "bytes": 41000, "latency_ratio": 0.5, "test_scores": {"mse": 0.0131}, **same}
        >>> found = Compressed(Path("run"), (given, int8), int8, {"model.tflite": Path("run/model.tflite")})
        >>> found.chosen["step"], found.chosen["bytes"], found.files["model.tflite"].name
        ('int8', 41000, 'model.tflite')
        >>> [line.split()[0] for line in str(found).splitlines()[1:3]]
        ['given', 'int8']
    """

    folder: Path
    rows: tuple[dict[str, Any], ...]
    chosen: dict[str, Any]
    files: dict[str, Path]
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> keras.Model:
        """The compressed model, loaded from its file."""
        return models.load(self.files["model.keras"])

    def __str__(self) -> str:
        return "\n".join([table(self.rows, self.chosen), *self.notes, "", *map(str, self.files.values())])


def table(rows: Any, chosen: Mapping[str, Any] | None = None) -> str:
    """What each step bought, in text."""
    metrics = list(rows[0]["test_scores"])
    head = ["", "parameters", "MACs", "bytes", "zipped", "us", "smaller", "faster", *metrics, ""]
    lines = [head]
    first = rows[0]
    for row in rows:
        mark = " *" if chosen is not None and row["step"] == chosen["step"] else ""
        scores = [f"{row['test_scores'][name]:.5g}" for name in metrics]
        smaller, faster = first["bytes"] / row["bytes"], 1 / row["latency_ratio"]
        lines.append(
            [
                *(row["step"] + mark, f"{row['parameters']:,}", f"{row['macs']:,}", f"{row['bytes']:,}"),
                *(f"{row['gzip_bytes']:,}", f"{row['latency_us']:.1f}", f"{smaller:.1f}x", f"{faster:.1f}x"),
                *scores,
                row["bought"],
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if i in (0, len(head) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, f"* is model.tflite; {', '.join(metrics)}: of the files, on the test samples"])


def compress_to_budget(
    data: Any,
    out: str | Path,
    *,
    model: str | Path | keras.Model | None = None,
    max_size: int | str | None = None,
    max_latency: float | str | None = None,
    max_error_increase: float | None = None,
    max_drop: Mapping[str, float] | None = None,
    target: str = "phone",
    encoding_dim: int | None = None,
    epochs: int = 15,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    loss: str | None = None,
    key: str | None = None,
    scale: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Make a model keep to a size, a latency and a loss of quality, and say which step bought what.

    Use it on a trained model of your own, or on data alone: then the narrowest good autoencoder for them is found
    first (`search.encoding_width`). The steps, each measured as the .tflite file that a device would get: the
    given model in float32; quantized; cut in rounds (`shrinking.shrink_until`) towards the parameters that the
    size leaves room for, or the multiplications that the latency does; trained for the quantization where that
    costs too much. It stops at the first file that keeps to the budget. Without a size or latency it goes on for
    as long as the quality allows. Limits are judged on the validation samples, the table shows the test samples.
    Killed and called again with the same arguments, it goes on from the last finished step.

    Args:
        data: as for `compress`; labels are used where the model does not reconstruct its input.
        out: the folder for results; new, empty, or of this same run.
        model: a .keras or .h5 file, or a compiled model; None searches an autoencoder for the data.
        max_size: bytes of the .tflite file, or text such as "60KB" (1 KB = 1,000 bytes), > 0.
        max_latency: median of one invoke on this machine with one thread, microseconds or text such as "50us".
        max_error_increase: fraction by which the loss may grow, >= 0; 0.05 where no limit is given at all.
        max_drop: {compiled metric: by how much it may get worse}, such as {"accuracy": 0.01}.
        target: "phone": int8 with float32 input and output, widths in multiples of 8; the float32 file only where
            no int8 one keeps to the budget. "micro": int8 input and output, multiples of 4.
        encoding_dim: width of the code, where there is no model; None searches it.
        epochs: passes of the training after a cut, >= 1; a round has a fifth of them.
        batch_size: samples per optimizer step, >= 1.
        learning_rate: of Adam, > 0.
        loss: a Keras loss name, for a model that was saved without one.
        key: which array of a .npz file.
        scale: as for `datasets.load`; None is "none" with a model and "auto" without.
        seed: of everything random, 0 <= seed < 2**31.
        progress: print progress lines to standard error.

    Returns:
        A `Compressed`; `print(it)` shows the table.

    Raises:
        InputError: for a model, data or arguments that cannot be used.
        BudgetError: if the budget cannot be kept; the message has the nearest that was reached, whose files stay
            in the folder.

    Example:
        >>> found = compress_to_budget("x.npz", "run", model="model.keras", max_size="60KB")   # doctest: +SKIP
    """
    budget = Budget.of(max_size, max_latency, max_error_increase, max_drop)
    one_of("target", target, list(_TARGETS))
    positive_int("epochs", epochs)
    positive_int("batch_size", batch_size)
    positive_int("seed", seed, minimum=0, maximum=2**31 - 1)
    positive_number("learning_rate", learning_rate)
    if model is not None and encoding_dim is not None:
        raise InputError("encoding_dim: got it with a model, allowed: without one, whose code it is the width of")
    if scale is None:
        scale = "auto" if model is None else "none"
    loaded = datasets.load(data, key=key, seed=seed, scale=scale)
    say = to_stderr if progress else silent
    identity = {
        "format": _FORMAT,
        "version": __version__,
        "data": [loaded.name, loaded.fingerprint, scale],
        "budget": asdict(budget),
        "target": target,
        "training": [epochs, batch_size, learning_rate, loss, seed],
        "encoding_dim": encoding_dim,
    }
    if model is None:
        loaded = loaded.flat
        identity["model"] = None
    else:
        network = model if isinstance(model, keras.Model) else models.load(model)
        compile_for(network, loss, None)
        identity["model"] = fingerprint(network.get_weights())
        inputs, notes = shaped(network, loaded)
        wanted, more = targets_of(network, loaded, inputs)
        evaluated(network, inputs["test"][:1], wanted["test"][:1])
    with RunFolder(out, identity) as run, no_retracing_lines():
        if model is None:
            network, inputs, wanted, notes, more = _searched(loaded, run, encoding_dim, epochs, seed, say)
        keras.utils.set_random_seed(seed)
        precision, round_to = _TARGETS[target]
        samples = {name: (inputs[name], wanted[name]) for name in inputs}
        task = Task(samples, budget, precision, round_to, epochs, batch_size, learning_rate, seed, progress)
        ladder = Ladder(network, task, run, say)
        ladder.climb()
        return _handed_out(ladder, run, network, (*loaded.notes, *notes, *more))


def _searched(
    data: Any, run: RunFolder, encoding_dim: int | None, epochs: int, seed: int, say: Say
) -> tuple[keras.Model, Any, Any, list[str], list[str]]:
    """The narrowest good autoencoder for the data, and its samples."""
    inputs = {name: getattr(data, f"x_{name}") for name in ("train", "validation", "test")}
    middle, _ = models.default_sizes(data.features, encoding_dim)
    step = max(1, middle // 4)
    widths = (
        [encoding_dim] if encoding_dim else [w for w in range(step, 2 * middle + 1, step) if w < data.features]
    )
    found = encoding_width(
        data,
        widths,
        directory=run.path / "search",
        max_epochs=2 * epochs,
        seeds=1,
        seed=seed,
        progress=say is not silent,
    )
    network = found.model
    if not network.compiled:
        network.compile("adam", "mse")
    note = f"code of {found.encoding_dim} numbers: the narrowest good one of {widths[0]} to {widths[-1]}"
    return network, inputs, inputs, [note if len(widths) > 1 else f"code of {found.encoding_dim} numbers"], []


def _handed_out(ladder: Ladder, run: RunFolder, network: keras.Model, notes: tuple[str, ...]) -> Compressed:
    """The chosen files under their names, and the record; or an error with the nearest."""
    chosen = ladder.best()
    row = ladder.nearest() if chosen is None else chosen
    name = "nearest" if chosen is None else "model"
    missed = ladder.task.budget.missed(row, ladder.given)
    record = run.finished("handed_out")
    if record is None:
        made, said = _written(ladder, run, network, row, name)
        outcome = {"chosen": None if chosen is None else row["step"], "missed": missed, "notes": [*notes, said]}
        write_json(run.path / "report.json", {"rows": ladder.rows, **outcome})
        record = {"files": [*made, "report.json"], "said": said}
        run.finish("handed_out", record)
    files = {Path(made).name: run.path / made for made in record["files"]}
    if chosen is None:
        words = "; ".join(f"{limit} ({text})" for limit, text in missed.items())
        raise BudgetError(
            f"budget: the nearest that was reached, step {row['step']!r}, misses {words}; it is kept as "
            f"{str(files['nearest.tflite'])!r}. Allow more size, time or error, train longer (epochs), or give a "
            "model that was better to begin with"
        )
    return Compressed(run.path, tuple(ladder.rows), chosen, files, (*notes, record["said"]))


def _written(
    ladder: Ladder, run: RunFolder, network: keras.Model, row: Mapping[str, Any], name: str
) -> tuple[list[str], str]:
    """Names of the files that were written for one row, and what is to be said of them."""
    with writing(run.path / f"{name}.keras") as temporary:
        if row["model"] is None:
            network.save(temporary)
        else:
            shutil.copyfile(run.path / "steps" / f"{row['model']}.keras", temporary)
    file = run.path / f"{name}.tflite"
    with writing(file) as temporary:
        shutil.copyfile(run.path / "steps" / row["file"], temporary)
    made, packed = [f"{name}.keras", file.name], {}
    said = "not packed for a download: pip install 'keras-aeprune[pack]'"
    if find_spec("constriction") is not None:
        packed[name] = run.path / f"{name}.kap"
        size = pack(file, packed[name], bits=None).bytes
        said = f"packed for a download: {size:,} bytes, the same .tflite after `unpack`"
        made.append(f"{name}.kap")
    report.compare(
        {"given": run.path / "steps" / ladder.given["file"], name: file},
        ladder.task.data("test"),
        run.path / "report",
        packed=packed,
        seed=ladder.task.seed,
        progress=False,
    )
    return [*made, "report/report.html"], said
