"""The commands vocab, train and evaluate, on tiny texts from end to end."""
from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, backend, cli, decoder, evaluation, files, skipthoughts, style, text
from storyteller.cli import arguments, train
from storyteller.training import prepare, tasks, trainer, vocabulary
from tests.test_training import NOUNS, VERBS, sentences

TINY = ["--dim", "12", "--dim-word", "8", "--batch-size", "16", "--lrate", "0.01", "--warmup", "5", "--disp-freq",
        "10", "--valid-freq", "20", "--save-freq", "10", "--sampleFreq", "1000"]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no settings of the checkout

    def call(*arguments, fails=0):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert bool(status) == bool(fails), err     # 1, or 2 for wrong usage
        if fails:
            assert err.startswith("storyteller: ") or "\nstoryteller: " in err
            assert "Traceback" not in err and not out
            return err
        return out
    return call


def novel(path, n, seed):
    lines = [f"{line[0].upper()}{line[1:-2]}." for line in sentences(n, seed)]
    path.write_text("\n".join(" ".join(lines[i:i + 4]) for i in range(0, n, 4)) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "novels").mkdir()
    novel(folder / "novels" / "one.txt", 200, 1)
    novel(folder / "novels" / "two.txt", 120, 2)
    novel(folder / "heldout.txt", 80, 3)
    captions, rows = {}, {}
    rng = np.random.default_rng(4)
    for split, images in (("train", 40), ("dev", 10)):
        lines, features = [], []
        for _ in range(images):
            one, other = rng.choice(len(NOUNS), 2, replace=False)
            lines += [f"the {NOUNS[one]} {verb} the {NOUNS[other]}" for verb in (*VERBS, "meets")]
            features += [np.eye(len(NOUNS))[one] * 2 + np.eye(len(NOUNS))[other]] * 5
        captions[split] = lines
        rows[split] = np.array(features, np.float32) / np.float32(np.sqrt(5))
        (folder / f"toy_{split}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        np.save(folder / f"toy_{split}_ims.npy", rows[split])
    return folder


@pytest.fixture(scope="module")
def model(place):
    """A skip-thoughts model as two command lines make it."""
    folder = place / "models"
    common = ["train", "skipthoughts", str(place / "novels"), "-o", str(folder), "--heldout",
              str(place / "heldout.txt"), *TINY, "--max-epochs", "2", "-q"]
    assert cli.main(common) == 0
    assert cli.main([*common, "--bidirectional"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(place, model):
    """A decoder as a command line makes it."""
    path = place / "toy.npz"
    assert cli.main(decoder_line(place, model, path) + ["--max-epochs", "6", "-q"]) == 0
    return path


def decoder_line(place, model, path):
    return ["train", "decoder", str(place / "novels"), "-o", str(path), "--skipthoughts", str(model), "--heldout",
            str(place / "heldout.txt"), "--min-words", "6", "--max-words", "12", *TINY]


def final(path):
    with np.load(trainer.checkpoint_path(path)) as archive:
        return {name: archive[name] for name in archive.files if name != "state"}


def test_vocab(run, place, tmp_path):
    out = run("vocab", place / "novels", "-o", tmp_path / "words.pkl", "--max-words", 5)
    words = files.load_dictionary(tmp_path / "words.pkl")
    assert sorted(words.values()) == [2, 3, 4, 5, 6] and out.startswith(f"{tmp_path / 'words.pkl'}: 5 of ")
    counts = vocabulary.load_counts(tmp_path / "words.pkl")
    assert sum(counts.values()) == 320 * 6 and counts["."] == 320
    out = run("vocab", place / "toy_train_caps.txt", "-o", tmp_path / "caps.pkl", "--captions")
    assert "100.00 %" in out and "meets" in files.load_dictionary(tmp_path / "caps.pkl")


def test_skipthoughts(model, run, place):
    loaded = skipthoughts.load_model(model)
    vectors = skipthoughts.encode(loaded, ["The cat sees the dog.", "nobody"])
    assert vectors.shape == (2, 36) and np.isfinite(vectors).all()
    words = files.load_dictionary(model / "dictionary.pkl")
    assert list(text.load_vocabulary(model / "dictionary.txt")[0]) == ["<eos>", "UNK", *words]
    assert files.load_options(model / "uni_skip.npz.pkl")["dim"] == 12
    # The texts were read and encoded once for both.
    made = json.loads((model / "skipthoughts.data" / "made.json").read_text())
    assert set(made) == {"train.txt", "heldout.txt", "train.tokens.npy", "heldout.tokens.npy"}
    out = run("evaluate", "neighbours", "--skipthoughts", model, "--corpus", place / "heldout.txt", "-k", 2,
              "The cat sees the dog.", "--json", "-q")
    nearest = json.loads(out)["queries"][0]["nearest"]
    assert len(nearest) == 2 and nearest[0]["cosine"] >= nearest[1]["cosine"]
    out = run("evaluate", "neighbours", "--skipthoughts", model, "--corpus", place / "heldout.txt", "The sea.")
    assert out.startswith("The sea.\n  ") and out.count("\n") == 6


def test_the_default_of_two_directions():
    parser = train.parser()
    for flags, dim in (([], 2400), (["--bidirectional"], 1200), (["--bidirectional", "--dim", "7"], 7)):
        options = parser.parse_args(["skipthoughts", "t.txt", "-o", "models", *flags])
        assert train.given_options(options, tasks.SKIPTHOUGHTS)["dim"] == dim


@pytest.mark.parametrize("name, defaults", [("skipthoughts", tasks.SKIPTHOUGHTS), ("decoder", tasks.DECODER),
                                            ("embedding", tasks.EMBEDDING)])
def test_every_option_is_a_flag(name, defaults, capsys):
    parser = train.parser()
    texts = [] if name == "embedding" else ["t.txt"]
    for option, default in defaults.items():
        value = [] if isinstance(default, bool) else [str(default)]
        options = parser.parse_args([name, *texts, "-o", "x.npz", f"--{option}", *value])
        assert getattr(options, option) == (True if isinstance(default, bool) else default)
        assert train.given_options(options, defaults)[option] == getattr(options, option)
    with pytest.raises(SystemExit):
        cli.main(["train", name, "--help"])
    shown = capsys.readouterr().out
    assert "--valid-freq" in shown and "--validFreq" in shown and "default: 1234" in shown and "{}" not in shown


def test_decoder_from_novels_to_words(trained, model, place, run, tmp_path):
    settings = {"skmodels": str(model), "sktables": str(model)}
    (tmp_path / "config.py").write_text(f"paths = {settings!r}\n")
    run("style", "make", place / "novels", "-o", tmp_path / "toy_style.npy", "--min-words", 5)
    dec = decoder.load_model(trained, place / "toy_dictionary.pkl")
    told = decoder.run_sampler(dec, style.load(tmp_path / "toy_style.npy", 36), beam_width=3, maxlen=12)
    assert told and set(told.split()) <= set(files.load_dictionary(place / "toy_dictionary.pkl"))
    assert dec.options["n_words"] == len(files.load_dictionary(place / "toy_dictionary.pkl")) + 2

    line = ["evaluate", "decoder", place / "heldout.txt", "--model", trained, "--min-words", 6, "--max-words", 12,
            "--reconstruct", 5]
    values = json.loads(run(*line, "--skipthoughts", model, "--json", "-q"))
    assert values["reconstructed"] == 5 and values["unknown"] == 0 and 0 <= values["bleu"] <= 100
    # The trainer's own measure, by another road (it reads at most 64 minibatches: all of them here).
    with np.load(trainer.checkpoint_path(trained)) as archive:
        best = json.loads(archive["state"].tobytes())["best"]
    assert values["perplexity"] == pytest.approx(best, rel=1e-4) and values["perplexity"] < 8
    assert "perplexity" in run(*line, "--config", tmp_path / "config.py")


def test_a_decoder_of_means_of_sentences(place, model, run, tmp_path):
    """--context sentences: trained, measured and given its style on the means of passages' sentences."""
    line = [*decoder_line(place, model, tmp_path / "toy.npz"), "--context", "sentences", "--max-epochs", "6", "-q"]
    run(*line)
    work = tmp_path / "toy.npz.data"
    encoder = skipthoughts.load_model(model)
    with open(work / "heldout.txt", encoding="utf-8") as file:
        passages = [line.rstrip("\n").split("\t") for line in file]
    assert {len(passage) for passage in passages} == {2}
    wanted = [skipthoughts.encode(encoder, passage).mean(axis=0) for passage in passages]
    np.testing.assert_allclose(np.load(work / "heldout.vectors.npy"), wanted, atol=1e-6)
    values = json.loads(run("evaluate", "decoder", place / "heldout.txt", "--model", tmp_path / "toy.npz",
                            "--min-words", 6, "--max-words", 12, "--reconstruct", 0, "--skipthoughts", model, "--json",
                            "-q"))
    with np.load(trainer.checkpoint_path(tmp_path / "toy.npz")) as archive:
        best = json.loads(archive["state"].tobytes())["best"]
    assert values["perplexity"] == pytest.approx(best, rel=1e-4)
    # Another way to make vectors is no continuation, which is told before they are made.
    vectors = (work / "train.vectors.npy").read_bytes()
    err = run(*decoder_line(place, model, tmp_path / "toy.npz"), "--max-epochs", "7", "--resume", fails=1)
    assert "made with context 'sentences'" in err and (work / "train.vectors.npy").read_bytes() == vectors

    (tmp_path / "config.py").write_text(f"paths = {dict(skmodels=str(model), sktables=str(model))!r}\n")
    run("style", "make", place / "heldout.txt", "-o", tmp_path / "plain.npy", "--min-words", 1, "--no-sentences")
    with open(tmp_path / "config.py", "a") as file:     # what it does by itself with this decoder
        file.write(f"paths['decmodel'] = {str(tmp_path / 'toy.npz')!r}\n")
    run("style", "make", place / "heldout.txt", "-o", tmp_path / "b.npy", "--min-words", 1)
    paragraphs = (place / "heldout.txt").read_text().splitlines()
    means = [skipthoughts.encode(encoder, text.split_sentences(paragraph)).mean(axis=0) for paragraph in paragraphs]
    np.testing.assert_allclose(style.load(tmp_path / "b.npy"), np.mean(means, axis=0), atol=1e-6)
    plain = skipthoughts.encode(encoder, paragraphs).mean(axis=0)
    np.testing.assert_allclose(style.load(tmp_path / "plain.npy"), plain, atol=1e-6)


def test_means_of_sentences_of_many_passages(model, monkeypatch):
    encoder = skipthoughts.load_model(model)
    lines = sentences(20)
    passages = [lines[:1], [], lines[1:12], lines[12:14], [], lines[14:]]
    whole = style.sentence_means(encoder, passages)
    monkeypatch.setattr(style, "_CHUNK", 3)
    np.testing.assert_allclose(style.sentence_means(encoder, passages), whole, atol=1e-6)
    assert whole.shape == (6, 36) and not whole[1].any() and not whole[4].any()
    np.testing.assert_allclose(whole[3], skipthoughts.encode(encoder, lines[12:14]).mean(axis=0), atol=1e-6)
    assert style.sentence_means(encoder, []).shape == (0, 36)


def test_a_decoder_of_given_word_vectors(place, model, run, tmp_path):
    pytest.importorskip("gensim.models")
    rng = np.random.default_rng(3)
    names = [*NOUNS[:3], *VERBS, "zebra"]
    given = rng.standard_normal((len(names), 8)).astype(np.float32)
    rows = [" ".join([name, *map(repr, map(float, row))]) for name, row in zip(names, given)]
    (tmp_path / "given.txt").write_text(f"{len(names)} 8\n" + "\n".join(rows) + "\n")
    line = [*decoder_line(place, model, tmp_path / "toy.npz"), "--embeddings", tmp_path / "given.txt", "-q"]
    run(*line, "--updates", 1, "--lrate", "1e-9")
    words = files.load_dictionary(tmp_path / "toy_dictionary.pkl")
    table = np.load(tmp_path / "toy.npz")["Wemb"]
    found = table[[words[name] for name in names[:-1]]]
    # As given but for one scale.
    np.testing.assert_allclose(found / np.linalg.norm(found), given[:-1] / np.linalg.norm(given[:-1]), atol=1e-4)
    assert "dim_word" in run(*line, "--overwrite", "--dim-word", 9, fails=1)
    assert "give one" in run(*line, "--overwrite", "--init", tmp_path / "toy.npz", fails=1)
    (tmp_path / "given.txt").write_text("1 8\nzebra" + " 1" * 8 + "\n")
    assert "none of the model's" in run(*line, "--overwrite", fails=1)


def test_resume(place, model, run, tmp_path):
    """Bit for bit the same parameters, whatever way the vectors were made."""
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    run(*decoder_line(place, model, whole), "--max-epochs", 2, "-q")
    out = run(*decoder_line(place, model, parts), "--max-epochs", 2, "--updates", 7)
    assert "7 updates" in out and "parts_dictionary.pkl" in out
    err = run(*decoder_line(place, model, parts), "--max-epochs", 2, fails=1)
    assert "--resume" in err and "--overwrite" in err
    err = run(*decoder_line(place, model, parts), "--resume", "--dim", 11, fails=1)
    assert "made with dim 12" in err
    shutil.rmtree(f"{parts}.data")
    run(*decoder_line(place, model, parts), "--max-epochs", 2, "--resume")
    one, other = final(whole), final(parts)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    run(*decoder_line(place, model, parts), "--max-epochs", 1, "--updates", 1, "--overwrite")
    other_texts = decoder_line(place, model, parts)
    other_texts[2] = str(place / "heldout.txt")
    before = (tmp_path / "parts_dictionary.pkl").read_bytes()
    assert "other training data" in run(*other_texts, "--resume", fails=1)
    assert (tmp_path / "parts_dictionary.pkl").read_bytes() == before


def test_starting_from_models(place, model, trained, run, tmp_path):
    """Fine-tuning on other texts takes the dictionary of the model before."""
    path, line = tmp_path / "fine.npz", decoder_line(place, model, tmp_path / "fine.npz")
    line[2] = str(place / "heldout.txt")
    run(*line, "--init", trained, "--updates", 3)
    before = files.load_dictionary(place / "toy_dictionary.pkl")
    assert files.load_dictionary(tmp_path / "fine_dictionary.pkl") == before
    gap = np.abs(np.load(path)["Wemb"] - np.load(trained)["Wemb"]).max()
    assert 0 < gap < 0.05  # three steps of at most 0.01 from where the other ended
    assert "initial parameters" in run(*line, "--updates", 5, "--resume", fails=1)
    run(*line, "--init", trained, "--updates", 5, "--resume")
    shutil.rmtree(f"{path}.data")
    assert "'ff_state_W' has shape (36, 12)" in run(*line, "--init", trained, "--dim", 11, "--overwrite", fails=1)
    assert not Path(f"{path}.data", "train.vectors.npy").exists()  # told before hours of encoding

    skip = ["train", "skipthoughts", place / "heldout.txt", "-o", "fine", *TINY, "--updates", 2, "--init"]
    run(*skip, model)
    run(*skip, model, "--bidirectional", "--dim", 12)
    assert (tmp_path / "fine" / "dictionary.txt").read_bytes() == (model / "dictionary.txt").read_bytes()
    (tmp_path / "empty").mkdir()
    vocabulary.save_dictionary(tmp_path / "other.pkl", {"sea": 2, "the": 3}, {})
    for rest, says in (([tmp_path / "nowhere"], "nowhere: no such file or folder"),
                       ([tmp_path / "empty"], "dictionary.pkl); name it as --vocab"),
                       ([model, "--vocab", tmp_path / "other.pkl"], "same dictionary"),
                       ([model, "--dim", 9], "'encoder_W' has shape (8, 24), and (8, 18)")):
        assert says in run(*skip[:4], "elsewhere", *skip[5:], *rest, fails=1), rest
    skip[4] = model
    pairs = ["train", "embedding", "--data", place, "--name", "toy", *TINY, "--updates", 2, "-o"]
    run(*pairs, tmp_path / "e.npz")
    run(*pairs, tmp_path / "f.npz", "--init", tmp_path / "e.npz")
    assert "'Wemb' has shape" in run(*pairs, "g.npz", "--init", "e.npz", "--dim-word", 9, fails=1)
    assert "would be overwritten" in run(*skip, model, "--overwrite", fails=1)


def test_vectors_go_on_where_they_stopped(place, model, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_CHUNK", 8)
    encoder = skipthoughts.load_model(model)
    lines = sentences(30)
    work = prepare.WorkFolder(tmp_path / "data", verbose=False)
    work.texts("train", "sentences", [str(place / "heldout.txt")], lambda: lines)
    real, calls = skipthoughts.encode, []

    def breaking(*arguments, **options):
        calls.append(len(arguments[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)
    monkeypatch.setattr(skipthoughts, "encode", breaking)
    with pytest.raises(KeyboardInterrupt):
        work.vectors("train", encoder, "key", 30)
    assert not (tmp_path / "data" / "train.vectors.npy").exists()
    again = prepare.WorkFolder(tmp_path / "data", verbose=False)
    vectors = again.vectors("train", encoder, "key", 30)
    assert calls == [8, 8, 8, 8, 6]  # the third chunk again, and no other
    np.testing.assert_allclose(vectors, real(encoder, lines), atol=1e-6)
    again.vectors("train", encoder, "key", 30)
    assert len(calls) == 5
    again.vectors("train", encoder, "another model", 30)
    assert len(calls) == 9


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(place, model, tmp_path, number, status):
    """Ctrl-C and SIGTERM: a checkpoint, and what to do."""
    path = tmp_path / "toy.npz"
    line = [*decoder_line(place, model, path), "--max-epochs", "100000", "--valid-freq", "1000000"]
    process = subprocess.Popen([sys.executable, "-m", "storyteller", *line], cwd=ROOT, stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not Path(trainer.checkpoint_path(path)).exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "--resume" in err and "Traceback" not in err


def test_embedding(place, run, tmp_path):
    path = tmp_path / "toy_embedding.npz"
    line = ["train", "embedding", "-o", path, *TINY, "--max-epochs", 20]
    out = run(*line, "--data", place, "--name", "toy", "-q")
    assert "sum of R@1" in out
    values = json.loads(run("evaluate", "retrieval", "--model", path, "--captions", place / "toy_dev_caps.txt",
                            "--features", place / "toy_dev_ims.npy", "--json"))
    assert values["images"] == 10 and values["i2t"]["R@10"] > 50 and values["t2i"]["R@5"] > 60
    assert "t2i: R@1" in run("evaluate", "retrieval", "--model", path, "--captions", place / "toy_dev_caps.txt",
                             "--features", place / "toy_dev_ims.npy")
    # The same by the names of the files.
    other = tmp_path / "other.npz"
    named = ["--captions", place / "toy_train_caps.txt", "--features", place / "toy_train_ims.npy",
             "--heldout-captions", place / "toy_dev_caps.txt", "--heldout-features", place / "toy_dev_ims.npy"]
    run("train", "embedding", "-o", other, *TINY, *named, "--max-epochs", 20)
    one, again = final(path), final(other)
    np.testing.assert_array_equal(one["p/Wemb"], again["p/Wemb"])


def test_transfer(model, run, tmp_path):
    pytest.importorskip("sklearn")
    lines = sentences(60, 9)
    for name, part in (("train", lines[:40]), ("test", lines[40:])):
        (tmp_path / name).write_text("".join(f"{line.split()[1].upper()}:x {line}\n" for line in part))
    values = json.loads(run("evaluate", "trec", "train", "test", "--skipthoughts", model, "--folds", 2,
                            "--json"))
    assert values["n"] == 20 and 0 <= values["accuracy"] <= 100
    (tmp_path / "plus").write_text("\n".join(line for line in lines if " cat " in line))
    (tmp_path / "minus").write_text("\n".join(line for line in lines if " cat " not in line))
    assert "accuracy" in run("evaluate", "subj", "plus", "minus", "--skipthoughts", model, "--folds", 2)
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    pairs = [f"{i % 2}\t1\t2\t{line}\t{line if i % 2 else lines[i - 3]}\n" for i, line in enumerate(lines)]
    (tmp_path / "msrp").write_text(header + "".join(pairs))
    assert "F1" in run("evaluate", "msrp", "msrp", "msrp", "--skipthoughts", model, "--folds", 2)
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    pairs = [f"{i}\t{line}\t{line if i % 2 else 'Nobody .'}\t{1 + i % 2 * 4}\tNEUTRAL\n"
             for i, line in enumerate(lines)]
    (tmp_path / "sick").write_text(header + "".join(pairs))
    assert "Pearson" in run("evaluate", "sick", "sick", "sick", "--skipthoughts", model, "--folds", 2)
    (tmp_path / "same").write_text(header + "".join(pairs[:1]))
    line = ["evaluate", "sick", "sick", "same", "--skipthoughts", model, "--folds", 2]
    assert "no correlation" in run(*line) and "1 pair\n" in run(*line)
    assert json.loads(run(*line, "--json"), parse_constant=pytest.fail)["pearson"] is None


def test_mistakes_with_texts(place, model, run, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("The cat sees the dog.\n")
    (tmp_path / "heading.txt").write_text("CHAPTER IV\n")
    (tmp_path / "y.npz.data").touch()
    (tmp_path / "none").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    skip, dec = ["train", "skipthoughts"], ["train", "decoder", "-o", "x.npz", "--skipthoughts", model]
    for line, says in (
            (["vocab", "missing.txt", "-o", "w.pkl"], "missing.txt: no such file"),
            (["vocab", "empty.txt", "-o", "w.pkl"], "empty.txt"),
            (["vocab", "none", "-o", "w.pkl"], "none: this folder holds no texts"),
            (["vocab", "one.txt", "-o", "w.pkl", "--min-count", 9], "no word occurs 9 times"),
            (["vocab", "one.txt", "-o", "nowhere/w.pkl"], "folder does not exist"),
            ([*skip, "missing.txt", "-o", "m"], "missing.txt: no such file"),
            ([*skip, "empty.txt", "-o", "m"], "empty.txt"),
            ([*skip, "one.txt", "-o", "m"], "one.txt: has nowhere three sentences in a row (1 sentence)"),
            ([*skip, "one.txt", place / "heldout.txt", "-o", "m", "--maxlen-w", 2], "and 1 other file: no sentence"),
            ([*skip, "one.txt", "-o", "one.txt"], "one.txt: cannot be made a folder"),
            ([*skip, place / "novels", "-o", "m", "--dim", 0], "'dim' is 0"),
            ([*skip, place / "novels", "-o", "m", "--vocab", "missing.pkl"], "missing.pkl"),
            ([*skip, place / "novels", "-o", model, "--n-words", 6, *TINY, "--overwrite"], "lists other words"),
            (["vocab", "heading.txt", "-o", "w.pkl"], "heading.txt: holds no words but headings"),
            ([*skip, "heading.txt", "-o", "m"], "heading.txt: holds no words but headings"),
            ([*dec, "one.txt"], "one.txt: no passage has 30 to 99 words"),
            ([*dec, "one.txt", "heading.txt"], "one.txt and 1 other file: no passage"),
            (["train", "decoder", "one.txt", "-o", "y.npz", "--skipthoughts", model],
             "y.npz.data: is a file, where the training's work folder is to be; remove it"),
            ([*dec, "one.txt", "--max-words", 200], "--maxlen-w of 201"),
            ([*dec, "one.txt", "--min-words", 200], "smaller --min-words"),
            ([*dec, "missing.txt"], "missing.txt: no such file"),
            ([*dec[:-1], "none", "one.txt"], "uni_skip.npz: no such file"),
            (["train", "decoder", "one.txt", "-o", "x.npz"], "one.txt: no passage"),
            (["train", "decoder", "one.txt", "-o", "x", "--skipthoughts", model], "ends in .npz"),
            (["train", "decoder", "one.txt", "-o", "nowhere/x.npz", "--skipthoughts", model], "folder does not"),
            (["evaluate", "decoder", place / "heldout.txt", "--model", "x.npz", "--skipthoughts", model], "x.npz"),
            (["evaluate", "neighbours", "--skipthoughts", model, "--corpus", "empty.txt", "x"], "empty.txt")):
        assert says in run(*line, fails=1), line
    assert sorted(path.name for path in tmp_path.rglob("*")) == before     # no debris


def test_options_are_refused_before_the_encoding(place, model, run, tmp_path, monkeypatch):
    """And a refused start leaves nothing, but keeps what was there."""
    shutil.copy(place / "novels" / "one.txt", tmp_path / "one.txt")
    dec = [*decoder_line(place, model, "x.npz"), "-q"]
    dec[2] = "one.txt"
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "encode_passages", None)
        patch.setattr(skipthoughts, "encode", None)
        for line, says in (
                ([*dec, "--n-samples", 100], "'n_samples' is 100"), ([*dec, "--tied", "--no-doutput"], "with doutput"),
                ([*dec, "--dim", 99999999], "memory"), ([*dec, "--decay-updates", 5], "warmup"),
                ([*dec, "--label-smoothing", 1.5], "below 1"), ([*dec, "--plot", "one.txt"], "overwritten"),
                ([*dec, "--label-smoothing", 0.1, "--n-samples", 3], "n_samples 0"),
                ([*dec, "--put-back", 0.5, "--n-words", 4], "no sentence ends"),
                (["train", "skipthoughts", "one.txt", "-o", "m", "--n-samples", 100, "--n-words", 50], "'n_samples'"),
                (["train", "skipthoughts", "one.txt", "-o", "m", "--dim", 99999999], "memory"),
                (["train", "embedding", "--data", place, "--name", "toy", "-o", "x.npz", "--dim", 99999999], "memory")):
            assert says in run(*line, fails=1), line
            assert [path.name for path in tmp_path.iterdir()] == ["one.txt"], line
        (tmp_path / "m").mkdir()
        shutil.copy("one.txt", "m/dictionary.txt")
        assert "overwritten" in run("train", "skipthoughts", "m", "-o", "m", fails=1)
        (tmp_path / "other.txt").write_text("He said no.")
        assert "other.txt: has nowhere" in run("train", "skipthoughts", "other.txt", "-o", "m", fails=1)
        assert [path.name for path in (tmp_path / "m").iterdir()] == ["dictionary.txt"]


def test_plots_are_checked_first(place, run, tmp_path):
    line = ["train", "embedding", "--data", place, "--name", "toy", *TINY, "--updates", 1, "-o", "x.npz", "--plot"]
    if not importlib.util.find_spec("matplotlib"):
        assert "pip install matplotlib" in run(*line, "x.png", fails=1)
        return
    assert "expected one of" in run(*line, "e.xyz", fails=1) and not list(tmp_path.iterdir())
    out = run(*line, "x.SVG")
    assert "1 update, " in out and b"<svg" in (tmp_path / "x.SVG").read_bytes()


def test_too_large_a_learning_rate_gives_no_warnings(place, run, recwarn):
    err = run("train", "skipthoughts", place / "heldout.txt", "-o", "m", *TINY, "--lrate", "1e38", "--warmup", 0,
              fails=1)
    assert "smaller lrate" in err and not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_transfer_is_refused_before_the_encoding(run, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(prepare, "load_encoder", None)
    for name in ("plus", "minus"):
        (tmp_path / name).write_text("the sea\nthe land\n")
    assert "folds is 5 for 4 rows" in run("evaluate", "mr", "plus", "minus", "--folds", 5, fails=1)
    (tmp_path / "trec").write_text("LOC:x Where ?\n" * 3)
    assert "two different labels" in run("evaluate", "trec", "trec", "trec", "--folds", 2, fails=1)
    (tmp_path / "sick").write_text("pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
                                   + "1\ta\tb\t3\tNEUTRAL\n" * 4)
    assert "all the same" in run("evaluate", "sick", "sick", "sick", "--folds", 2, fails=1)
    with pytest.raises(SystemExit):
        run("evaluate", "mr", "plus", "minus", "--folds", 1)


def test_mistakes_with_features(place, run, tmp_path):
    captions, features = place / "toy_train_caps.txt", np.load(place / "toy_train_ims.npy")
    named = ["train", "embedding", "-o", "x.npz", "--captions", captions, "--features", "f.npy"]
    for rows, says in ((features[:-1], "199 rows, but"), (features[::5], "numpy.repeat(features, 5, axis=0)"),
                       (features * 2, "row 0 has norm 2"), (features * np.nan, "unit norm"),
                       (features[:, 0], "expected")):
        np.save(tmp_path / "f.npy", rows)
        assert says in run(*named, fails=1)
    np.save(tmp_path / "f.npy", features)
    heldout = ["--heldout-captions", place / "toy_dev_caps.txt", "--heldout-features"]
    np.save(tmp_path / "h.npy", np.eye(50, 9, dtype=np.float32) + np.eye(50, 1) * 0)
    (tmp_path / "blank.txt").write_text("a cat\n\na dog\n")
    for line, says in ((named[:-2], "give --captions and --features"), ([*named, *heldout[:2]], "is missing"),
                       ([*named, "--data", "."], "either --data"),
                       (["train", "embedding", "-o", "x.npz", "--data", "."], "coco_train_caps.txt: no such file"),
                       ([*named[:5], "blank.txt", *named[6:]], "line 2 is blank"),
                       ([*named, *heldout, "h.npy"], "h.npy: row 9 has norm 0"),
                       ([*named, "--plot", "nowhere/x.png"], "folder does not exist")):
        assert says in run(*line, fails=1), line
    with pytest.raises(SystemExit) as usage:
        run(*named, "--encoder", "lstm")
    assert usage.value.code == 2


def test_texts_with_the_word_unk(run, tmp_path):
    lines = [f"{line} UNK is UNK ." for line in sentences(30)]
    (tmp_path / "odd.txt").write_text(" ".join(lines))
    run("train", "skipthoughts", "odd.txt", "-o", "m", *TINY, "--updates", 1)
    words = text.read_lines(tmp_path / "m" / "dictionary.txt")
    assert words.count("UNK") == 1 and len(words) == len(np.load(tmp_path / "m" / "utable.npy"))


def test_a_dictionary_with_gaps(place, run, tmp_path):
    files.save_pickle(tmp_path / "gaps.pkl", {"the": 2, "cat": 4})
    line = ["train", "skipthoughts", place / "novels", "-o", "m", "--vocab", "gaps.pkl"]
    assert "without gaps" in run(*line, fails=1)


def test_perplexity_of_an_unsure_decoder():
    """One that finds all words equally likely."""
    class Unsure:
        def f_init(self, ctx):
            return np.zeros((len(ctx), 3), np.float32)

        def step(self, words, state):
            return np.zeros((len(words), 7), np.float32), state
    value, words = evaluation.perplexity(Unsure(), [np.array([2, 3]), np.array([4]), np.array([1, 2, 3])],
                                       np.zeros((3, 5), np.float32), batch_size=2)
    assert value == pytest.approx(7) and words == 9
    with pytest.raises(StorytellerError):
        decoder.load_model("missing.npz", "missing.pkl")


@pytest.mark.parametrize("flags, cpu_mode, device", [([], True, "cpu"), ([], False, "gpu"), (["--device", "gpu"], True,
                         "gpu"), (["--device", "cpu"], False, "cpu")])
def test_device(flags, cpu_mode, device, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "choose_device", lambda cpu: "cpu" if cpu else "gpu")
    monkeypatch.setattr(backend, "device_of", lambda device: device)
    (tmp_path / "config.py").write_text(f"FLAG_CPU_MODE = {cpu_mode}\n")
    for model in ("skipthoughts", "decoder", "embedding"):
        line = [model, *(["t.txt"] if model != "embedding" else []), "-o", "m.npz", "--config",
                str(tmp_path / "config.py"), *flags]
        assert arguments.device_of(train.parser().parse_args(line)) == device
