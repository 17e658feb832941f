"""The main job: from data to a pruned autoencoder, checked .tflite files and a report."""

from keras_aeprune.pipeline.budgeted import Compressed, compress_to_budget
from keras_aeprune.pipeline.export_file import ExportFile, export_file
from keras_aeprune.pipeline.job import Result, compress
from keras_aeprune.pipeline.plan import Plan, plan
from keras_aeprune.pipeline.prune_file import PrunedFile, prune_file
from keras_aeprune.pipeline.search_files import SearchFiles, search_files
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.pipeline.shrink_file import ShrunkFile, shrink_file

__all__ = [
    "Compressed",
    "ExportFile",
    "Plan",
    "PrunedFile",
    "Result",
    "SearchFiles",
    "Settings",
    "ShrunkFile",
    "compress",
    "compress_to_budget",
    "export_file",
    "plan",
    "prune_file",
    "search_files",
    "shrink_file",
]
