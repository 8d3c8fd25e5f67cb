"""Text against the recorded results of the original, and against awkward input."""
from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from storyteller import compact, decoder, embedding, skipthoughts, style, text
from storyteller.errors import StorytellerError
from storyteller.files import text as plain
from storyteller.training import corpus

GOLDENS = Path(__file__).parent / "goldens"
SKIP = GOLDENS / "skipthoughts"


def lines_of(path):
    return path.read_bytes().decode("utf-8").split("\n")[:-1]


# Words.

@pytest.mark.parametrize("case", json.loads((SKIP / "tokenize_extra.json").read_text("utf-8")),
                         ids=lambda case: case["text"])
def test_words_as_nltk_3_1(case):
    assert text.tokenize_words(case["text"]) == case["tokens_nltk_3.1"]


@pytest.mark.parametrize("sentence, words", [
    ("", []),
    ("   ", []),
    ("and he said:", ["and", "he", "said", ":"]),
    ("respectfully,", ["respectfully", ","]),
    ("a,,b", ["a", ",", ",b"]),
    ("mor'n that", ["mor", "'n", "that"]),
    ("Mr. Fox ran. It was late.", ["Mr.", "Fox", "ran.", "It", "was", "late", "."]),
    ("the dog's'!", ["the", "dog", "'s", "'", "!"]),
    ("naïve 中文?", ["naïve", "中文", "?"]),
])
def test_more_words(sentence, words):
    assert text.tokenize_words(sentence) == words


def test_words_as_todays_nltk_where_it_has_not_changed():
    from nltk.tokenize.treebank import TreebankWordTokenizer

    today = TreebankWordTokenizer()
    sentences = (lines_of(SKIP / "sentences.txt") + lines_of(GOLDENS / "story" / "captions.txt")
                 + lines_of(GOLDENS / "story" / "romance_style_sentences.txt"))
    assert len(sentences) > 150
    for sentence in sentences:
        assert text.tokenize_words(sentence) == today.tokenize(sentence)


# Sentences.

ONE_SENTENCE = [
    "Mr. Marvel by way of answer struck out with his left.",
    "Mrs. Almond was a plain woman.",
    "He met Dr. Watson on Baker St. after lunch.",
    "She lives in St. Ives with Prof. Green and Capt. Wolf.",
    "Rev. Black spoke, e.g. about sin, i.e. ours.",
    "They left at 5 p.m. on Tuesday.",
    "It was 10 a.m. in the U.S. and late in the U.K. already.",
    "J. R. R. Brown wrote it.",
    "Lady B. was there with H. G. Wells.",
    "Mr. and Mrs. Smith walked away.",
    "It cost $3.88 in all.",
    "Version 2.5 is out.",
    "It was red, blue, etc. and green.",
    "Smith vs. Jones was a long case.",
    "Lt. Col. Gray saluted Gen. Rose.",
    "He waited by the door for her ...",
    "He waited ... and waited.",
    "well... maybe not",
    "Messrs. Hill and Wood are out.",
    "John Brown, Esq. was his name.",
    "See vol. ii, pp. 3 and 4.",
    "Sgt. Pepper and Miss Stone met at Mt. Hood.",
    "He said: \"No!\"",
    "a dog",
    "(It was over.)",
]
SENTENCES = [
    ("He ran. She hid.", ["He ran.", "She hid."]),
    ("Why? Because.", ["Why?", "Because."]),
    ("Stop! He did.", ["Stop!", "He did."]),
    ('"Go." She went.', ['"Go."', "She went."]),
    ('He said, "I do." Then he left.', ['He said, "I do."', "Then he left."]),
    ("We met Mr. Brown. He was tired.", ["We met Mr. Brown.", "He was tired."]),
    ("They left at 5 p.m. The dog stayed.", ["They left at 5 p.m.", "The dog stayed."]),
    ("He knew dogs, cats, etc. She did not.", ["He knew dogs, cats, etc.", "She did not."]),
    ("It was over (at last.) We slept.", ["It was over (at last.)", "We slept."]),
    ("A man rides a wave. A dog looks on.", ["A man rides a wave.", "A dog looks on."]),
    ("No. I will not. No!", ["No.", "I will not.", "No!"]),
    ("It is I. He knew.", ["It is I.", "He knew."]),
    ("It was 1999. The sea rose.", ["It was 1999.", "The sea rose."]),
    ("a dog . a cat .", ["a dog .", "a cat ."]),
    ("  One.\n\nTwo.\tThree.  ", ["One.", "Two.", "Three."]),
    ("", []),
    (" \n\t ", []),
]


@pytest.mark.parametrize("sentence", ONE_SENTENCE)
def test_stays_one_sentence(sentence):
    assert text.split_sentences(sentence) == [sentence]


@pytest.mark.parametrize("passage, sentences", SENTENCES)
def test_splits(passage, sentences):
    assert text.split_sentences(passage) == sentences


def test_the_golden_sentences_are_single_sentences():
    for name in ("caption_style_sentences.txt", "romance_style_sentences.txt", "captions.txt"):
        for sentence in lines_of(GOLDENS / "story" / name):
            assert text.split_sentences(sentence) == [sentence.strip()]
    for sentence in lines_of(SKIP / "sentences.txt"):
        assert text.split_sentences(sentence) == [sentence]


def test_the_shortcut_agrees_with_punkt():
    tokenizer = text._sentence_tokenizer()
    rng = np.random.default_rng(0)
    pieces = ["dog", "Cat", " ", " ", ".", "...", "?", "!", '"', "'", ")", "]", "}", ",", "3.8",
              "Mr.", "\n", "''", "(", "--"]
    shortcuts = 0
    for _ in range(5000):
        passage = "".join(rng.choice(pieces, size=rng.integers(1, 7))).strip()
        if passage and not text._MAY_SPLIT.search(passage):
            shortcuts += 1
            assert tokenizer.tokenize(passage) == [passage]
    assert shortcuts > 500


def test_long_text():
    passage = "Mr. Brown went home. He slept. " * 5000
    assert len(text.split_sentences(passage)) == 10000


# preprocess.

def test_preprocess_golden():
    wanted = [line.strip() for line in lines_of(SKIP / "preprocessed.txt")]
    sentences = lines_of(SKIP / "sentences.txt")
    assert len(wanted) == len(sentences) == 40
    assert [text.preprocess(s) for s in sentences] == wanted
    assert [text.preprocess(s.encode("utf-8")) for s in sentences] == wanted


def test_preprocess():
    assert text.preprocess("") == text.preprocess("   ") == text.preprocess(b"") == ""
    assert text.preprocess("I won't. Mr. Fox can't.") == "I wo n't . Mr. Fox ca n't ."
    assert text.preprocess(b"caf\xe9 bar") == "caf\ufffd bar"
    assert text.preprocess("What is it?!") == "What is it ? !"
    assert text.preprocess("the <eos> end") == "the < eos > end"
    with pytest.raises(StorytellerError, match="None"):
        text.preprocess(None)


def test_import_is_light():
    code = ("import sys, storyteller.text as t; t.preprocess('A dog on a (red) surfboard.');"
            "sys.exit('nltk' in sys.modules or 'scipy' in sys.modules)")
    root = str(Path(__file__).parent.parent)
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


# The user's nltk_data.

def test_nltk_data_changes_nothing(tmp_path):
    """Parameters of the user's, in which only "zq" is an abbreviation, as folder, archive and pickle."""
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    tables = {"abbrev_types.txt": "zq\n", "collocations.tab": "a\tb\n", "sent_starters.txt": "he\n",
              "ortho_context.tab": "he\t46\nbrown\t2\n"}
    for name, content in tables.items():
        (folder / name).write_text(content)
    pickled = tmp_path / "tokenizers" / "punkt" / "english.pickle"
    pickled.parent.mkdir()
    pickled.write_bytes(b"cos\nsystem\n(S'touch MARKER'\ntR.")
    code = ("from storyteller import text; "
            "print(text.split_sentences('He met zq. Brown here. He met mr. Brown here.'))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                           env={**os.environ, "NLTK_DATA": str(tmp_path),
                                "PYTHONPATH": str(Path(text.__file__).parents[1])})
    assert found.stdout.strip() == "['He met zq.', 'Brown here.', 'He met mr. Brown here.']"
    assert not (tmp_path / "MARKER").exists()


def test_looking_words_up_does_not_make_the_tables_grow():
    tokenizer = text._sentence_tokenizer()
    before = len(tokenizer._params.ortho_context)
    assert text.split_sentences("Zyxq came. Wvutz saw. Srqpo won.") == ["Zyxq came.", "Wvutz saw.", "Srqpo won."]
    assert len(tokenizer._params.ortho_context) == before


def test_missing_tables_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_PUNKT", tmp_path)
    text._sentence_tokenizer.cache_clear()
    with pytest.raises(StorytellerError, match=re.escape(str(tmp_path))):
        text.split_sentences("One. Two.")
    text._sentence_tokenizer.cache_clear()


# Files.

def write(tmp_path, data, name="some.txt"):
    file = tmp_path / name
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("data, lines", [
    (b"one\ntwo\n", ["one", "two"]),
    (b"one\ntwo", ["one", "two"]),
    (b"one\n\n two \n\n", ["one", "", "two", ""]),
    (b"\n", [""]),
    (b"\xef\xbb\xbfone\r\ntwo\r\n", ["one", "two"]),
    ("a\u2028b\nc\x85d\ve\ff\n".encode(), ["a\u2028b", "c\x85d\ve\ff"]),
    ("\u00a0caf\u00e9\u3000\n".encode(), ["caf\u00e9"]),
])
def test_read_lines(tmp_path, caplog, data, lines):
    assert text.read_lines(write(tmp_path, data)) == lines
    assert not caplog.records


def test_read_lines_unstripped(tmp_path):
    assert text.read_lines(str(write(tmp_path, b" one \r\ntwo")), strip=False) == [
        " one ", "two"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_invalid_utf8_is_replaced_and_reported(tmp_path, caplog, mark):
    file = write(tmp_path, mark + b"one\ntwo\ncaf\xe9\n\xff\n")
    assert text.read_lines(file) == ["one", "two", "caf\ufffd", "\ufffd"]
    assert len(caplog.records) == 1
    assert str(file) in caplog.text and "line 3" in caplog.text


@pytest.mark.parametrize("read", [text.read_lines, text.read_captions, text.load_vocabulary])
def test_unreadable_files(tmp_path, read):
    with pytest.raises(StorytellerError, match="missing.txt"):
        read(tmp_path / "missing.txt")
    with pytest.raises(StorytellerError, match="folder"):
        read(tmp_path)
    with pytest.raises(StorytellerError, match="some.txt"):
        read(write(tmp_path, b""))


def test_read_captions(tmp_path, caplog):
    file = write(tmp_path, b"\xef\xbb\xbf a dog \r\n\r\n  \na cat\n")
    assert text.read_captions(file) == ["a dog", "a cat"]
    assert "2 of 4" in caplog.text and str(file) in caplog.text


def test_a_list_of_words_is_hardly_captions(tmp_path, caplog):
    text.read_captions(write(tmp_path, b"a dog\ncat\n"))
    assert not caplog.records
    text.read_captions(write(tmp_path, b"a dog\ncat\nmouse\n"))
    assert "some.txt: most of its lines are single words" in caplog.text


def test_read_captions_golden(caplog):
    captions = text.read_captions(GOLDENS / "story" / "captions.txt")
    assert len(captions) == len(set(captions)) == 120
    assert all(c == c.strip() for c in captions) and not caplog.records


@pytest.mark.parametrize("data", [b"\n \n\t\n", b"\xef\xbb\xbf\n", b"PK\x03\x04\0\0\n", b"a dog\0\n", b"[]",
                                  b'{"images": []}', "a dog\n".encode("utf-16-le")])
def test_no_captions(tmp_path, data):
    with pytest.raises(StorytellerError, match="some.txt"):
        text.read_captions(write(tmp_path, data))


# One door for text: what it reads, and what it refuses by name.

LINES = ["A caf\u00e9 .", "", "Two words \u2028 here ."]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_text_however_it_is_stored(tmp_path, end, coding, pack):
    data = pack("".join(line + end for line in LINES).encode(coding))
    assert text.read_lines(write(tmp_path, data, "some.pdf")) == LINES          # the name says nothing
    assert text.read_lines(io.BytesIO(data)) == LINES
    assert list(corpus.open_text(write(tmp_path, data))) == LINES
    assert text.read_captions(write(tmp_path, data)) == [LINES[0], LINES[2]]


def test_zstandard(tmp_path, monkeypatch):
    packed = write(tmp_path, b"\x28\xb5\x2f\xfd\x04\x00\x31\x00\x00a dog\n\x2f\x2f\xad\x06")
    with monkeypatch.context() as patch:
        patch.setattr("storyteller.files.text._zstd", lambda: None)
        with pytest.raises(StorytellerError, match="some.txt.*zstd"):
            text.read_lines(packed)
    zstd = plain._zstd()
    if zstd is None:
        pytest.skip("no module for zstandard")
    assert text.read_lines(write(tmp_path, zstd.compress(b"a dog\na cat\n"))) == ["a dog", "a cat"]
    with pytest.raises(StorytellerError, match="some.txt"):
        text.read_lines(write(tmp_path, zstd.compress(b"a dog\n" * 9999)[:-3]))


def zipped(name, content=b"x"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


NO_TEXT = {
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(40), "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF89a",
    "WebP": b"RIFF\1\0\0\0WEBPVP8 ",
    "HEIC": b"\0\0\0\x18ftypheic", "PDF": b"%PDF-1.4\n%\xe2\xe3\n1 0 obj",
    "RTF": b"{\\rtf1\\ansi He sat.}", "PostScript": b"%!PS-Adobe-3.0\n",
    "EPUB": zipped("mimetype", b"application/epub+zip"), "office": zipped("[Content_Types].xml"),
    "zip archive": zipped("book.txt"), "office ": zipped("mimetype", b"application/vnd.oasis.opendocument.text"),
    " office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "web page": b"<!DOCTYPE html>\n<html>", " web page": b"\xef\xbb\xbf\n <HTML><body>",
    "web page ": b"<?xml version='1.0'?><html>",
    "tar": b"book.txt".ljust(257, b"\0") + b"ustar\0", "7-Zip": b"7z\xbc\xaf\x27\x1c",
    "git-LFS": b"version https://git-lfs.github.com/spec/v1\n"}


@pytest.mark.parametrize("kind", NO_TEXT)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_no_text_is_named(tmp_path, kind, pack):
    file = write(tmp_path, pack(NO_TEXT[kind]))
    for read in (text.read_lines, text.read_captions, text.load_vocabulary, lambda path: list(corpus.open_text(path))):
        with pytest.raises(StorytellerError, match=f"some.txt.*{kind.strip()}") as caught:
            read(file)
        assert "iconv" not in str(caught.value)
    with pytest.raises(StorytellerError, match=kind.strip()):
        text.read_lines(io.BytesIO(pack(NO_TEXT[kind])))


def test_a_web_page_in_utf16(tmp_path):
    with pytest.raises(StorytellerError, match="web page"):
        text.read_captions(write(tmp_path, "<!DOCTYPE html><html>".encode("utf-16")))


@pytest.mark.parametrize("data", [gzip.compress(b"some words\n" * 5000)[:-9],
                                  lzma.compress(b"some words\n" * 5000)[:-40],
                                  bz2.compress(b"some words\n" * 5000)[:-4], "a dog".encode("utf-16")[:-1],
                                  "a dog".encode("utf-32") + b"\xff\xff\xff\xff"])
def test_damaged_texts(tmp_path, data):
    for read in (text.read_lines, text.read_captions, lambda path: list(corpus.open_text(path))):
        with pytest.raises(StorytellerError, match="some.txt"):
            read(write(tmp_path, data))


@pytest.mark.parametrize("line", [b"a", b"a b ", b"\n", b"ab\n"])
def test_a_small_file_does_not_fill_the_memory(tmp_path, monkeypatch, line):
    """Packed text that grows a thousandfold is refused once it has grown a hundredfold."""
    monkeypatch.setattr(plain, "_FREE", 1 << 18)
    data = lzma.compress(line * (8_000_000 // len(line)), preset=0)
    assert len(data) < 10_000
    for read in (text.read_lines, lambda path: sum(len(paragraph) for paragraph in corpus.paragraphs(path, "lines"))):
        with pytest.raises(StorytellerError, match="some.txt"):
            read(write(tmp_path, data))


def test_lines_without_end(tmp_path, monkeypatch):
    with pytest.raises(StorytellerError, match="some.txt.*line 2"):
        list(plain.open_text(write(tmp_path, b"one\n" + b"a b " * 999), max_line=1000))


def test_coco_and_flickr(tmp_path):
    want = ["A cat on a sofa .", "A dog in the park ."]
    said = ["A cat on a sofa.", "A dog in\nthe park."]
    for data in ({"annotations": [{"image_id": 1, "caption": caption} for caption in said]}, said,
                 [{"image_id": 1, "caption": caption} for caption in said],
                 {"images": [{"sentences": [{"raw": said[0]}]}, {"sentences": [{"raw": said[1]}]}]}):
        content = json.dumps(data).encode()
        assert text.read_captions(write(tmp_path, content)) == want
        assert text.read_captions(write(tmp_path, gzip.compress(b"\n" + content))) == want
    tokens = "".join(f"12_a.jpg#{i}\t{caption}\n" for i, caption in enumerate(want)).encode()
    assert text.read_captions(write(tmp_path, tokens)) == want
    assert text.read_captions(write(tmp_path, tokens), aligned=True) == want


@pytest.mark.parametrize("data", [b'{"info": 1}', b'{"annotations": [{"id": 1}]}', b'{"annotations": 3}',
                                  b'{"caption": "a"', b"[" * 99999,
                                  b'[{"caption": null}]', b'{"a": "a dog"}\n{"a": "a cat"}', b'["a", 2]',
                                  b"image,caption\n12_a.jpg,A dog .\n", b"12_a.jpg| 0| A dog .\n", b"12_a.jpg#0\t\n"])
def test_json_and_tables_without_captions(tmp_path, data):
    with pytest.raises(StorytellerError, match="some.txt"):
        text.read_captions(write(tmp_path, data))


def test_captions_that_belong_to_rows(tmp_path):
    assert text.read_captions(write(tmp_path, b"a\nb\n\n"), aligned=True) == ["a", "b"]
    with pytest.raises(StorytellerError, match="line 2"):
        text.read_captions(write(tmp_path, b"a\n\nb\n"), aligned=True)


def test_normalize():
    assert text.normalize("\u201cI _don\u2019t_ know\u201d \u2014 caf\u00e9") == '"I don\'t know" -- caf\u00e9'
    assert text.normalize("cafe\u0301") == "caf\u00e9" and corpus.normalize is text.normalize


# Vocabulary.

def test_vocabulary_golden():
    words, n_rows = text.load_vocabulary(SKIP / "dictionary.txt")
    facts = json.loads((SKIP / "facts.json").read_text("utf-8"))
    assert n_rows == facts["n_table_rows"] == 300
    assert len(words) == facts["n_distinct_keys"] == 298
    rows = (SKIP / "dictionary.txt").read_bytes().split(b"\n")[:-1]
    stripped = [row.decode("utf-8").strip() for row in rows]
    for word in facts["duplicates_later_row_wins"]:
        assert stripped.count(word) == 2
        assert words[word] == max(i for i, w in enumerate(stripped) if w == word)
    assert any("\u2028" in w for w in words) and any("\x85" in w for w in words)
    assert any("\v" in w for w in words) and not any("\r" in w for w in words)


def test_unknown_words_golden():
    words, _ = text.load_vocabulary(SKIP / "dictionary.txt")
    facts = json.loads((SKIP / "facts.json").read_text("utf-8"))
    for sentence, unknown in zip(lines_of(SKIP / "sentences.txt"),
                                 facts["unknown_tokens_per_sentence"]):
        tokens = text.preprocess(sentence).split(" ")
        assert [t for t in tokens if t not in words] == unknown


def test_vocabulary_without_last_newline(tmp_path):
    assert text.load_vocabulary(write(tmp_path, b"a\n\nUNK")) == ({"a": 0, "": 1, "UNK": 2}, 3)


def test_large_vocabulary_is_read_once(tmp_path, monkeypatch):
    lines = [f"word{number % 99_990}{'é' * (number % 3)}" for number in range(100_000)]
    path = write(tmp_path, "\n".join([*lines, "UNK", ""]).encode())
    expected, n_rows = text.load_vocabulary(path)
    assert path.stat().st_size > 1 << 20 and n_rows == 100_001 > len(expected)
    assert text.open_vocabulary(path) == (expected, n_rows)
    with monkeypatch.context() as patch:
        patch.setattr(text, "load_vocabulary", None)
        words, found = text.open_vocabulary(path)
        assert found == n_rows and len(words) == len(expected)
        assert all(words[word] == row for word, row in expected.items())
        assert "wort" not in words and None not in words and words.get("word5é", -1) == -1
    assert list(words.items()) == list(expected.items())
    # Another file in its place.
    path.write_bytes(b"first\n" + path.read_bytes())
    assert text.open_vocabulary(path)[0]["first"] == 0 and text.open_vocabulary(path)[0]["word50éé"] == 51


@pytest.mark.parametrize("data", [b"the\nof\n", b"UNK\ncaf\xc3"])
def test_damaged_vocabulary(tmp_path, data):
    with pytest.raises(StorytellerError) as info:
        text.load_vocabulary(write(tmp_path, data))
    for part in ("some.txt", "26d8a3e6458500013723b380a4b4b55e"):
        assert part in str(info.value)


def test_word_indices():
    dictionary = {"<eos>": 0, "UNK": 1, "a": 2, "b": 3, "c": 4}
    words = ["a", "b", "c", "z", "UNK"]
    assert text.word_indices(words, dictionary, 4) == [2, 3, 1, 1, 1]
    assert text.word_indices(words, dictionary, None) == [2, 3, 4, 1, 1]
    assert text.word_indices(words, dictionary, 4, unk=9) == [2, 3, 9, 9, 1]
    assert text.word_indices([], dictionary, 4) == []


# Batches.

def test_sorted_batches():
    lengths = np.random.default_rng(4).integers(1, 9, 50)
    batches = text.sorted_batches(list(lengths), 8)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(50)) and [len(b) for b in batches] == [8] * 6 + [2]
    assert list(order) == sorted(range(50), key=lambda i: -lengths[i])


def test_batches_of_nothing_and_of_no_size():
    assert text.sorted_batches([], 5) == []
    assert [b.tolist() for b in text.sorted_batches([4], 5)] == [[0]]
    with pytest.raises(StorytellerError, match="batch_size is 0"):
        text.sorted_batches([1, 2], 0)


# Dictionaries.

def test_build_dictionary_golden():
    golden = json.loads((GOLDENS / "training" / "vocab" / "build_dictionary.json").read_text())
    words, counts = text.build_dictionary(golden["text"])
    assert [list(item) for item in words.items()] == [
        list(item) for item in golden["worddict_in_order"]]
    assert [list(item) for item in counts.items()] == [
        list(item) for item in golden["wordcount_in_order_of_first_appearance"]]


def test_build_dictionary_ties_go_by_first_appearance():
    words, counts = text.build_dictionary(iter(["c a", "", "b\tb  a c", "d"]))
    assert list(words.items()) == [("c", 2), ("a", 3), ("b", 4), ("d", 5)]
    assert list(counts.items()) == [("c", 2), ("a", 2), ("b", 2), ("d", 1)]
    assert text.build_dictionary([]) == ({}, {})


# Reading again.

@pytest.mark.parametrize("words, wanted", [
    ("", ""),
    ("`` i do n't know , '' he said .", '"I don\'t know," he said.'),
    ("he was here . `` i 'm gon na go ! ''", 'He was here. "I\'m gonna go!"'),
    ("`` why ? '' he asked . why ? because .", '"Why?" he asked. Why? Because.'),
    ("it 's $ 5 ( or so ) ; maybe 50 % ...", "It's $5 (or so); maybe 50%..."),
    ("she can not , she 'd 've said so", "She cannot, she'd've said so"),
    ("the boys ' toys -- and mr. brown 's", "The boys' toys -- and Mr. Brown's"),
    ("'i shall be sure , ' says she . ' and so ? '", "'I shall be sure,' says she.' And so?'"),
    ("`` he called : 'my poor boy ! ' ''", '"He called: \'my poor boy!\'"'),
    ("rock 'n ' roll", "Rock 'n' roll"),
    ("wait ... and i will , i.e. soon", "Wait... and I will, i.e. soon"),
    ("élan is all .", "Élan is all."),
])
def test_detokenize(words, wanted):
    assert text.detokenize(words) == wanted


def test_detokenize_undoes_preprocess():
    for sentence in ["I don't think she'd ever seen a dog like that before.",
                     '"I know you love the ocean," she said.',
                     "The old farmer's horse (a white one) was standing near the river.",
                     "He can't believe it's only $3.88 for the pizza!"]:
        assert text.detokenize(text.preprocess(sentence)) == sentence


def test_docstring_examples():
    import doctest

    result = doctest.testmod(text)
    assert result.attempted > 5 and result.failed == 0


# One way of reading for what a model was trained on and what it is given.

@pytest.fixture(scope="module")
def compact_stv():
    return skipthoughts.load_model(compact.FOLDER)


def test_models_read_texts_as_their_training_did(compact_stv):
    """Curly quotes and decomposed accents are those of the training for the compact models, and stay for the others."""
    odd, plain_one = "\u201cI don\u2019t know\u201d \u2014 at the cafe\u0301.", "\"I don't know\" -- at the caf\u00e9."
    vectors = skipthoughts.encode(compact_stv, [odd, plain_one], verbose=False)
    assert compact_stv.normalize and (vectors[0] == vectors[1]).all()
    np.testing.assert_allclose(style.make(compact_stv, [odd], 1, False), vectors[1], atol=1e-5)
    vse = embedding.load_model(compact.paths()["vsemodel"])
    assert (vse.indices("the dog \u2019s ball") == vse.indices("the dog 's ball")).all()
    assert decoder.load_model(compact.paths()["decmodel"], compact.paths()["dictionary"]).options["normalize"]
    original = skipthoughts.load_model(SKIP, verbose=False)
    assert not original.normalize
    a, b = skipthoughts.encode(original, ["he said \u201cno\u201d", 'he said "no"'], verbose=False)
    assert (a != b).any()


def test_a_style_of_the_published_models_is_of_the_texts_as_they_are(tmp_path):
    path = write(tmp_path, "He said \u201cno\u201d \n and  left.\n\nHe \u2014 sat.\n".encode())
    as_they_are = corpus.paragraphs(path, "blank", normalized=False)
    assert list(as_they_are) == ["He said \u201cno\u201d and left.", "He \u2014 sat."]
    assert list(corpus.paragraphs(path, "blank")) == ['He said "no" and left.', "He -- sat."]


def test_another_language_is_told_once(compact_stv, caplog):
    vse = embedding.load_model(compact.paths()["vsemodel"])
    russian = ["\u041e\u043d \u0441\u0435\u043b \u0443 \u043e\u043a\u043d\u0430."] * 20
    for encode in (lambda texts: skipthoughts.encode(compact_stv, texts, use_eos=True, verbose=False),
                   lambda texts: style.make(compact_stv, texts, 1, False),
                   lambda texts: embedding.encode_sentences(vse, texts),
                   lambda texts: embedding.embed_captions(vse, texts)):
        encode(russian)
        (record,) = caplog.records
        assert record.levelname == "WARNING" and "%" in record.getMessage()
        caplog.clear()
        encode(["THE DOG RAN OVER THE GRASS", "A DOG JUMPED INTO WATER"])
        assert len(caplog.records) == 1
        caplog.clear()
        encode(["a dog on the grass", "a cat on a sofa with a zyzzyva", ""])
        assert not caplog.records
