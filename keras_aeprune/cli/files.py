"""Commands for files: export, inspect, report, pack, unpack."""

from __future__ import annotations

from typing import Any

from keras_aeprune.cli.options import command, names

__all__ = ["COMMANDS"]


def add_export(commands: Any) -> None:
    """Options of `export`."""
    export = command(
        commands,
        "export",
        help="model.keras -> a checked .tflite or .onnx file",
        description="Convert a model, run the file, compare it with the model; only then keep it.",
    )
    export.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    export.add_argument("--out", required=True, metavar="FILE", help="ends in .tflite or .onnx")
    export.add_argument(
        "--quantize",
        metavar="NAME",
        help="float16, dynamic, int8, int8_io, int16x8 or smallest (float32)",
    )
    export.add_argument("--data", help="as DATA of compress; int8 needs it, and the file is compared on it")
    export.add_argument("--samples", type=int, default=256, metavar="N", help="of the data, at most (256)")
    export.add_argument("--batch", type=int, metavar="N", help="samples an invoke takes (.tflite 1, .onnx any)")
    export.add_argument("--sparse", default="auto", help="sparse encoding of zeros: auto (default), yes or no")
    export.add_argument("--unroll", default="auto", help="recurrent layers unrolled: auto (default), yes or no")
    export.add_argument("--parts", type=names, metavar="A,B", help="signatures of one file: encoder,decoder")
    export.add_argument("--labels", type=names, metavar="A,B", help="names of classes, kept in the file")
    export.add_argument("--scale", default="none", help="none (default), auto, unit or standard")
    export.add_argument("--key", help="which array of a .npz file")
    export.add_argument("--seed", type=int, default=0, help="of the draw of samples (default 0)")


def add_inspect(commands: Any) -> None:
    """Options of `inspect`."""
    inspect = command(
        commands,
        "inspect",
        help="what is in a .keras, .h5 or .tflite file, layer by layer",
        description="Print layers, parameters, zeros, multiplications and bytes of a file, and hints.",
    )
    inspect.add_argument("path", metavar="FILE", help="a .keras, .h5, .hdf5 or .tflite file")
    inspect.add_argument("--data", help="as DATA of compress; finds layers that never fire")


def add_report(commands: Any) -> None:
    """Options of `report`."""
    report = command(
        commands,
        "report",
        help="models and files beside each other: one table, one page",
        description="Compare models and files by size, work, latency and error; write a table and a page.",
    )
    report.add_argument("models", nargs="+", metavar="MODEL", help="files, or folders of them")
    report.add_argument("--data", help="as DATA of compress")
    report.add_argument("--out", default="report", metavar="DIR", help="folder for the page (report)")
    report.add_argument("--scale", default="none", help="none (default), auto, unit or standard")
    report.add_argument("--samples", type=int, default=1000, metavar="N", help="samples for the error (1000)")
    report.add_argument("--runs", type=int, default=200, metavar="N", help="readings of each time (200); 0: none")
    report.add_argument("--key", help="which array of a .npz file")
    report.add_argument("--seed", type=int, default=0, help="of the draw of samples (default 0)")
    report.add_argument("--quiet", action="store_true", help="no progress lines")


def add_pack(commands: Any) -> None:
    """Options of `pack`."""
    pack = command(
        commands,
        "pack",
        help="a model as one entropy-coded file, to send or to keep",
        description="Share weights, code zeros and values; the file is read back before it is kept.",
    )
    pack.add_argument("model", metavar="MODEL", help="a .keras, .h5 or .tflite file")
    pack.add_argument("--out", dest="path", required=True, metavar="FILE", help="the file to write, such as m.kap")
    pack.add_argument("--bits", default="5", metavar="B", help="values a kernel shares, as bits (5); exact: all")
    pack.add_argument("--base", metavar="MODEL", help="store only the difference from this model")


def add_unpack(commands: Any) -> None:
    """Options of `unpack`."""
    unpack = command(
        commands,
        "unpack",
        help="a packed file -> the model",
        description="Write the .keras or .tflite file that was packed.",
    )
    unpack.add_argument("path", metavar="FILE", help="a packed file")
    unpack.add_argument("--out", required=True, metavar="FILE", help=".keras or .tflite, as it was packed")
    unpack.add_argument("--base", metavar="MODEL", help="the model that the difference belongs to")


def run_export(arguments: dict[str, Any]) -> Any:
    """Run `export`."""
    from keras_aeprune.pipeline.export_file import export_file

    return export_file(arguments.pop("model"), arguments.pop("out"), **arguments)


def run_inspect(arguments: dict[str, Any]) -> Any:
    """Run `inspect`."""
    from keras_aeprune.report import inspect_file

    return inspect_file(**arguments)


def run_report(arguments: dict[str, Any]) -> Any:
    """Run `report`."""
    from keras_aeprune.report import compare

    quiet = arguments.pop("quiet")
    return compare(arguments.pop("models"), progress=not quiet, **arguments)


def run_pack(arguments: dict[str, Any]) -> Any:
    """Run `pack`."""
    from keras_aeprune._validation import InputError
    from keras_aeprune.compression import pack

    bits = arguments.pop("bits")
    if bits != "exact" and not bits.isdigit():
        raise InputError(f"--bits: got {bits!r}, allowed: a whole number from 1 to 8, or exact")
    return pack(arguments.pop("model"), bits=None if bits == "exact" else int(bits), **arguments)


def run_unpack(arguments: dict[str, Any]) -> Any:
    """Run `unpack`."""
    from keras_aeprune.compression import unpack

    out = arguments["out"]
    unpack(**arguments)
    return out


COMMANDS = {
    "export": (add_export, run_export),
    "inspect": (add_inspect, run_inspect),
    "report": (add_report, run_report),
    "pack": (add_pack, run_pack),
    "unpack": (add_unpack, run_unpack),
}
