"""Find by trying: which criterion and which allocation, measured on validation data."""

from keras_aeprune.search.choice import Candidate, Choice, choose_criterion

__all__ = ["Candidate", "Choice", "choose_criterion"]
