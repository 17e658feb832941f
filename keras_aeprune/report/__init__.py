"""Sizes, errors and times as numbers, pictures and one page.

- `compare`  any models and files beside each other, as a table and as one page
- `inspect`  what is in a model or a file, layer by layer, and what could be done about it
- `measure`  numbers from models, arrays and files
- `plots`    pictures from those numbers
- `html`     report.html and report.json of a run
- `text`     the sentence on top, the notes, and the table for the terminal
"""

from keras_aeprune.report.html import page, write
from keras_aeprune.report.inspected import Inspection
from keras_aeprune.report.inspection import inspect, inspect_file
from keras_aeprune.report.measure import (
    environment,
    file_sizes,
    macs,
    mean_error,
    mse,
    parameters,
    per_sample_mse,
)
from keras_aeprune.report.plots import (
    error_against_width,
    figures,
    loss_curves,
    reconstructions,
    size_against_error,
    zeros_per_layer,
)
from keras_aeprune.report.text import headline, notes, table
from keras_aeprune.report.versus import Comparison, compare

__all__ = [
    "Comparison",
    "Inspection",
    "compare",
    "environment",
    "error_against_width",
    "figures",
    "file_sizes",
    "headline",
    "inspect",
    "inspect_file",
    "loss_curves",
    "macs",
    "mean_error",
    "mse",
    "notes",
    "page",
    "parameters",
    "per_sample_mse",
    "reconstructions",
    "size_against_error",
    "table",
    "write",
    "zeros_per_layer",
]
