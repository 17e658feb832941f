import json

import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.pipeline.folder import RunFolder

IDENTITY = {"seed": 0, "hidden_units": (8, 4)}


def test_finished_steps_are_found_again(tmp_path):
    with RunFolder(tmp_path / "run", IDENTITY) as run:
        run.finish("dense", {"loss": 0.5})
    with RunFolder(tmp_path / "run", IDENTITY) as run:
        assert run.finished("dense") == {"loss": 0.5}
        assert run.finished("prune") is None


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    with RunFolder(tmp_path, IDENTITY):
        pass
    (tmp_path / ".unfinished-7-model.keras").write_text("half")
    (tmp_path / "steps" / ".unfinished-7-dense.json").write_text("{")
    with RunFolder(tmp_path, IDENTITY):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "run.json", "steps"]
        assert not list((tmp_path / "steps").iterdir())
    assert not (tmp_path / ".lock").exists()


def test_another_identity_is_refused_with_the_first_difference(tmp_path):
    with RunFolder(tmp_path, IDENTITY):
        pass
    with pytest.raises(InputError, match=r"another run \(seed was 0 and is 1 now\), allowed: the same arguments"):
        RunFolder(tmp_path, {**IDENTITY, "seed": 1})
    with RunFolder(tmp_path, IDENTITY):  # and the folder is not locked by the refused one
        pass


def test_a_folder_with_other_files_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match="a folder with other files and no run.json"):
        RunFolder(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    with RunFolder(tmp_path, IDENTITY), pytest.raises(InputError, match="another process is at work"):
        RunFolder(tmp_path, IDENTITY)


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_damaged_manifest_is_an_error_and_not_a_new_run(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="which cannot be read"):
        RunFolder(tmp_path, IDENTITY)
    assert (tmp_path / "run.json").read_text() == text


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="where nothing can be written"):
        RunFolder(tmp_path / "run", IDENTITY)


def test_the_manifest_is_the_identity(tmp_path):
    with RunFolder(tmp_path, IDENTITY):
        assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 0, "hidden_units": [8, 4]}
