import io
import sys

import keras
import numpy as np
import pytest

from keras_aeprune._progress import _Terminal, clock
from keras_aeprune.pipeline import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(say, epochs=3):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = np.ones((8, 2), "float32")
    callback = progress.EpochProgress(say, "[1/5] train", lambda: 0.5)
    model.fit(x, x, validation_data=(x, x), epochs=epochs, verbose=0, callbacks=[callback])


def test_every_epoch_is_a_line_with_losses_zeros_and_the_time_left():
    lines = []
    fit(lambda text, final: lines.append((text, final)))
    assert [final for _, final in lines] == [False, False, False, True]
    assert "[1/5] train: epoch 2/3  loss " in lines[2][0]
    assert "val_loss" in lines[2][0]
    assert "zeros 0.500" in lines[2][0]
    assert lines[2][0].endswith("left")
    assert not lines[3][0].endswith("left")


def test_a_terminal_gets_one_line_that_changes(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    fit(_Terminal())
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r\x1b[2K") == 3


def test_a_file_gets_few_whole_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    fit(_Terminal(), epochs=20)
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 2
    assert "epoch 20/20" in lines[-1]
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_times_read_as_a_person_says_them(value, text):
    assert clock(value) == text
