"""What training is fed: batches, vocabularies, texts and encoded corpora; and how models are judged."""
from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import sys
from collections import OrderedDict

import numpy as np
import pytest

from storyteller import StorytellerError, embedding, evaluation, files
from storyteller.evaluation import ranking
from storyteller.text import word_indices
from storyteller.training import corpus, losses, prepare, vocabulary
from storyteller.training.batches import (
    BucketedBatches,
    HomogeneousBatches,
    prepare_data,
    prepare_triplets,
)
from storyteller.training.corpus import EncodedCorpus
from tests.conftest import GOLDENS, read_json

TRAINING = GOLDENS / "training"


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def raises(*words):
    return pytest.raises(StorytellerError, match="(?s)" + ".*".join(words))


# Minibatches.

@pytest.mark.parametrize("family", ["decoder", "vse"])
def test_minibatch(family):
    given = read_json(TRAINING / family / "minibatch_text.json")
    sequences = [word_indices(text.split(), given["worddict"], None) for text in given["captions"]]
    x, mask, kept = prepare_data(sequences, given["maxlen"], given["n_words"])
    with np.load(TRAINING / family / "minibatch.npz") as expected:
        for found, name in ((x, "x"), (mask, "mask")):
            assert found.dtype == expected[name].dtype
            np.testing.assert_array_equal(found, expected[name])
    assert len(kept) == given["kept_after_maxlen_filter"]


def test_minibatch_of_triplets():
    given = read_json(TRAINING / "skipthoughts" / "minibatch_text.json")
    sides = ([word_indices(text.split(), given["worddict"], None) for text in given[name]]
             for name in ("current_x", "next_y", "previous_z"))
    *arrays, kept = prepare_triplets(*sides, given["maxlen"], given["n_words"])
    with np.load(TRAINING / "skipthoughts" / "minibatch.npz") as expected:
        for found, name in zip(arrays, ("x", "x_mask", "y", "y_mask", "z", "z_mask")):
            assert found.dtype == expected[name].dtype
            np.testing.assert_array_equal(found, expected[name])
    assert len(kept) == given["kept_after_maxlen_filter"]


def test_minibatch_of_odd_input():
    x, mask, kept = prepare_data([[], [2, 1]])
    assert x.tolist() == [[0, 2], [0, 1], [0, 0]] and mask.sum(axis=0).tolist() == [1, 3]
    assert prepare_data([], 5) is None
    assert prepare_data([[3] * 5], maxlen=5) is None
    assert prepare_triplets([[1]], [[2]], [[3, 4]], maxlen=2) is None
    assert prepare_data([np.array([3, 4], dtype=np.int32)])[0].dtype == np.int64
    for texts in ("a cat", ["a cat"]):
        with raises("sequences"):
            prepare_data(texts)
    with raises("equally many"):
        prepare_triplets([[1]], [[1], [2]], [[1]])


# The order of batches.

GIVEN = read_json(TRAINING / "batches" / "batches.json")
LENGTHS = [len(caption.split()) for caption in GIVEN["captions"]]


@pytest.mark.parametrize("case", GIVEN["cases"], ids=lambda case: f"{case['batch_size']}-{case['maxlen']}")
@pytest.mark.parametrize("seeded", [int, np.random.RandomState])
def test_homogeneous_order(case, seeded):
    seed = seeded(GIVEN["numpy_random_seed_before_construction"])
    batches = HomogeneousBatches(LENGTHS, case["batch_size"], case["maxlen"], seed)
    assert [[batch.tolist() for batch in batches] for _ in case["epochs"]] == case["epochs"]
    assert len(batches) == len(case["epochs"][0])
    # The current sentences of triplets, by the numbers of their rows.
    table, rows = np.stack([LENGTHS, LENGTHS[::-1], LENGTHS[::-1]], axis=1), 10 + np.arange(len(LENGTHS))
    batches = HomogeneousBatches(table, case["batch_size"], case["maxlen"], seeded(
                                 GIVEN["numpy_random_seed_before_construction"]), rows)
    assert [[(batch - 10).tolist() for batch in batches] for _ in case["epochs"]] == case["epochs"]


def padding(lengths, batches):
    """Share of the steps that are padding, ends counted as words."""
    real = sum((lengths[batch] + 1).sum() for batch in batches)
    return 1 - real / sum((lengths[batch] + 1).max(axis=0).sum() * len(batch) for batch in batches)


def triplet_lengths(n=3000, seed=5):
    lengths = np.random.default_rng(seed).geometric(0.15, n + 2).clip(1, 40)
    return np.stack([lengths[1:-1], lengths[2:], lengths[:-2]], axis=1)


ORDERS = {
    "homogeneous": lambda: HomogeneousBatches(triplet_lengths()[:, 0], 64, 30, 3),
    "bucketed": lambda: BucketedBatches(triplet_lengths(), 64, seed=3, pool=1000, maxlen=30),
}


@pytest.mark.parametrize("make", ORDERS.values(), ids=ORDERS)
def test_state_of_batches(make):
    """A run that is stopped anywhere goes on with the very same batches, from a JSON state."""
    batches, run, states, ends = make(), [], [json.dumps(make().get_state())], []
    for _ in range(3):
        for batch in batches:
            run.append(batch.tolist())
            states.append(json.dumps(batches.get_state()))
        ends.append(len(run))
    first, second, last = ends
    for stop in (0, 1, 7, first - 1, first, first + 1, second + 5, last):
        resumed = make()
        next(iter(resumed))  # whatever has happened before does not matter
        resumed.set_state(json.loads(states[stop]))
        rest = []
        while resumed.epoch < 3:
            rest += [batch.tolist() for batch in resumed]
        assert rest == run[stop:]
    assert run[:first] != run[first:second]
    ended, resumed = make(), make()
    list(ended)
    resumed.set_state(json.loads(json.dumps(ended.get_state())))  # between two epochs
    assert [batch.tolist() for batch in resumed] == run[first:second]


def test_leaving_an_epoch_and_coming_back():
    batches = BucketedBatches([3] * 100, 10, seed=1)
    first = [next(iter(batches)).tolist() for _ in range(4)]
    rest = [batch.tolist() for batch in batches]
    assert sorted(sum(first + rest, [])) == list(range(100)) and batches.epoch == 1


@pytest.mark.parametrize("pool", [500, 1 << 20])
def test_bucketed_batches(pool, size=64):
    lengths = triplet_lengths(20000)
    kept = np.flatnonzero((lengths < 25).all(axis=1))
    batches = BucketedBatches(lengths, size, maxlen=25, seed=1, pool=pool)
    epochs = [list(batches), list(batches)]
    assert batches.epoch == 2 and batches.n_sentences == len(kept)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), kept)
    again = list(BucketedBatches(lengths.astype(np.int16), size, maxlen=25, seed=1, pool=pool))
    assert all(map(np.array_equal, again, epochs[0]))
    other = list(BucketedBatches(lengths, size, maxlen=25, seed=2, pool=pool))
    assert not all(map(np.array_equal, other, epochs[0]))
    assert max(map(len, epochs[0])) <= size and min(map(len, epochs[0])) >= size // 2
    if pool > 500:
        unsorted = np.array_split(kept, len(epochs[0]))
        by_current = np.array_split(kept[np.argsort(lengths[kept, 0], kind="stable")], len(epochs[0]))
        assert padding(lengths, epochs[0]) < 0.25
        assert padding(lengths, epochs[0]) < 0.6 * padding(lengths, by_current)
        assert padding(lengths, by_current) < padding(lengths, unsorted)


def test_bucketed_rows_stand_for_lengths():
    rows = np.array([10, 20, 30])
    found = np.concatenate(list(BucketedBatches([1, 2, 3], 2, rows=rows)))
    assert sorted(found.tolist()) == [10, 20, 30]


def test_bad_batches():
    for make in (HomogeneousBatches, BucketedBatches):
        with raises("no sentence"):
            make([], 4)
        with raises("no sentence", "maxlen"):
            make([5, 6], 4, maxlen=2)
        with raises("batch_size"):
            make([5], 0)
        with raises("lengths"):
            make([1.5, 2.5], 4)
        with raises("seed"):
            make([1], 4, seed=-1)
        with raises("rows"):
            make([1, 2], 4, rows=np.array([3]))


def test_resuming_with_other_settings():
    state = ORDERS["bucketed"]().get_state()
    with raises("batch_size 64"):
        BucketedBatches(triplet_lengths(), 32, seed=3, pool=1000, maxlen=30).set_state(state)
    with raises("lengths"):
        BucketedBatches(triplet_lengths(seed=6), 64, seed=3, pool=1000, maxlen=30).set_state(state)
    with raises("HomogeneousBatches"):
        ORDERS["homogeneous"]().set_state(state)
    with raises("BucketedBatches"):
        ORDERS["bucketed"]().set_state(None)


# Vocabularies.

def test_dictionary(tmp_path):
    given = read_json(TRAINING / "vocab" / "build_dictionary.json")
    words, counts = vocabulary.build(given["text"], verbose=False)
    assert list(map(list, words.items())) == given["worddict_in_order"]
    assert list(map(list, counts.items())) == given["wordcount_in_order_of_first_appearance"]
    golden = TRAINING / "vocab" / "dictionary.pkl"
    vocabulary.save_dictionary(tmp_path / "d.pkl", words, counts)
    vocabulary.save_dictionary(words, counts, tmp_path / "same.pkl")  # the original's order
    assert (tmp_path / "same.pkl").read_bytes() == (tmp_path / "d.pkl").read_bytes()
    for given in ((words, tmp_path / "x.pkl", counts), (tmp_path / "x.pkl", words, None), (3, words, counts)):
        with pytest.raises(StorytellerError):
            vocabulary.save_dictionary(*given)
    for path in (golden, tmp_path / "d.pkl"):
        assert list(files.load_dictionary(path).items()) == list(words.items())
        assert list(vocabulary.load_counts(path).items()) == list(counts.items())


def test_small_vocabularies():
    texts = ["a b a c", "a b d"]
    assert list(vocabulary.build(texts, max_words=2, verbose=False)[0].items()) == [("a", 2), ("b", 3)]
    words, counts = vocabulary.build(texts, max_words=20000, min_count=2, verbose=False)  # larger than the text
    assert list(words) == ["a", "b"] and counts["d"] == 1
    assert vocabulary.coverage(words, counts) == 5 / 7
    assert vocabulary.coverage(words, counts, n_words=3) == 3 / 7
    for arguments, words in (((["", " "],), "no words"), ((texts, None, 9), "9 times"), ((texts, 0), "max_words"),
                             (("a b",), "texts")):
        with raises(words):
            vocabulary.build(*arguments, verbose=False)


def test_bad_counts(tmp_path):
    files.save_pickle(tmp_path / "one.pkl", {"a": 2})
    with raises("one.pkl"):
        vocabulary.load_counts(tmp_path / "one.pkl")
    files.save_pickle(tmp_path / "two.pkl", {"a": 2}, ["a"])
    with raises("two.pkl"):
        vocabulary.load_counts(tmp_path / "two.pkl")
    data = (tmp_path / "two.pkl").read_bytes()
    with raises("cut.pkl"):
        vocabulary.load_counts(write(tmp_path / "cut.pkl", data[:-2]))
    with raises("no.pkl"):
        vocabulary.load_counts(tmp_path / "no.pkl")


@pytest.mark.parametrize("name", ["determined", "determined_b"])
def test_expansion(name):
    given = read_json(TRAINING / "expansion" / f"{name}.json")
    with np.load(TRAINING / "expansion" / f"{name}_params.npz") as params:
        Wemb = params["Wemb"]
    worddict = OrderedDict(map(tuple, given["worddict_in_order"]))
    with np.load(TRAINING / "expansion" / f"{name}.npz") as expected:
        vectors = given["word2vec_words_in_order"], expected["word2vec"]
        coef, intercept, shared = vocabulary.fit_expansion(vectors, Wemb, worddict, given["n_words"])
        assert shared == given["number_shared"]
        np.testing.assert_allclose(coef, expected["coef_float64_least_squares"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(intercept, expected["intercept_float64_least_squares"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(coef, expected["coef"], rtol=0, atol=1e-4)
        words, table = vocabulary.expand(vectors, Wemb, worddict, given["n_words"], verbose=False)
        assert list(words) == given["table_words_in_order"] and list(words.values()) == list(range(len(words)))
        np.testing.assert_allclose(table, expected["table"], rtol=0, atol=1e-4)
        mapping = vocabulary.expand(dict(zip(*vectors)), Wemb, worddict, given["n_words"], verbose=False)
        np.testing.assert_array_equal(mapping[1], table)
    for word, row in (("<eos>", 0), ("UNK", 1), next(iter(worddict.items()))):
        np.testing.assert_array_equal(table[words[word]], Wemb[row])


def test_expansion_of_bad_input(caplog):
    Wemb = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    vectors = {"a": np.ones(5), "x_y": np.zeros(5), "z": np.arange(5.)}
    words, table = vocabulary.expand(vectors, Wemb, {"a": 2, "b": 3, "z": 9}, 4, verbose=False)
    assert list(words) == ["a", "z", "<eos>", "UNK", "b"] and np.isfinite(table).all()
    assert "not determined" in caplog.text
    with raises("none of the 1 words"):
        vocabulary.expand(vectors, Wemb, {"q": 2}, 4, verbose=False)
    with raises("ragged"):
        vocabulary.expand({"a": np.ones(5), "b": np.ones(4)}, Wemb, {"a": 2}, 4, verbose=False)
    with raises("NaN"):
        vocabulary.expand({"a": np.full(5, np.nan)}, Wemb, {"a": 2}, 4, verbose=False)
    with raises("Wemb", "9 rows"):
        vocabulary.expand(vectors, Wemb, {"a": 2}, 9, verbose=False)
    with raises("1 words", "shape"):
        vocabulary.expand((["a"], np.ones((2, 5))), Wemb, {"a": 2}, 4, verbose=False)
    with raises("twice"):
        vocabulary.expand((["a", "a"], np.ones((2, 5))), Wemb, {"a": 2}, 4, verbose=False)


def test_initial_vectors(caplog):
    given = {"a": np.array([3., 4., 0.]), "b": np.array([0., 0., 10.]), "z": np.zeros(3)}
    names = ["<eos>", "UNK", "b", "q", "a"]
    found = vocabulary.initial_vectors(given, names, 3, seed=1)
    assert found.shape == (5, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[4] / found[2, 2], [.3, .4, 0], atol=1e-6)
    again = vocabulary.initial_vectors({"b": given["b"]}, names, 3, seed=1)
    np.testing.assert_array_equal(again[[0, 1, 3]], found[[0, 1, 3]])
    with raises("v.txt", "3-dimensional", "dim_word"):
        vocabulary.initial_vectors(given, names, 4, source="v.txt")
    with raises("v.txt", "none of the model's 2 words"):
        vocabulary.initial_vectors(given, ["<eos>", "UNK"], 3, source="v.txt")
    with raises("NaN"):
        vocabulary.initial_vectors({"a": np.full(3, np.nan)}, names, 3)


def test_word_vectors(tmp_path):
    models = pytest.importorskip("gensim.models")
    vectors = models.KeyedVectors(4)
    vectors.add_vectors(["the", "café", "New_York"], np.arange(12, dtype=np.float32).reshape(3, 4) / 7)
    for binary, name in ((True, "a.bin"), (False, "a.txt")):
        vectors.save_word2vec_format(str(tmp_path / name), binary=binary)
    text = (tmp_path / "a.txt").read_bytes()
    write(tmp_path / "glove.txt", text.split(b"\n", 1)[1])
    write(tmp_path / "a.txt.gz", gzip.compress(text))
    for name in ("a.bin", "a.txt", "glove.txt", "a.txt.gz"):
        found = vocabulary.load_word_vectors(tmp_path / name)
        assert found.index_to_key == vectors.index_to_key
        np.testing.assert_allclose(found.vectors, vectors.vectors, rtol=1e-6)
    assert len(vocabulary.load_word_vectors(tmp_path / "a.bin", limit=2)) == 2
    for data in (b"hello world\nthis is a text\n", b"3 4\nthe 0.1", (tmp_path / "a.bin").read_bytes()[:30],
                 b"\xba\x16\x4f\x2f\x0c\0\0\0", b"3 4\n", b"\x80\x02}q."):
        with raises("bad.vec", "word vectors"):
            vocabulary.load_word_vectors(write(tmp_path / "bad.vec", data))


def test_word_vectors_without_gensim(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with raises("gensim", "pip install"):
        vocabulary.load_word_vectors(write(tmp_path / "a.txt", "1 2\nthe 0 1\n"))
    with raises("none.txt", "no such file"):
        vocabulary.load_word_vectors(tmp_path / "none.txt")


# Texts.

BOOK = """\
The Project Gutenberg eBook of Nothing

*** START OF THE PROJECT GUTENBERG EBOOK NOTHING ***

CHAPTER I
The Arrival

It was late. She sat by the window
of her room, and waited.

\u201cYou _are_ late\u2014again,\u201d she said.

* * *

Mr. Brown did not answer.

CHAPTER II

It rained. It rained all day. It rained all night.

*** END OF THE PROJECT GUTENBERG EBOOK NOTHING ***

Licence, licence.
"""
PARAGRAPHS = ["CHAPTER I The Arrival", "It was late. She sat by the window of her room, and waited.",
              '"You are late -- again," she said.', "* * *", "Mr. Brown did not answer.", "CHAPTER II",
              "It rained. It rained all day. It rained all night."]


@pytest.mark.parametrize("name, pack", [("b.txt", bytes), ("b.txt.gz", gzip.compress), ("b.txt.xz", lzma.compress),
                                        ("b.txt.bz2", bz2.compress), ("wrong.txt", gzip.compress)])
def test_a_book(tmp_path, name, pack):
    for text in (BOOK, "\ufeff" + BOOK.replace("\n", "\r\n")):
        path = write(tmp_path / name, pack(text.encode()))
        assert list(corpus.paragraphs(path)) == PARAGRAPHS
        assert list(corpus.open_text(path))[0] == BOOK.split("\n")[0]
    assert list(corpus.sentence_stream(path))[:3] == [
        "It was late .", "She sat by the window of her room , and waited .",
        "`` You are late -- again , '' she said ."]


def test_layouts(tmp_path):
    long = " ".join(["word"] * 40)
    lines = write(tmp_path / "lines.txt", f"{long}\n\n{long}\nYes.\n{long}\n\nNo.\n")
    assert list(corpus.paragraphs(lines)) == [long, long, "Yes.", long, "No."]
    assert list(corpus.paragraphs(lines, "blank")) == [long, f"{long} Yes. {long}", "No."]
    wrapped = write(tmp_path / "wrapped.txt", "One two\nthree.\n \nFour\nfive.")
    assert list(corpus.paragraphs(wrapped)) == ["One two three.", "Four five."]
    assert list(corpus.paragraphs(wrapped, "lines")) == ["One two", "three.", "Four", "five."]
    plain = write(tmp_path / "plain.txt", "One two.\nThree.")
    assert list(corpus.paragraphs(plain)) == ["One two.", "Three."]
    with raises("layout", "auto"):
        corpus.paragraphs(plain, "columns")


@pytest.mark.parametrize("line", [
    "CHAPTER IV", "Chapter 4", "Chapter the First", "CHAPTER I. Loomings.", "Chapter XII: The Storm", "IV",
    "XXIX.", "12", "12.", "Part One", "PART TWO.", "Book the Second", "Epilogue", "PROLOGUE", "The End",
    "THE STORM", "* * *", "-----", "Part One: Youth", "_CHAPTER V_", "Volume II", "[ III ]"])
def test_headings(line):
    assert corpus.is_heading(line)


@pytest.mark.parametrize("line", [
    "Stop!", "Part of it was true.", "Part one of the plan had failed.", '"IV," he said.', "He was late.", "NO!",
    "Chapter after chapter he read on.", "I am.", "1914 was a bad year.", "The end was near.", "MIX",
    "\u201cNO\u201d", "A letter came.", "Book a room."])
def test_no_headings(line):
    assert not corpus.is_heading(line)


def test_books(tmp_path):
    for name in ("b.txt", "a.TXT", "sub/c.txt.gz", "sub/d.jpg", ".e.txt", "f.txt.xz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "x")
    found = [os.path.relpath(path, tmp_path).replace(os.sep, "/") for path in corpus.books(tmp_path)]
    assert found == ["a.TXT", "b.txt", "f.txt.xz", "sub/c.txt.gz"]
    assert len(corpus.books([tmp_path, tmp_path / "b.txt", str(tmp_path / "sub" / "d.jpg")])) == 5
    (tmp_path / "empty").mkdir()
    with raises("empty", "no texts"):
        corpus.books(tmp_path / "empty")
    with raises("nowhere", "no such file"):
        corpus.books([tmp_path, tmp_path / "nowhere"])
    with raises("paths is empty"):
        corpus.books([])


def test_triplets_cross_no_break(tmp_path):
    book = write(tmp_path / "1.txt", BOOK)
    write(tmp_path / "2.txt", "One. Two. Three. Four.")
    stream = list(corpus.sentence_stream(tmp_path))
    assert [i for i, sentence in enumerate(stream) if not sentence] == [3, 5, 9]
    words = {word: i for i, word in enumerate(sorted({word for text in stream for word in text.split()}), 2)}
    encoded = EncodedCorpus.build(tmp_path / "all", stream, words, verbose=False)
    assert encoded.triplets().tolist() == [1, 7, 11, 12]
    assert stream[11:14] == ["Two .", "Three .", "Four ."]
    assert list(corpus.sentence_stream(book)) == stream[:9]


def test_one_sentence_corpora(tmp_path):
    path = write(tmp_path / "one.txt", "Only one sentence.\n")
    assert list(corpus.sentence_stream(path)) == ["Only one sentence ."]
    encoded = EncodedCorpus.build(tmp_path / "one", corpus.sentence_stream(path), {"Only": 2}, verbose=False)
    assert encoded[0].tolist() == [2, 1, 1, 1]
    with raises("one", "1 sentence\\)"):
        encoded.triplets()
    with raises("no passage", "longest has 3"):
        list(corpus.passages(path))
    assert list(corpus.passages(path, 1, 3)) == ["Only one sentence."]


@pytest.mark.parametrize("tokenized", [False, True])
def test_passages(tmp_path, tokenized):
    paragraph = "One two three four. Five six seven."  # 7 words, or 9 with the points
    write(tmp_path / "1.txt", "\n".join([paragraph] * 7 + ["CHAPTER II"] + [paragraph] * 2))
    write(tmp_path / "2.txt", "\n".join([paragraph] * 2))
    found = list(corpus.passages(tmp_path, 10, 30, tokenized=tokenized))
    words = [len(passage.split()) for passage in found]
    assert words == ([27, 27, 18, 18] if tokenized else [28, 21, 14, 14])
    assert found[-1] == " ".join(["One two three four . Five six seven ." if tokenized else paragraph] * 2)
    long = write(tmp_path / "long.txt", "Yes. " * 10 + "very " * 50 + "long. " + "No no. " * 6)
    assert [len(passage.split()) for passage in corpus.passages(long, 1, 8)] == [8, 2, 8, 4]
    with raises("min_words"):
        corpus.passages(long, 10, 5)
    # The sentences of a passage, told apart.
    apart = list(corpus.passages(tmp_path / "2.txt", 10, 30, tokenized=tokenized, between="\t"))
    point = " ." if tokenized else "."
    assert apart == ["\t".join(2 * [f"One two three four{point}", f"Five six seven{point}"])]
    with raises("between", "white space"):
        corpus.passages(long, 1, 5, between=", ")


BAD_TEXTS = {
    "empty": (b"", "empty"),
    "blank": (b" \n\n \r\n", "blank"),
    "latin-1": ("fine\ncaf\u00e9 au lait".encode("latin-1"), "line 2 is not UTF-8"),
    "utf-16 without a mark": ("Caf\u00e9 au lait".encode("utf-16-le"), "zero bytes"),
    "binary": (bytes(range(256)) * 30, "zero bytes"),
    "zero bytes": (b"one\ntwo\0three\n", "line 2 holds zero bytes"),
    "image": (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "zip": (b"PK\x03\x04" + bytes(40), "zip archive"),
    "long word": (b"one two\n" + b"x" * 5000 + b" three\n", "line 2"),
    "cut gz": (gzip.compress(b"some words\n" * 5000)[:-9], "cut off"),
    "cut xz": (lzma.compress(b"some words\n" * 5000)[:-40], "cut off"),
    "bad bz2": (b"BZh9" + b"rubbish" * 9, "damaged"),
    "empty gz": (gzip.compress(b""), "blank"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_texts(tmp_path, name):
    data, words = BAD_TEXTS[name]
    path = write(tmp_path / "bad.txt", data)
    for read in (corpus.open_text, corpus.paragraphs, corpus.sentence_stream, corpus.passages):
        with raises("bad.txt", f"({words})"):
            list(read(path))


def test_missing_text(tmp_path):
    with raises("none.txt", "no such file"):
        corpus.open_text(tmp_path / "none.txt")
    with raises("a folder"):
        corpus.open_text(tmp_path)


# Encoded corpora.

def test_encoded_corpus(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 50, n)) for n in rng.integers(0, 30, 40000)]
    worddict = {f"w{i}": i + 2 for i in range(45)}
    made = EncodedCorpus.build(tmp_path / "c", iter(texts), worddict, n_words=40, verbose=False)
    for encoded in (made, EncodedCorpus(tmp_path / "c")):
        assert len(encoded) == len(texts) and encoded.lengths.dtype == encoded[0].dtype == np.int32
        for i in (0, 1, 20000, 39999, -1, np.int64(7)):
            expected = [j + 2 if j + 2 < 40 else 1 for j in (int(word[1:]) for word in texts[i].split())]
            assert encoded[i].tolist() == expected
        np.testing.assert_array_equal(encoded.lengths, [len(text.split()) for text in texts])
    assert sum(map(len, made)) == len(made.tokens)
    rows = made.triplets()
    expected = [i for i in range(1, len(texts) - 1) if texts[i - 1] and texts[i] and texts[i + 1]]
    np.testing.assert_array_equal(rows, expected)
    sides = made.triplet_lengths(rows)
    np.testing.assert_array_equal(sides[5], [len(made[rows[5] + j]) for j in (0, 1, -1)])
    batch = next(iter(BucketedBatches(sides, 32, rows=rows)))
    x, _, y, _, z, _, kept = prepare_triplets(*([made[i + j] for i in batch] for j in (0, 1, -1)))
    assert len(kept) == 32 and x.shape[1] == y.shape[1] == z.shape[1] == 32
    for index in (40000, -40001):
        with pytest.raises(IndexError):
            made[index]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.offsets.npy", "c.tokens.npy"]


def test_encoding_nothing_or_half_leaves_nothing(tmp_path):
    def breaks_off():
        yield "a b"
        raise StorytellerError("the text ends")

    with raises("no words"):
        EncodedCorpus.build(tmp_path / "c", ["", ""], {"a": 2}, verbose=False)
    with raises("the text ends"):
        EncodedCorpus.build(tmp_path / "c", breaks_off(), {"a": 2}, verbose=False)
    with raises("texts"):
        EncodedCorpus.build(tmp_path / "c", "a b", {"a": 2}, verbose=False)
    assert not list(tmp_path.iterdir())
    with raises("folder", "exists"):
        EncodedCorpus.build(tmp_path / "no" / "c", ["a"], {"a": 2}, verbose=False)
    EncodedCorpus.build(tmp_path / "c", ["a a"], {"a": 2}, verbose=False)
    with raises("the text ends"):
        EncodedCorpus.build(tmp_path / "c", breaks_off(), {"a": 2}, verbose=False)
    assert EncodedCorpus(tmp_path / "c")[0].tolist() == [2, 2]


@pytest.mark.parametrize("part", ["tokens", "offsets"])
def test_damaged_headers_of_corpora(tmp_path, part):
    """Refused, whichever byte it is; and made again by a training."""
    words = {"a": 2, "b": 3}
    EncodedCorpus.build(tmp_path / "c", ["a b", "b"], words, verbose=False)
    path = tmp_path / f"c.{part}.npy"
    whole, refused = path.read_bytes(), 0
    for at in range(0, 72):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (16 if at % 2 else 5)]) + whole[at + 1:])
        try:
            EncodedCorpus(tmp_path / "c")
        except StorytellerError as error:
            refused += 1
            assert "c." in str(error) and len(str(error)) < 600
    assert refused > 50
    source = write(tmp_path / "book.txt", "a b\nb\n")
    for damage in (None, b"(", b"'"):
        work = prepare.WorkFolder(tmp_path / "work", verbose=False)
        work.texts("train", "lines", [str(source)], lambda: ["a b", "b"])
        path = tmp_path / "work" / f"train.{part}.npy"
        if damage:
            path.write_bytes(path.read_bytes().replace(damage, b"\7", 1))
        assert [row.tolist() for row in work.corpus("train", words)] == [[2, 3], [3]]


def test_damaged_corpora(tmp_path):
    EncodedCorpus.build(tmp_path / "c", ["a a", "", "a"], {"a": 2}, verbose=False)
    tokens, offsets = tmp_path / "c.tokens.npy", tmp_path / "c.offsets.npy"
    good = {path: path.read_bytes() for path in (tokens, offsets)}
    with raises("missing.tokens.npy", "no such file"):
        EncodedCorpus(tmp_path / "missing")
    np.save(tokens, np.zeros(2, np.int32))
    with raises("c.offsets.npy", "belong"):
        EncodedCorpus(tmp_path / "c")
    np.save(tokens, np.zeros(3))
    with raises("c.tokens.npy", "float64"):
        EncodedCorpus(tmp_path / "c")
    for data in (good[tokens][:-3], good[tokens][:40], b"", b"some text\n"):
        with raises("c.tokens.npy"):
            EncodedCorpus(tmp_path / "c") if write(tokens, data) else None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_full_disk(tmp_path, monkeypatch):
    def full(path, mode="r", *arguments, **options):
        return original("/dev/full", "wb", 0) if "x" in mode else original(path, mode, *arguments, **options)

    original = open
    monkeypatch.setattr("builtins.open", full)
    with raises("cannot be written", "room"):
        EncodedCorpus.build(tmp_path / "c", ["a b"], {"a": 2}, verbose=False)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


# Ranking.

@pytest.mark.parametrize("case", read_json(GOLDENS / "embedding" / "ranking.json"),
                         ids=lambda case: f"{case['case']}-{case['npts']}")
def test_ranking(case, monkeypatch):
    with np.load(GOLDENS / "embedding" / "ranking.npz") as given:
        images, captions = given[case["case"] + "_images"], given[case["case"] + "_captions"]
    for block in (1 << 24, 700):
        monkeypatch.setattr(ranking, "_BLOCK", block)
        assert list(evaluation.i2t(images, captions, case["npts"])) == case["i2t"]
        assert list(evaluation.t2i(images, captions, case["npts"])) == case["t2i"]


def test_bad_ranking():
    rows = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    for rank in (evaluation.i2t, evaluation.t2i):
        for given in ((rows, rows[:9]), (rows, rows[:, :1]), (rows[:0], rows[:0]), (rows[0], rows[0]), (rows, rows, 3),
                      (rows, rows, 0), (rows, rows, True), (rows * np.nan, rows), (["a"], rows), (rows[:3], rows)):
            with pytest.raises(StorytellerError):
                rank(*given)
        for per_image in (0, True, 2.5, 11):
            with pytest.raises(StorytellerError):
                rank(rows, rows, per_image=per_image)


@pytest.mark.parametrize("each", [1, 2, 3, 5])
def test_ranking_of_any_number_of_captions(each):
    rng = np.random.default_rng(each)
    images = rng.standard_normal((12, 8)).astype(np.float32)
    images[4] = images[5]  # the same picture twice
    captions = np.repeat(images, each, axis=0) + rng.standard_normal((12 * each, 8)).astype(np.float32)
    scores = images @ captions.T
    ranks = {"i2t": [min((scores[i] > scores[i, j]).sum() for j in range(i * each, i * each + each))
                     for i in range(12)],
             "t2i": [(scores[:, j] > scores[j // each, j]).sum() for j in range(12 * each)]}
    repeated = np.repeat(images, each, axis=0)
    repeated[1::2] *= np.float32(1 + 1e-6)  # as matrix products of other sizes leave them
    for given in (repeated, images):
        for name, found in (("i2t", evaluation.i2t(given, captions)), ("t2i", evaluation.t2i(given, captions))):
            # Which of two equal images comes first is not compared here.
            np.testing.assert_allclose(found[2], 100 * np.mean(np.array(ranks[name]) < 10), atol=9)
            assert found == getattr(evaluation, name)(given, captions, per_image=each)
    with raises("unequal"):
        evaluation.i2t(np.repeat(images[:4], [3, 2, 3, 3], axis=0), captions[:11])


def test_evalrank(tmp_path):
    """As visual-semantic-embedding's, from the data set's files or its parts."""
    rng = np.random.default_rng(0)
    words = {word: i for i, word in enumerate("abcdefgh", 2)}
    model = embedding.JointEmbedding({"encoder": "bow", "dim": 6, "n_words": 10, "dim_image": 5},
                                     losses.init_embedding(5, 6, 6, 10, rng, "bow"), words, ())
    captions = [" ".join(rng.choice(list(words), 3)) for _ in range(10)]
    features = np.repeat(rng.standard_normal((5, 5)).astype(np.float32), 2, axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    (tmp_path / "f8k").mkdir()
    np.save(tmp_path / "f8k" / "f8k_test_ims.npy", features)
    (tmp_path / "f8k" / "f8k_test_caps.txt").write_text("\n".join(captions) + "\n")
    found = evaluation.evalrank(model, tmp_path / "f8k", "test")
    images, sentences = embedding.encode_images(model, features), embedding.encode_sentences(model, captions)
    assert found == (evaluation.i2t(images, sentences), evaluation.t2i(images, sentences))
    assert found == evaluation.evalrank(model, (captions, features[::2]))
    with raises("f8k", "dev_caps"):
        evaluation.evalrank(model, tmp_path / "f8k")


def test_bleu():
    text = "she sat by the window and waited ."
    assert evaluation.bleu([text], [text]) == 100
    assert evaluation.bleu([text], ["x y z w v"]) == evaluation.bleu([text], [""]) == 0
    # 6 of 7 words, 4 of 6 pairs, 2 of 5 triples, 1 of 4 fours; brevity exp(1 - 8/7).
    expected = 100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25 * np.exp(1 - 8 / 7)
    assert evaluation.bleu([[text, "unlike"]], ["she sat by the door and waited"]) == pytest.approx(
        100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25 * np.exp(1 - 8 / 7)) == expected
    for arguments in (([text], []), (text, [text]), ([text], text), ([[]], [text]), ([text], [3]), ([3], [text]),
                      ([text], [text], 0), ([text], [text], True), ([text], [text], 2.5), ([[text]], [text.split()])):
        with pytest.raises(StorytellerError):
            evaluation.bleu(*arguments)


TOLD = ["the cat sat on the mat today", "a dog", "it rained all day long"]
TOLD_REFERENCES = [["the cat sat on a mat today", "a dog", "it rained all the day long"],
                   ["a cat sat on the mat", "the dog ran", "it rained all day long yesterday"]]


# sacreBLEU 2.6.0, BLEU(tokenize="none", smooth_method="none", effective_order=True).corpus_score; but for texts that
# are all short COCO's pycocoevalcap, without its 1e-15 and 1e-9, gives the same.
@pytest.mark.parametrize("references, hypotheses, n, expected", [
    (TOLD_REFERENCES[:1], TOLD, 4, 42.20142584137621), (TOLD_REFERENCES, TOLD, 4, 84.4577478754674),
    (TOLD_REFERENCES[:1], TOLD, 1, 86.45582954394496), (TOLD_REFERENCES[:1], TOLD, 2, 76.51300779572897),
    ([TOLD], TOLD, 4, 100), ([TOLD[1:2]], TOLD[1:2], 4, 100), ([["a dog sat"]], ["a dog ran"], 4, 0),
    ([["x y", "a b c d e"]], ["", "a b c d e"], 4, 67.03200460356396),
    ([["a b c d e f"]], ["a b c d"], 4, 60.653065971263366)])
def test_bleu_of_short_texts(references, hypotheses, n, expected):
    references = list(zip(*references))
    assert evaluation.bleu(references, hypotheses, n) == pytest.approx(expected, rel=1e-12)
    # NLTK's form: lists of words.
    words = [[text.split() for text in several] for several in references]
    assert evaluation.bleu(words, [text.split() for text in hypotheses], n) == pytest.approx(expected, rel=1e-12)
    try:
        import sacrebleu
    except ImportError:
        return
    measure = sacrebleu.BLEU(tokenize="none", smooth_method="none", effective_order=True, max_ngram_order=n, force=True)
    assert measure.corpus_score(hypotheses, list(zip(*references))).score == pytest.approx(expected)


# Transfer.

def test_trec(tmp_path):
    lines = "NUM:date When did Caf\u00e9 open ?\nABBR:exp What is NASA ?\n"
    path = write(tmp_path / "t.label", lines.encode("latin-1"))
    texts, labels = evaluation.load_trec(path)
    assert texts == ["When did Caf\u00e9 open ?", "What is NASA ?"] and labels == ["NUM", "ABBR"]
    assert evaluation.load_trec(path, fine=True)[1] == ["NUM:date", "ABBR:exp"]
    for line in ("When did it open ?", "NUM:date", "NUM When ?"):
        with raises("t.label, line 2", "TREC"):
            evaluation.load_trec(write(path, "NUM:date When ?\n" + line))


def test_binary(tmp_path):
    positive = write(tmp_path / "pos", "good \u00e9\n\nvery good\n".encode("latin-1"))
    texts, labels = evaluation.load_binary(positive, write(tmp_path / "neg", "bad\r\n"))
    assert texts == ["good \u00e9", "very good", "bad"] and labels.tolist() == [1, 1, 0]
    with raises("neg", "blank"):
        evaluation.load_binary(positive, write(tmp_path / "neg", "\n"))
    with raises("none", "negative sentences"):
        evaluation.load_binary(positive, tmp_path / "none")


def test_msrp(tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    path = write(tmp_path / "m.txt", header + '1\t7\t8\tHe "said so.\tSo he "said.\r\n0\t9\t1\tA.\tB.\r\n')
    first, second, labels = evaluation.load_msrp(path)
    assert first == ['He "said so.', "A."] and second[1] == "B." and labels.tolist() == [1, 0]
    for row in ("1\t7\t8\tonly one", "2\t7\t8\tA.\tB.", "1\t7\t8\t\tB."):
        with raises("m.txt, line 3", "MSRP"):
            evaluation.load_msrp(write(path, f"{header}1\t7\t8\tA.\tB.\r\n{row}\r\n"))
    with raises("m.txt, line 1", "header"):
        evaluation.load_msrp(write(path, "1\t7\t8\tA.\tB.\n"))
    with raises("no rows"):
        evaluation.load_msrp(write(path, header))


def test_sick(tmp_path):
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    path = write(tmp_path / "s.txt", header + "1\tA dog runs\tA cat runs\t3.6\tNEUTRAL\n")
    assert evaluation.load_sick(path)[0] == ["A dog runs"] and evaluation.load_sick(path)[2].tolist() == [3.6]
    assert evaluation.load_sick(path)[3] == ["NEUTRAL"]
    for row in ("1\tA\tB\t7\tNEUTRAL", "1\tA\tB\tx\tNEUTRAL", "1\tA\tB\tnan\tNEUTRAL",
                "1\tA\tB\t2.0\tMAYBE", "1\tA"):
        with raises("s.txt, line 2", "SICK"):
            evaluation.load_sick(write(path, header + row))


def separable(n=120, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    return vectors, (vectors[:, 0] + 0.2 * rng.normal(size=n) > 0).astype(int)


def test_classify():
    pytest.importorskip("sklearn")
    vectors, labels = separable()
    options = {"folds": 4, "Cs": (1, 16)}
    result = evaluation.classify(vectors, labels, **options)
    assert result["accuracy"] > 85 and result["f1"] > 80 and len(result["C"]) == 4 and result["n"] == 120
    assert evaluation.classify(vectors, labels, **options) == result
    test = separable(50, seed=1)
    held = evaluation.classify(vectors, labels, test_vectors=test[0], test_labels=test[1], **options)
    assert held["accuracy"] > 85 and held["n"] == 50 and held["C"] in (1, 16)
    names = np.array(["x", "y", "z"])[np.argmax(vectors[:, :3], axis=1)]
    assert evaluation.classify(vectors, list(names), **options)["accuracy"] > 80
    shuffled = np.random.default_rng(2).permutation(labels)
    assert evaluation.classify(vectors, shuffled, **options)["accuracy"] < 70


def test_relatedness():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, 300, 4)).astype(np.float32)
    v[::2] = u[::2] + 0.1 * v[::2]
    features = evaluation.pair_features(u, v)
    assert features.shape == (300, 8)
    np.testing.assert_array_equal(features[:, :4], np.abs(u - v))
    scores = 5 - 4 * np.tanh(np.abs(u - v).mean(axis=1))
    result = evaluation.relatedness(features[:200], scores[:200], features[200:], scores[200:], folds=3,
                                    Cs=(1, 16))
    assert result["pearson"] > 0.95 and result["spearman"] > 0.8 and result["mse"] < 0.3
    with raises("test_scores", "1 to 5"):
        evaluation.relatedness(features, scores, features, scores * 2)


def test_bad_classification():
    pytest.importorskip("sklearn")
    vectors, labels = separable(20)
    for arguments, words in (((vectors, labels[:9]), "shape"), ((vectors, labels * 0), "two different labels"),
                             ((vectors, labels, 1), "folds is 1"), ((vectors, labels, 21), "folds is 21"),
                             ((vectors * np.nan, labels), "finite"), ((vectors[:0], labels[:0]), "shape"),
                             ((vectors, ["a"] + ["b"] * 19), "'a' occurs once")):
        with raises(words):
            evaluation.classify(*arguments)
    with raises("test_labels is missing"):
        evaluation.classify(vectors, labels, test_vectors=vectors)
    with raises("3 columns"):
        evaluation.classify(vectors, labels, test_vectors=vectors[:, :3], test_labels=labels)
    with raises("Cs"):
        evaluation.classify(vectors, labels, Cs=())
    with raises("u has shape"):
        evaluation.pair_features(vectors, vectors[1:])


def test_transfer_without_sklearn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with raises("scikit-learn", "pip install"):
        evaluation.classify(*separable())
