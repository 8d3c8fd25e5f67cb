"""Names and calls of the three originals, as programs use them, in skipthoughts, embedding and decoder."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, compact, decoder, embedding, skipthoughts

GOLDENS = Path(__file__).parent / "goldens"
SKIP, JOINT = GOLDENS / "skipthoughts", GOLDENS / "embedding"
TEXTS = ["He sat by the window.", "She smiled.", "The dog ran away.", "He sat by the door."]


@pytest.fixture(scope="module")
def stv():
    return skipthoughts.load_model(SKIP)


@pytest.fixture(scope="module")
def vse():
    return embedding.load_model(JOINT / "coco_embedding.npz")


@pytest.mark.skipif(not Path(compact.FOLDER, "romance.npz").is_file(), reason="no compact models")
class TestSettings:
    def test_without_arguments(self):
        assert skipthoughts.load_model().dim == decoder.load_model().dimctx == 1024
        assert embedding.load_model().dim_image == 1280

    def test_the_settings_count(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("config.py").write_text(f"paths = dict()\npaths['skmodels'] = {str(SKIP)!r}\n"
                                     f"paths['sktables'] = {str(SKIP)!r}\n"
                                     f"paths['vsemodel'] = {str(JOINT / 'coco_embedding.npz')!r}\n")
        assert skipthoughts.load_model().dim == 48
        assert embedding.load_model().n_words == len(np.load(JOINT / "coco_embedding.npz")["Wemb"])

    def test_the_modules_paths_count(self, monkeypatch):
        monkeypatch.setattr(skipthoughts, "path_to_models", str(SKIP) + "/")
        monkeypatch.setattr(skipthoughts, "path_to_tables", str(SKIP) + "/")
        assert skipthoughts.load_model().dim == 48

    def test_half_a_decoder(self):
        with pytest.raises(StorytellerError):
            decoder.load_model(compact.FOLDER + "/romance.npz")


def test_encoder(stv):
    encoder = skipthoughts.Encoder(stv)
    np.testing.assert_array_equal(encoder.encode(TEXTS, True, False, 2, True),
                                  skipthoughts.encode(stv, TEXTS, batch_size=2, use_eos=True))
    np.testing.assert_array_equal(encoder.encode(TEXTS, use_norm=False), stv.encode(TEXTS, use_norm=False))
    with pytest.raises(StorytellerError):
        skipthoughts.Encoder({"utable": {}})


def test_preprocess():
    assert skipthoughts.preprocess(["He sat.", "It isn't."]) == ["He sat .", "It is n't ."]


def test_nn(stv, capsys):
    vectors = skipthoughts.encode(stv, TEXTS)
    scores = vectors @ skipthoughts.encode(stv, ["She smiled."])[0]
    found = skipthoughts.nn(stv, TEXTS, vectors, "She smiled.", k=3)
    assert [i for _, i in found] == list(np.argsort(scores)[::-1][:3]) and found[0] == ("She smiled.", 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["QUERY: She smiled.", "NEAREST: ", "She smiled. 1"] and len(lines) == 5
    with pytest.raises(StorytellerError):
        skipthoughts.nn(stv, TEXTS[:2], vectors, "She smiled.")


def test_words(stv, capsys):
    table = stv["utable"]
    features = skipthoughts.word_features(table)
    words = list(table)
    assert features.shape == (len(table), table[words[0]].shape[0])
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    found = skipthoughts.nn_words(table, features, words[9], k=4)
    assert found == [words[i] for i in np.argsort(features @ table[words[9]])[::-1][:4]]
    assert capsys.readouterr().out.splitlines() == [f"QUERY: {words[9]}", "NEAREST: ", *found]
    with pytest.raises(StorytellerError):
        skipthoughts.nn_words(table, features, "no such word")


def test_models_answer_like_dicts(stv, vse):
    for name, table in (("utable", stv.utable), ("btable", stv.btable)):
        assert len(stv[name]) == len(stv.words) and "no such word" not in stv[name]
        for word in list(stv.words)[:5]:
            np.testing.assert_array_equal(stv[name][word], table[stv.words[word]])
    assert stv["uoptions"]["dim"] + 2 * stv["boptions"]["dim"] == stv.dim and stv["options"] == stv["uoptions"]
    assert vse["worddict"] == vse.worddict and vse["options"]["dim"] == vse.dim
    assert vse["word_idict"][0] == "<eos>" and vse["word_idict"][1] == "UNK"
    assert all(vse["word_idict"][i] == word for word, i in vse.worddict.items())
    for model in (stv, vse):
        with pytest.raises(KeyError):
            model["no such key"]


@pytest.mark.parametrize("left, gone, part", [
    ("uni", ("bi_skip.npz", "bi_skip.npz.pkl", "btable.npy"), slice(0, 24)),
    ("bi", ("uni_skip.npz", "uni_skip.npz.pkl", "utable.npy"), slice(24, 48))])
def test_one_encoder_alone(stv, tmp_path, left, gone, part):
    folder = shutil.copytree(SKIP, tmp_path / left)
    for name in gone:
        (folder / name).unlink()
    model = skipthoughts.load_model(folder)
    whole = skipthoughts.encode(stv, TEXTS)
    assert model.dim == whole[:, part].shape[1]
    np.testing.assert_allclose(skipthoughts.encode(model, TEXTS), whole[:, part], atol=1e-6)
    (folder / gone[2]).write_bytes((SKIP / gone[2]).read_bytes())   # a file of the other: an incomplete download
    with pytest.raises(StorytellerError, match=gone[0]):
        skipthoughts.load_model(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(StorytellerError, match="uni_skip"):
        skipthoughts.load_model(tmp_path)


@pytest.mark.parametrize("arguments", [{"batch_size": None}, {"batch_size": 0}, {"batch_size": True}, {"use_eos": "no"},
                                       {"use_norm": np.zeros(3)}, {"X": np.array("a man")}, {"model": None},
                                       {"model": {"utable": 1}}])
def test_wrong_arguments(stv, arguments):
    with pytest.raises(StorytellerError):
        skipthoughts.encode(**{"model": stv, "X": ["a man"], **arguments})


@pytest.mark.parametrize("arguments", [{"k": 1.5}, {"k": -1}, {"query": ["a"]}, {"query": np.full(5, np.nan)},
                                       {"query": np.ones(4)}, {"vectors": None}, {"vectors": "abc"}])
def test_wrong_arguments_of_nearest(arguments):
    with pytest.raises(StorytellerError):
        embedding.nearest(**{"vectors": np.eye(5, dtype=np.float32), "query": np.ones(5), "k": 2, **arguments})


def test_models_are_asked_like_dicts():
    model = skipthoughts.load_model(compact.FOLDER)
    assert "utable" in model and "nothing" not in model and model.get("nothing", 3) == 3
    assert set(model) == set(model.keys()) == {"utable", "btable", "uoptions", "boptions", "options"}
    vse = embedding.load_model(f"{compact.FOLDER}/embedding.npz")
    assert "options" in vse and dict(vse)["worddict"] is vse.worddict
    with pytest.raises(KeyError):
        vse["nothing"]
