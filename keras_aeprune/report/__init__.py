"""Sizes, errors and times as numbers, pictures and one page.

- `measure`  numbers from models, arrays and files
- `plots`    pictures from those numbers
- `html`     report.html and report.json
- `text`     the sentence on top, the notes, and the table for the terminal
"""

from keras_aeprune.report.html import page, write
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

__all__ = [
    "environment",
    "error_against_width",
    "figures",
    "file_sizes",
    "headline",
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
