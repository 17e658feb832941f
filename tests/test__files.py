import json

import pytest

from keras_aeprune import _files
from keras_aeprune._validation import InputError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), _files.writing(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    with _files.writing(tmp_path / "a.bin") as temporary:
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"whole")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"whole"


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), _files.writing(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"


def test_json_is_sorted_and_refuses_nan(tmp_path):
    _files.write_json(tmp_path / "a.json", {"b": 1, "a": [0.5]})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="JSON"):
        _files.write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: got .*where nothing can be written"):
        _files.writable_folder("out", tmp_path / "file")
    with pytest.raises(InputError, match="out: got .*where nothing can be written"):
        _files.writable_folder("out", tmp_path / "file" / "below")
    assert _files.writable_folder("out", tmp_path / "a" / "b").is_dir()


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / f"{_files.PREFIX}123-model.keras").write_text("half")
    (tmp_path / "model.keras").write_text("whole")
    _files.remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
