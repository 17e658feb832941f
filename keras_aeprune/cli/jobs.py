"""Commands that train: compress, prune, shrink, search."""

from __future__ import annotations

from typing import Any

from keras_aeprune.cli.options import add_data_options, command, drop, widths

__all__ = ["COMMANDS"]


def add_compress(commands: Any) -> None:
    """Options of `compress`."""
    compress = command(
        commands,
        "compress",
        help="data -> autoencoder -> pruned, checked .tflite files and a report",
        description="Train an autoencoder on data, prune it, export checked .tflite files, and report.",
    )
    compress.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="digits, mnist, fashion_mnist, cifar10, a .npy, .npz or .csv file, or a folder of images",
    )
    compress.add_argument("--data", dest="more_data", metavar="DATA", help="the same, beside --model")
    compress.add_argument("--model", metavar="FILE", help="a .keras or .h5 file to bring into the limits")
    compress.add_argument("--max-size", metavar="SIZE", help="of the .tflite file: 60KB, 64KiB, 1.5MB or bytes")
    compress.add_argument("--max-latency", metavar="TIME", help="of one invoke here: 50us, 2ms or microseconds")
    compress.add_argument(
        "--max-drop",
        action="append",
        type=drop,
        metavar="METRIC=D",
        help="how much a compiled metric may get worse: accuracy=0.01; may be given several times",
    )
    compress.add_argument("--target", help="phone (int8 inside) or micro (int8 input and output too)")
    compress.add_argument("--loss", help="for a model saved without one")
    compress.add_argument("--scale", help="with a budget: none, auto, unit or standard")
    compress.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    compress.add_argument("--sparsity", type=float, help="fraction of weights set to zero (0.9)")
    compress.add_argument("--encoding-dim", type=int, help="width of the code (default: from the data)")
    compress.add_argument(
        "--hidden-units", type=widths, metavar="A,B", help="widths of the encoder's hidden layers"
    )
    compress.add_argument(
        "--max-error-increase",
        type=float,
        metavar="F",
        help="also cut units and layers out, as long as the error grows by at most this fraction; with a model or "
        "other limits: how much it may grow",
    )
    compress.add_argument("--max-time", metavar="TIME", help="limit for the whole run: 90, 90s, 5m, 1h")
    compress.add_argument("--dry-run", action="store_true", help="print the plan and its cost, write nothing")
    add_data_options(compress)


def add_prune(commands: Any) -> None:
    """Options of `prune`."""
    prune = command(
        commands,
        "prune",
        help="prune a model of your own: model.keras -> pruned.keras",
        description="Prune a Keras model on data with its compiled loss and save a plain .keras file.",
    )
    prune.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    prune.add_argument("--data", required=True, help="as DATA of compress; labels y are used if there")
    prune.add_argument("--out", required=True, metavar="FILE", help="the .keras file to write")
    prune.add_argument("--sparsity", type=float, default=0.9, help="fraction of weights set to zero (0.9)")
    prune.add_argument(
        "--criterion", default="magnitude", metavar="NAME", help="which weights go first (magnitude); see names"
    )
    prune.add_argument(
        "--criterion-samples",
        type=int,
        default=2048,
        metavar="N",
        help="training samples for a criterion or allocation that needs data (2048)",
    )
    prune.add_argument(
        "--allocation", default="global", metavar="NAME", help="global (default), uniform, erk or entropy"
    )
    prune.add_argument("--include", nargs="+", metavar="LAYER", help="prune only these (names or patterns)")
    prune.add_argument("--exclude", nargs="+", metavar="LAYER", help="leave these alone")
    prune.add_argument("--loss", help="for a model saved without one")
    prune.add_argument("--learning-rate", type=float, help="default: the compiled one")
    prune.add_argument("--batch-size", type=int, default=128, help="samples per step (128)")
    prune.add_argument("--scale", default="none", help="none (default), auto, unit or standard")
    add_data_options(prune)


def add_shrink(commands: Any) -> None:
    """Options of `shrink`."""
    shrink = command(
        commands,
        "shrink",
        help="cut units and layers out of a model of your own: model.keras -> small.keras",
        description="Cut units and layers out of a Keras model, train what is left, save a plain .keras file.",
    )
    shrink.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    shrink.add_argument("--data", required=True, help="as DATA of compress; labels y are used if there")
    shrink.add_argument("--out", required=True, metavar="FILE", help="the .keras file to write")
    shrink.add_argument(
        "--max-error-increase", type=float, metavar="F", help="fraction by which the loss may grow (0.05)"
    )
    shrink.add_argument("--keep", type=float, metavar="F", help="one cut: fraction of units that stay everywhere")
    shrink.add_argument("--target-params", type=float, metavar="N", help="numbers in all weights at most")
    shrink.add_argument("--target-macs", type=float, metavar="N", help="multiplications for one sample at most")
    shrink.add_argument("--target-bytes", type=float, metavar="N", help="bytes of float32 weights at most")
    shrink.add_argument(
        "--criterion", default="elimination", metavar="NAME", help="which units go first (elimination); see names"
    )
    shrink.add_argument("--no-layers", dest="layers", action="store_false", help="only units, no whole layers")
    shrink.add_argument("--activations", action="store_true", help="make activations simpler first: gelu to relu")
    shrink.add_argument("--mirror", action="store_true", help="equal widths in encoder and decoder")
    shrink.add_argument("--round-to", type=int, default=8, metavar="N", help="widths are multiples of this (8)")
    shrink.add_argument("--dry-run", action="store_true", help="print the plan of one cut, write no model")
    shrink.add_argument(
        "--plan", dest="plan_file", metavar="FILE", help="write the plan of one cut (--keep, --dry-run) as JSON"
    )
    shrink.add_argument("--loss", help="for a model saved without one")
    shrink.add_argument("--learning-rate", type=float, help="of Adam (0.001)")
    shrink.add_argument("--batch-size", type=int, default=128, help="samples per step (128)")
    shrink.add_argument("--scale", help="none, auto (as compress), unit or standard (default: none, but checked)")
    add_data_options(shrink)


def add_search(commands: Any) -> None:
    """Options of `search`."""
    search = command(
        commands,
        "search",
        help="data -> the narrowest code that is still good, its curve and its model",
        description="Find the narrowest good code of an autoencoder; write the answer, its curve and the model.",
    )
    search.add_argument("data", metavar="DATA", help="as DATA of compress")
    search.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    search.add_argument("--widths", default="16:64:4", help="FIRST:LAST:STEP or A,B,C (16:64:4)")
    search.add_argument(
        "--tolerance", type=float, default=0.05, help="fraction of the way from the best loss to the mean's (0.05)"
    )
    search.add_argument("--choose", default="tolerance", help="tolerance (default), knee, pareto or budget")
    search.add_argument("--method", default="auto", help="auto (default), screen or hyperband")
    search.add_argument("--kind", default="dense", help="dense (default), convolutional, recurrent, ...")
    search.add_argument("--hidden-units", type=widths, metavar="A,B", help="as for compress")
    search.add_argument("--max-epochs", type=int, default=30, help="passes of one full training (30)")
    search.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (0.001)")
    search.add_argument("--seeds", type=int, default=3, help="trainings of each candidate (3)")
    search.add_argument("--max-bytes", type=int, metavar="BYTES", help="largest float32 .tflite file")
    search.add_argument("--max-latency", type=float, metavar="MS", help="longest time for one sample")
    search.add_argument("--sparsity", type=float, help="fraction of weights set to zero in each trial")
    search.add_argument("--criterion", metavar="NAME", help="which weights go first; see names")
    search.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the trials of hyperband (default: one)"
    )
    search.add_argument("--key", help="which array of a .npz file")
    search.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    search.add_argument("--quiet", action="store_true", help="no progress lines")


def run_compress(arguments: dict[str, Any]) -> Any:
    """Run `compress`."""
    from keras_aeprune import pipeline
    from keras_aeprune._validation import InputError

    quiet, dry_run = arguments.pop("quiet"), arguments.pop("dry_run")
    places = [arguments.pop("data"), arguments.pop("more_data")]
    if (places[0] is None) == (places[1] is None):
        raise InputError(f"DATA: got {places[0]!r} and --data {places[1]!r}, allowed: one of them")
    arguments["data"] = places[0] if places[1] is None else places[1]
    if arguments["max_drop"] is not None:
        arguments["max_drop"] = dict(arguments["max_drop"])
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if dry_run:
        arguments.pop("out")
        budget = {"model", "max_size", "max_latency", "max_drop", "target", "loss", "scale"} & set(arguments)
        if budget:
            raise InputError(f"--dry-run: got it with {', '.join(sorted(budget))}, allowed: without a budget")
        return pipeline.plan(arguments.pop("data"), **arguments)
    return pipeline.compress(arguments.pop("data"), arguments.pop("out"), progress=not quiet, **arguments)


def run_prune(arguments: dict[str, Any]) -> Any:
    """Run `prune`."""
    from keras_aeprune import pipeline

    quiet = arguments.pop("quiet")
    if arguments["epochs"] is None:
        arguments.pop("epochs")
    places = [arguments.pop(name) for name in ("model", "data", "out")]
    return pipeline.prune_file(*places, progress=not quiet, **arguments)


def run_shrink(arguments: dict[str, Any]) -> Any:
    """Run `shrink`."""
    from keras_aeprune.pipeline.shrink_file import shrink_file

    quiet = arguments.pop("quiet")
    if arguments["epochs"] is None:
        arguments.pop("epochs")
    places = [arguments.pop(name) for name in ("model", "data", "out")]
    return shrink_file(*places, progress=not quiet, **arguments)


def run_search(arguments: dict[str, Any]) -> Any:
    """Run `search`."""
    from keras_aeprune.pipeline.search_files import search_files

    quiet = arguments.pop("quiet")
    return search_files(arguments.pop("data"), arguments.pop("out"), progress=not quiet, **arguments)


COMMANDS = {
    "compress": (add_compress, run_compress),
    "prune": (add_prune, run_prune),
    "shrink": (add_shrink, run_shrink),
    "search": (add_search, run_search),
}
