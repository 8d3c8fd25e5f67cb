"""Stories told sentence by sentence."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, embedding, generate, search, telling
from storyteller.decoder import Decoder
from storyteller.layers import init_dense, init_gru

IMAGE = Path(__file__).parent.parent / "images" / "ex1.jpg"
WORDS = ["<eos>", "UNK", ".", "``", "''", "the", "dog", "cat", "ran", "sat", "she", "he"]


@pytest.fixture(scope="module")
def dec():
    """A small decoder that writes something else for every context."""
    rng = np.random.default_rng(3)
    n, dim = len(WORDS), 8
    params = {"Wemb": rng.standard_normal((n, 5)).astype(np.float32), **init_dense("ff_state", 4, dim, rng),
              **init_gru("decoder", 5, dim, rng), **init_dense("ff_hid", dim, 5, rng),
              **init_dense("ff_logit", 5, n, rng)}
    params["ff_logit_W"] = rng.standard_normal((5, n)).astype(np.float32) * 2
    return Decoder({"dim": dim}, params, WORDS)


def vector(seed):
    return np.random.default_rng(seed).standard_normal(4).astype(np.float32)


def test_what_readers_stumble_over():
    assert telling.words_of("`` He did n't , '' she said -- no . Cat 's") == ["he", "didn't", "she", "said", "no",
                                                                              "cat's"]
    assert telling.repeats_itself("the dog saw a dog .") and not telling.repeats_itself("the dog and the cat .")
    assert telling.faults("She sat .", ["The boy ran ."]) == 1
    assert telling.faults("The girl sat and she ran .", ["The boy ran ."]) == 0
    assert telling.faults("The boy ran .", ["The boy ran .", "It sat ."]) == 2
    assert telling.faults("The boy sat .", ["The boy ran ."]) == 1


def test_what_captions_name():
    named = telling.named_by(["a dog on the grass", "two dogs and a dog", "the dog sleeps"])
    assert named["dog"] == 1 and named["dogs"] == pytest.approx(1 / 3) and "the" not in named
    assert telling.named_by([]) == {}
    # Of two words that all captions have, and one that a quarter has, the picture decides.
    said = ["a red table", "a red table", "a red table", "a pineapple on a red table"]
    cosines = {"red": -0.1, "table": 0.2, "pineapple": 0.5}
    named = telling.named_by(said, lambda words: np.array([cosines[word] for word in words]))
    assert named == {"table": pytest.approx(0.8), "pineapple": 1.0}
    assert telling.named_by(said, lambda words: np.full(len(words), -0.1)) == telling.named_by(said)
    assert "rare" not in telling.named_by(["a dog"] * 99 + ["a rare dog"])


def test_sentences_end_after_what_is_said():
    whole = [telling._is_whole([WORDS.index(word) for word in text.split()], np.array([2]), 3, 4)
             for text in ("the dog ran .", "`` the dog ran .", "`` the dog ran . ''", "`` the dog '' she", "''", "")]
    assert whole == [True, False, True, False, False, False]


def test_image_similarity(z):
    query = np.random.default_rng(0).standard_normal(z["vse"].dim).astype(np.float32)
    query /= np.linalg.norm(query)
    found = telling.image_similarity(z["vse"], query, ["`` A dog runs , '' she said .", "The sea is blue ."])
    rows = embedding.encode_sentences(z["vse"], ["`` a dog runs , '' she said .", "the sea is blue ."]) @ query
    np.testing.assert_allclose(found, rows, atol=1e-6)


def test_costs_are_the_decoders(dec, monkeypatch):
    monkeypatch.setattr(telling, "LENGTHS", (4, 12))
    monkeypatch.setattr(telling, "SENTENCE", 6)
    for seed in range(4):
        told = telling.tell(dec, vector(1), vector(2), 5, seed=seed)
        words = [WORDS.index(word) for word in told.text.split()]
        assert words and "UNK" not in told.text
        state, last, cost = dec.f_init(vector(1)[None]), np.array([search.FIRST]), 0.0
        for word in words:
            p, state = dec.f_next(last, state)
            cost, last = cost - np.log(p[0, word]), np.array([word])
        assert told.cost == pytest.approx(cost, abs=1e-3) and told.similarity is None
        assert telling.tell(dec, vector(1), vector(2), 5, seed=seed) == told


def test_the_best_candidate_is_taken(dec, monkeypatch):
    monkeypatch.setattr(telling, "SEEN", 1000.0)
    monkeypatch.setattr(telling, "LENGTHS", (4, 8))
    asked = []

    def similarity(texts):
        asked.append(list(texts))
        return np.array([float("cat" in text) for text in texts])

    told = telling.tell(dec, vector(1), vector(2), 8, seed=1, similarity=similarity)
    rest = told.text
    for texts in asked:
        best = next((text for text in texts if rest.startswith(text)), None)
        assert best is not None and (("cat" in best) or not any("cat" in text for text in texts))
        rest = rest[len(best):].strip()
    assert not rest


def test_what_the_picture_shows_comes_first(dec, monkeypatch):
    monkeypatch.setattr(telling, "LENGTHS", (4, 12))
    monkeypatch.setattr(telling, "SENTENCE", 6)
    monkeypatch.setattr(telling, "OPENING", 30.0)
    monkeypatch.setattr(telling, "LARGEST", 10.0)

    def told(**named):
        return [telling.tell(dec, vector(1), vector(2), 5, seed=seed, named=named) for seed in range(12)]

    def named_first(stories, word):
        """Of the stories with a determiner in their first sentence, those that go on with the word."""
        firsts = [story.text.split(" .")[0].split() for story in stories]
        return np.mean([first[first.index("the") + 1:][:1] == [word] for first in firsts if "the" in first])

    assert named_first(told(cat=1.0, dog=0.4), "cat") == 1 > 0.5 > named_first(told(), "cat")
    assert named_first(told(dog=1.0), "dog") == 1
    assert told(zebra=1.0) == told()        # a word that the decoder does not know
    monkeypatch.setattr(telling, "OPENING", 0.0)
    monkeypatch.setattr(telling, "NAMED", 0.0)
    assert told(cat=1.0) == told()


def test_costs_are_the_decoders_whatever_is_named(dec, monkeypatch):
    monkeypatch.setattr(telling, "LENGTHS", (4, 12))
    told = telling.tell(dec, vector(1), vector(2), 5, seed=1, named={"cat": 1.0, "dog": 0.8})
    words = [WORDS.index(word) for word in told.text.split()]
    state, last, cost = dec.f_init(vector(1)[None]), np.array([search.FIRST]), 0.0
    for word in words:
        p, state = dec.f_next(last, state)
        cost, last = cost - np.log(p[0, word]), np.array([word])
    assert told.cost == pytest.approx(cost, abs=1e-3)


def test_which_nouns_may_follow_an_article():
    words = ["a", "An", "the", "owl", "dog", "dogs", "people", "bus"]
    worddict = {word: i for i, word in enumerate(words)}
    first = telling._FirstNoun(worddict, {"owl": 1.0, "dog": 1.0, "dogs": 0.5, "people": 1.0, "bus": 0.6, "ran": 1.0,
                                          "cat": 0.3})
    log_p = np.full(len(words), -20, np.float32)

    def likelier(*before):
        found, nats = first.added([words.index(word) for word in before], log_p)
        return {words[i]: float(nat) for i, nat in zip(found, nats) if nat}

    assert likelier("a") == {"dog": 9.0, "bus": pytest.approx(5.4)} and likelier("An") == {"owl": 9.0}
    assert likelier("the") == {"owl": 9.0, "dog": 9.0, "dogs": 4.5, "people": 9.0, "bus": pytest.approx(5.4)}
    assert likelier() == likelier("owl") == likelier("a", "owl", "the") == {}
    log_p[words.index("owl")], log_p[words.index("people")] = -0.5, -3
    assert likelier("the")["people"] == 2 and "owl" not in likelier("the")      # likely already
    assert first.is_among([0, 3]) and not first.is_among([0, 1, 2])


def test_guidance(dec):
    told = {w: telling.tell(dec, vector(1), vector(2), 1, guidance=w, seed=0).text for w in (0, 1)}
    assert told[0] == telling.tell(dec, vector(2), vector(2), 1, seed=0).text     # b alone
    assert told[0] != told[1] == telling.tell(dec, vector(1), vector(1), 1, guidance=3, seed=0).text


def test_the_length(dec):
    for most in (1, 3, 9):
        told = telling.tell(dec, vector(1), vector(2), 3, maxlen=most, seed=2)
        first = told.text.split(".")[0] + "."
        assert len(told.text.split()) <= max(most, len(first.split()))
    for wrong in ({"candidates": 0}, {"guidance": float("nan")}, {"temperature": 0}, {"maxlen": 0}, {"seed": -1}):
        with pytest.raises(StorytellerError):
            telling.tell(dec, vector(1), vector(2), **wrong)


def test_stories(z):
    options = dict(k=10, maxlen=40, show=False)
    told = generate.story(z, IMAGE, candidates=4, n_best=2, **options)
    assert [told.passage] == [told.alternatives[0].text] and told.alternatives[0] != told.alternatives[1]
    assert told.alternatives[0].similarity is not None
    assert generate.story(z, IMAGE, candidates=4, **options).passage == told.passage
    other = generate.story(z, IMAGE, candidates=4, seed=1, **options)
    assert other.passage == told.alternatives[1].text
    for wrong in ({"candidates": -1}, {"candidates": 0, "seed": 1}, {"candidates": 2, "guidance": "much"},
                  {"guidance": 1.5}, {"sample": True, "guidance": 1.5}, {"candidates": 2, "sample": True},
                  {"candidates": np.arange(2), "sample": True}):
        with pytest.raises(StorytellerError):
            generate.story(z, IMAGE, **{**options, **wrong})


def test_captions_as_texts_and_as_they_are_found(z):
    features = generate.image_features(z, IMAGE)
    captions = generate.nearest_captions(z, features, 5)
    thought = generate.shifted_thought(z, captions)
    told = [generate.write_passages(z, thought, features, candidates=2, maxlen=12, captions=some)
            for some in (captions, [caption.text for caption in captions])]
    assert told[0] == told[1]
    for wrong, says in (("a cat", "expected a list of captions"), (None, "expected a list"), ([3], "has 3 in it"),
                        ([generate.Caption(None, 1.0)], "has None in it")):
        with pytest.raises(StorytellerError, match=says):
            generate.shifted_thought(z, wrong)
        with pytest.raises(StorytellerError, match=says):
            generate.write_passages(z, thought, features, candidates=2, captions=wrong)
    with pytest.raises(StorytellerError, match="captions is empty"):
        generate.shifted_thought(z, [])
