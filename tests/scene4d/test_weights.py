"""Where weights are looked for."""

from pathlib import Path

import pytest

from scene4d.errors import InputError
from scene4d.weights import MissingWeightsError, find_weights, weights_dirs


def test_variable_names_the_folders_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("SCENE4D_WEIGHTS", "/data/weights:~/mine")
    assert weights_dirs() == [Path("/data/weights"), Path("/home/someone/mine")]


@pytest.mark.parametrize(
    ("cache", "expected"),
    [("", "/home/someone/.cache"), ("/scratch/cache", "/scratch/cache"), ("not/absolute", "/home/someone/.cache")],
)
def test_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, cache: str, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("SCENE4D_WEIGHTS", "")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert weights_dirs() == [Path(expected) / "scene4d" / "weights"]


def test_first_folder_that_has_all_files_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE4D_WEIGHTS", f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c")
    for place in ("a/net/config.json", "b/net/config.json", "b/net/model.bin", "c/net/config.json", "c/net/model.bin"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert find_weights("net", ["config.json", "model.bin"], "") == tmp_path / "b" / "net"


def test_missing_weights_name_the_files_the_folders_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENE4D_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError) as caught:
        find_weights("net", ["model.bin"], "copy them there")
    assert isinstance(caught.value, InputError)  # so the command line ends with exit code 2
    assert all(part in str(caught.value) for part in ("net", "model.bin", str(tmp_path / "net"), "copy them there"))
