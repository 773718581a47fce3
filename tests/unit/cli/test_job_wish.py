"""What `car jobs create` asks for, from its options."""

import pytest

from cli.errors import UsageError
from cli.service.connection_settings import api_address
from cli.service.job_request import read_manifest, vocabulary_request


def test_labels_with_prompts_of_their_own_keep_them(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text('car\n{"name": "bus", "prompts": ["bus", "coach"]}\n')
    assert vocabulary_request(None, file, None, None) == {
        "labels": ["car", {"name": "bus", "prompts": ["bus", "coach"]}]
    }


def test_own_background_words_are_a_list_and_names_stay_names():
    assert vocabulary_request("car", None, None, "sky, road")["background"] == ["sky", " road"]
    assert vocabulary_request("car", None, None, "terrestrial+man-made")["background"] == "terrestrial+man-made"


def test_a_stored_vocabulary_is_asked_for_by_name_and_not_beside_labels():
    assert vocabulary_request(None, None, "defects@3", None) == {"vocabulary": "defects@3"}
    with pytest.raises(UsageError, match="not two"):
        vocabulary_request("car", None, "defects", None)


def test_a_local_manifest_is_read_without_its_comments(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text('# pictures\ns3://pics/a.jpg\n\n{"uri": "s3://pics/b.jpg"}\n')
    assert read_manifest(file) == ["s3://pics/a.jpg", "s3://pics/b.jpg"]


def test_a_bad_line_of_a_local_manifest_is_named(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("s3://pics/a.jpg\n/home/b.jpg\n")
    with pytest.raises(UsageError, match=r"line 2: .*s3://bucket"):
        read_manifest(file)


def test_a_local_manifest_without_an_address_is_refused(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no address"):
        read_manifest(file)


def test_a_missing_manifest_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_manifest(tmp_path / "nothing.txt")


def test_without_environment_and_engines_the_usual_api_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("CAR_API_URL", raising=False)
    monkeypatch.delenv("CAR_API_KEY", raising=False)
    assert api_address(tmp_path).url == "http://127.0.0.1:9090"


def test_the_environment_counts_before_a_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CAR_API_URL", "https://car.example.org/")
    monkeypatch.setenv("CAR_API_KEY", "car_key")
    found = api_address(tmp_path)
    assert (found.url, found.key) == ("https://car.example.org/", "car_key")
