"""Thought vectors and joint embeddings against the original's (skipthoughts, object_tables, embedding)."""
from __future__ import annotations

import shutil
import tracemalloc

import numpy as np
import pytest

from storyteller import StorytellerError, embedding, files, skipthoughts, text
from tests.conftest import GOLDENS, read_json

SKIP, OBJECTS, JOINT = GOLDENS / "skipthoughts", GOLDENS / "object_tables", GOLDENS / "embedding"


@pytest.fixture(scope="module")
def stv():
    return skipthoughts.load_model(SKIP, SKIP)


@pytest.fixture(scope="module")
def sentences():
    return text.read_lines(SKIP / "sentences.txt", strip=False)


@pytest.fixture(scope="module")
def encoded():
    return np.load(SKIP / "encoded.npz")


@pytest.mark.parametrize("use_norm", [True, False])
@pytest.mark.parametrize("use_eos", [True, False])
def test_encode(stv, sentences, encoded, use_norm, use_eos):
    golden = encoded[f"norm{int(use_norm)}_eos{int(use_eos)}"]
    for batch_size in (128, 3):
        ours = skipthoughts.encode(stv, sentences, use_norm=use_norm, use_eos=use_eos,
                                   batch_size=batch_size, verbose=False)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, golden, atol=1e-5)


def test_byte_strings_are_decoded(stv, sentences, encoded):
    ours = skipthoughts.encode(stv, [s.encode() for s in sentences], verbose=False)
    np.testing.assert_allclose(ours, encoded["norm1_eos0"], atol=1e-5)


def test_empty_sentences(stv, sentences, encoded):
    for name, blank in (("empty_eos1", ""), ("spaces_eos1", "   ")):
        ours = skipthoughts.encode(stv, [blank], use_eos=True)
        np.testing.assert_allclose(ours, encoded[name], atol=1e-5)
    mixed = [sentences[0], "", sentences[18]]
    np.testing.assert_allclose(skipthoughts.encode(stv, mixed, use_eos=True),
                               encoded["mixed_with_empty_norm1_eos1"], atol=1e-5)
    # The original fails on the whole list; here the empty one alone is zero.
    ours = skipthoughts.encode(stv, mixed)
    np.testing.assert_allclose(ours[[0, 2]], encoded["norm1_eos0"][[0, 18]], atol=1e-5)
    assert not ours[1].any()
    assert skipthoughts.encode(stv, []).shape == (0, 48)


def test_object_tables(tmp_path, monkeypatch, stv, sentences, encoded):
    """Tables of pickled arrays are converted once and give the same vectors, bit for bit."""
    monkeypatch.setenv("STORYTELLER_CACHE", str(tmp_path / "cache"))
    shutil.copy(SKIP / "dictionary.txt", tmp_path)
    for name in ("utable.npy", "btable.npy"):
        shutil.copy(OBJECTS / name, tmp_path)
    converted = []
    real = files.convert_object_table
    monkeypatch.setattr(files, "convert_object_table", lambda *a: converted.append(1) or real(*a))
    for _ in range(2):
        model = skipthoughts.load_model(SKIP, tmp_path)
    assert len(converted) == 2  # both tables, the first time only
    assert isinstance(model.utable, np.memmap)
    np.testing.assert_array_equal(model.utable, np.load(SKIP / "utable.npy"))
    np.testing.assert_array_equal(model.btable, np.load(SKIP / "btable.npy"))
    np.testing.assert_array_equal(skipthoughts.encode(model, sentences),
                                  skipthoughts.encode(stv, sentences))


def test_disk_fills_up_while_tables_are_converted(tmp_path, monkeypatch, sentences, encoded, caplog):
    import errno

    from storyteller import cache
    monkeypatch.setenv("STORYTELLER_CACHE", str(tmp_path / "cache"))

    def full(self, data):
        self.error = OSError(errno.ENOSPC, "No space left on device")
        raise self.error
    monkeypatch.setattr(cache._Part, "write", full)
    shutil.copy(SKIP / "dictionary.txt", tmp_path)
    for name in ("utable.npy", "btable.npy"):
        shutil.copy(OBJECTS / name, tmp_path)
    model = skipthoughts.load_model(SKIP, tmp_path)
    np.testing.assert_allclose(skipthoughts.encode(model, sentences), encoded["norm1_eos0"], atol=1e-5)
    assert "No space left" in caplog.text
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix not in (".lock", ".json")]


def test_damaged_object_table(tmp_path, monkeypatch):
    monkeypatch.setenv("STORYTELLER_CACHE", str(tmp_path / "cache"))
    for source in (SKIP / "dictionary.txt", OBJECTS / "btable.npy"):
        shutil.copy(source, tmp_path)
    (tmp_path / "utable.npy").write_bytes((OBJECTS / "utable.npy").read_bytes()[:9000])
    with pytest.raises(StorytellerError, match="utable.npy"):
        skipthoughts.load_model(SKIP, tmp_path)
    assert not list((tmp_path / "cache").glob("*.part"))


def test_unknown_words(stv):
    facts = read_json(SKIP / "facts.json")
    assert len(stv.words) == facts["n_distinct_keys"] and len(stv.utable) == facts["n_table_rows"]


@pytest.mark.parametrize("wrong", ["one string", [3], [None]])
def test_wrong_texts(stv, wrong):
    with pytest.raises(StorytellerError):
        skipthoughts.encode(stv, wrong)


@pytest.mark.parametrize("name, captions, model", [("gru", "captions.txt", "coco_embedding.npz"),
                                                   ("bow", "bow_captions.txt", "bow_embedding.npz")])
def test_joint_embedding(name, captions, model):
    golden = np.load(JOINT / f"{name}_outputs.npz")
    vse = embedding.load_model(JOINT / model)
    lines = text.read_lines(JOINT / captions)
    for batch_size in (128, 7):
        ours = embedding.encode_sentences(vse, lines, batch_size=batch_size)
        np.testing.assert_allclose(ours, golden["sentences"], atol=1e-5)
    np.testing.assert_allclose(embedding.encode_sentences(vse, [s.encode() for s in lines]),
                               golden["sentences"], atol=1e-5)
    # Many sentences take another way through the vocabulary.
    many = embedding.encode_sentences(vse, lines * 9)
    np.testing.assert_allclose(many, np.tile(golden["sentences"], (9, 1)), atol=1e-5)
    images = embedding.encode_images(vse, golden["image_features"])
    np.testing.assert_allclose(images, golden["images"], atol=1e-5)
    assert embedding.encode_sentences(vse, []).shape == (0, vse.dim)
    with pytest.raises(StorytellerError, match="4096"):
        embedding.encode_images(vse, np.ones((2, 1280), np.float32))
    with pytest.raises(StorytellerError):
        embedding.encode_sentences(vse, "one string")


def test_word_indices():
    facts = read_json(JOINT / "gru_facts.json")
    vse = embedding.load_model(JOINT / "coco_embedding.npz")
    lines = text.read_lines(JOINT / "captions.txt")
    for line, golden in zip(lines, facts["word_indices_per_caption_without_final_0"]):
        assert list(vse.indices(line)) == golden + [0]


def test_nearest_is_a_full_sort():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 8)).astype(np.float32)
    vectors[100:110] = vectors[0]  # equal scores
    for k in (1, 5, 20, 500, 900):
        query = vectors[0]
        ours, scores = embedding.nearest(vectors, query, k)
        expected = np.argsort(vectors @ query, kind="stable")[::-1][:k]
        np.testing.assert_array_equal(ours, expected)
        np.testing.assert_array_equal(scores, (vectors @ query)[expected])


def test_nearest_reads_other_floats_in_parts(monkeypatch):
    """The vectors are not copied to float32 as a whole."""
    monkeypatch.setattr(embedding, "_ROWS", 300)
    vectors = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float16)
    query = vectors[4].astype(np.float32)
    expected, expected_scores = embedding.nearest(vectors.astype(np.float32), query, 20)
    tracemalloc.start()
    try:
        best, scores = embedding.nearest(vectors, query, 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    assert peak < vectors.nbytes / 2        # float32: twice as much
    assert [len(part) for part in embedding.nearest(vectors[:0], query, 3)] == [0, 0]


class TestCaptionCache:
    @pytest.fixture
    def caption_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("STORYTELLER_CACHE", str(tmp_path / "cache"))
        return shutil.copy(JOINT / "captions.txt", tmp_path)

    @pytest.fixture
    def vse(self):
        return embedding.load_model(JOINT / "coco_embedding.npz")

    @pytest.fixture
    def counted(self, monkeypatch):
        calls = []
        real = embedding.JointEmbedding.sentence_vectors

        def counting(self, sequences, *args):
            calls.append(len(sequences))
            return real(self, sequences, *args)
        monkeypatch.setattr(embedding.JointEmbedding, "sentence_vectors", counting)
        return calls

    def test_once(self, vse, caption_file, counted, tmp_path):
        captions = text.read_captions(caption_file)
        first = embedding.embed_captions(vse, captions, caption_file)
        again = embedding.embed_captions(vse, captions, caption_file)
        assert counted == [len(captions)]
        assert isinstance(again, np.memmap)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_allclose(first, embedding.encode_sentences(vse, captions), atol=1e-6)
        assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".json", ".npy"]

    def test_a_changed_file_is_noticed(self, vse, caption_file, counted, tmp_path):
        embedding.embed_captions(vse, text.read_captions(caption_file), caption_file)
        with open(caption_file, "a") as file:
            file.write("one more caption\n")
        captions = text.read_captions(caption_file)
        vectors = embedding.embed_captions(vse, captions, caption_file)
        assert len(counted) == 2 and len(vectors) == len(captions)
        assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # the old one may be asked for again

    def test_interrupted(self, vse, caption_file, monkeypatch, tmp_path):
        monkeypatch.setattr(embedding, "_CHUNK", 16)
        captions = text.read_captions(caption_file)
        real = embedding.JointEmbedding.sentence_vectors
        calls = []

        def failing(self, sequences, *args):
            calls.append(len(sequences))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(self, sequences, *args)
        monkeypatch.setattr(embedding.JointEmbedding, "sentence_vectors", failing)
        with pytest.raises(KeyboardInterrupt):
            embedding.embed_captions(vse, captions, caption_file)
        vectors = embedding.embed_captions(vse, captions, caption_file)
        assert sum(calls[3:]) == len(captions) - 32  # went on after two chunks
        monkeypatch.undo()
        np.testing.assert_allclose(vectors, embedding.encode_sentences(vse, captions), atol=1e-6)

    def test_two_at_once(self, vse, caption_file, counted):
        """One makes the array, the other waits for it."""
        from concurrent.futures import ThreadPoolExecutor
        captions = text.read_captions(caption_file)
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: embedding.embed_captions(vse, captions, caption_file), range(4)))
        assert counted == [len(captions)]
        for vectors in made:
            np.testing.assert_array_equal(vectors, made[0])

    def test_cache_that_cannot_be_written(self, vse, caption_file, monkeypatch, tmp_path, caplog):
        (tmp_path / "file").write_text("not a folder")
        monkeypatch.setenv("STORYTELLER_CACHE", str(tmp_path / "file" / "cache"))
        captions = text.read_captions(caption_file)
        vectors = embedding.embed_captions(vse, captions, caption_file)
        np.testing.assert_allclose(vectors, embedding.encode_sentences(vse, captions), atol=1e-6)
        assert "STORYTELLER_CACHE" in caplog.text

    def test_full_disk(self, vse, caption_file, monkeypatch, tmp_path, caplog):
        from storyteller import cache
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
        captions = text.read_captions(caption_file)
        vectors = embedding.embed_captions(vse, captions, caption_file)
        assert vectors.shape == (len(captions), vse.dim) and "MB free" in caplog.text
        assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix not in (".lock", ".json")]

    def test_disk_fills_up_on_the_way(self, vse, caption_file, monkeypatch, tmp_path):
        import errno

        from storyteller import cache

        def full(fd):
            raise OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(cache.os, "fsync", full)
        captions = text.read_captions(caption_file)
        vectors = embedding.embed_captions(vse, captions, caption_file)
        monkeypatch.undo()
        np.testing.assert_allclose(vectors, embedding.encode_sentences(vse, captions), atol=1e-6)
        assert not list((tmp_path / "cache").glob("*.part"))

    def test_damaged_cache_file(self, vse, caption_file, counted, tmp_path):
        captions = text.read_captions(caption_file)
        embedding.embed_captions(vse, captions, caption_file)
        (file,) = (tmp_path / "cache").glob("*.npy")
        file.write_bytes(file.read_bytes()[:-100])
        vectors = embedding.embed_captions(vse, captions, caption_file)
        assert len(vectors) == len(captions) and len(counted) == 2
