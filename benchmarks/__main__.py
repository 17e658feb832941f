"""python -m benchmarks NAME: print a side-by-side table and write its numbers as JSON.

Each script has `run(quick) -> dict` and `show(result) -> str`; one that was finished is not run again
unless --again is given. Real data are found through the environment variable KERAS_AEPRUNE_DATA.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RESULTS = Path(__file__).parent / "results"
NAMES = (
    "import_time",
    "overhead",
    "mask_update",
    "main_job",
    "against_tfmot",
    "against_tfmot_often",
    "reconstruction",
    "published_autoencoders",
    "vae",
    "anomalies",
    "embeddings",
    "few_labels",
    "replacement",
    "fisher_time",
    "woodfisher",
    "all_criteria",
    "calibration_sources",
    "calibration_controls",
    "pquantml",
    "known_dimension",
    "width_search",
    "trial_cost",
    "search_kills",
    "two_workers",
    "compensation",
    "shrinking",
    "shrinking_convolutional",
    "layer_removal",
    "lenet",
    "order_of_steps",
    "rewinding",
    "coding",
    "export_kinds",
    "zeros",
    "mlperf_anomaly",
)
HEADLINES = (
    "main_job",
    "against_tfmot",
    "shrinking",
    "shrinking_convolutional",
    "reconstruction",
    "few_labels",
    "width_search",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="short runs, nothing written: does it work at all")
    parser.add_argument("--readme", action="store_true", help="write the tables into docs/ and README.md")
    parser.add_argument("--headlines", action="store_true", help="only those whose tables are in README.md")
    parser.add_argument("--again", action="store_true", help="run even where a result is there")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if arguments.readme:
        for path, text in pages().items():
            path.write_text(text, encoding="utf-8")
        return 0
    for name in arguments.names or (HEADLINES if arguments.headlines else NAMES):
        script = importlib.import_module(f"benchmarks.{name}")
        path = RESULTS / f"{name}.json"
        print(f"== {name}: {script.__doc__.splitlines()[0]}", flush=True)
        if path.exists() and not arguments.again and not arguments.quick:
            result = json.loads(path.read_text())
        else:
            began, parts = time.perf_counter(), RESULTS / f"{name}.parts"
            earlier = sum(json.loads(part.read_text()).get("seconds", 0.0) for part in parts.glob("*.json"))
            result = script.run(arguments.quick)
            if not arguments.quick and "skipped" not in result:
                from keras_aeprune._files import write_json
                from keras_aeprune.report import environment

                RESULTS.mkdir(exist_ok=True)
                took = earlier + time.perf_counter() - began
                write_json(path, {**result, "environment": environment(), "took": took})
                shutil.rmtree(parts, ignore_errors=True)  # they are in the result now
        print(script.show(result), flush=True)
    return 0


def pages() -> dict[Path, str]:
    """What docs/benchmarks.md and README.md should be: all tables, and the headlines between the marks."""
    root = Path(__file__).parent.parent
    tables, short, machine = {}, [], None
    for name in NAMES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            script, result = importlib.import_module(f"benchmarks.{name}"), json.loads(path.read_text())
            took = f" Took {result['took'] / 60:.0f} minutes." if "took" in result else ""
            tables[name] = f"{script.__doc__.splitlines()[0]}{took}\n\n```text\n{script.show(result)}\n```\n"
            machine = result["environment"]
            if hasattr(script, "in_short"):
                short.append(f"- {script.in_short(result)} [More](docs/benchmarks.md#{name})\n")
    measured = f"Measured on {machine['cpu']}, {machine['usable_cores']} cores"
    page = [
        "# Measured\n",
        f"{measured}; `python -m benchmarks NAME` prints a table again, `--again` measures it anew. What each "
        "script does stands at its top. Lower errors are better; ratios are within one run.\n",
        *(f"## {name}\n\n{table}" for name, table in tables.items()),
    ]
    readme = root / "README.md"
    text = _between(readme.read_text(encoding="utf-8"), "in short", "".join(short))
    parts = [table for name, table in tables.items() if name in HEADLINES]
    parts.append(f"{measured}. All tables: [docs/benchmarks.md](docs/benchmarks.md).\n")
    return {
        root / "docs" / "benchmarks.md": "\n".join(page),
        readme: _between(text, "benchmarks", "\n".join(parts)),
    }


def _between(text: str, mark: str, new: str) -> str:
    """A text with what stands between <!-- mark --> and <!-- /mark --> replaced."""
    head, rest = text.split(f"<!-- {mark} -->\n")
    _, tail = rest.split(f"<!-- /{mark} -->")
    return f"{head}<!-- {mark} -->\n{new}<!-- /{mark} -->{tail}"


if __name__ == "__main__":
    sys.exit(main())
