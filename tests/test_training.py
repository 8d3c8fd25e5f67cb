"""Trainings of tiny models from end to end: learning, files, interruptions, mistakes."""
from __future__ import annotations

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, backend, decoder, embedding, evaluation, files, skipthoughts, text
from storyteller.training import corpus, tasks, trainer, vocabulary

NOUNS, VERBS = ("cat", "dog", "man", "sea", "ship", "bird"), ("sees", "likes", "hears", "finds")


def sentences(n, seed=0):
    """Sentences of a tiny grammar; the next one begins where the last ended."""
    rng = np.random.default_rng(seed)
    subject, lines = rng.choice(NOUNS), []
    for _ in range(n):
        thing = rng.choice(NOUNS)
        lines.append(f"the {subject} {rng.choice(VERBS)} the {thing} .")
        subject = thing
    return lines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lines = sentences(400)
    words, counts = vocabulary.build(lines, verbose=False)
    vectors = np.random.default_rng(1).standard_normal((400, 12)).astype(np.float32)
    for i, line in enumerate(lines):  # vectors that say what the sentence is about
        for j, word in enumerate((*NOUNS, *VERBS)):
            vectors[i, j] = line.split().count(word)
    return folder, lines, words, counts, vectors


OPTIONS = {"dim": 24, "dim_word": 12, "n_words": 14, "batch_size": 16, "seed": 3, "lrate": 0.01, "warmup": 5,
           "dispFreq": 10, "validFreq": 20, "saveFreq": 10, "sampleFreq": 1000}


def decoder_task(data, saveto, **options):
    folder, lines, words, counts, vectors = data
    encoded = [corpus.EncodedCorpus.build(folder / name, part, words, verbose=False)
               for name, part in (("train", lines[:320]), ("heldout", lines[320:]))]
    names = ["<eos>", "UNK", *words]
    return tasks.DecoderTask(encoded[0], vectors[:320], saveto, heldout=(encoded[1], vectors[320:]),
                             vocabulary=names, **{**OPTIONS, **options})


def test_decoder(data, tmp_path):
    path = tmp_path / "toy.npz"
    task = decoder_task(data, path, max_epochs=16)
    before = trainer.Trainer(task, path)._validate()
    summary = trainer.Trainer(task, path).run(verbose=False)
    assert summary.epochs == 16 and summary.stopped == "all epochs done"
    assert summary.best < before / 2
    vocabulary.save_dictionary(tmp_path / "toy_dictionary.pkl", data[2], data[3])
    dec = decoder.load_model(path, tmp_path / "toy_dictionary.pkl")
    told = [decoder.run_sampler(dec, vector, beam_width=3, maxlen=20) for vector in data[4][320:340]]
    # It writes what the vectors are about.
    assert np.mean([set(t.split()) == set(line.split()) for t, line in zip(told, data[1][320:340])]) > 0.3
    assert evaluation.bleu(data[1][320:340], told) > 30
    with open(trainer.log_path(path), newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and float(rows[-1]["cost"]) < float(rows[0]["cost"])
    assert [r["heldout"] for r in rows if r["heldout"]]


@pytest.mark.parametrize("options", [{"optimizer": "adam_2015", "lrate": 0.002, "warmup": 0, "epsilon": 1e-8},
                                     {"n_samples": 6}, {"n_samples": 6, "sample_power": 1.0},
                                     {"label_smoothing": 0.05}, {"noise": 0.2, "decay_c": 1e-4},
                                     {"doutput": False}, {"batches": "homogeneous"}, {"put_back": 0.35},
                                     {"tied": True, "average": 0.9},
                                     {"n_samples": 6, "dropout": 0.1, "word_dropout": 0.1, "style_share": 0.1}])
def test_decoder_options(data, tmp_path, options):
    path = tmp_path / "toy.npz"
    task = decoder_task(data, path, max_epochs=4, **options)
    before = trainer.Trainer(task, path)._validate()
    assert trainer.Trainer(task, path).run(verbose=False).best < before


@pytest.mark.parametrize("bidirectional", [False, True])
def test_skipthoughts(data, tmp_path, bidirectional):
    folder, lines, words, counts, _ = data
    names = ["<eos>", "UNK", *words]
    encoded = [corpus.EncodedCorpus.build(tmp_path / name, part, words, verbose=False)
               for name, part in (("train", lines[:320]), ("heldout", lines[320:]))]
    task = tasks.SkipThoughtsTask(encoded[0], tmp_path, names, heldout=encoded[1],
                                  **{**OPTIONS, "max_epochs": 5, "bidirectional": bidirectional})
    run = trainer.Trainer(task, task.archive)
    before = run._validate()
    assert run.run(verbose=False).best < before / 2
    if bidirectional:
        return
    other = tasks.SkipThoughtsTask(encoded[0], tmp_path, names, **{**OPTIONS, "max_epochs": 1,
                                                                   "bidirectional": True})
    trainer.Trainer(other, other.archive).run(verbose=False)
    model = skipthoughts.load_model(tmp_path)
    vectors = skipthoughts.encode(model, lines[:5], verbose=False)
    assert vectors.shape == (5, 24 + 48)
    assert len(text.load_vocabulary(tmp_path / "dictionary.txt")[0]) == 14


@pytest.mark.parametrize("encoder", ["gru", "bow"])
def test_embedding(data, tmp_path, encoder):
    _, lines, words, _, vectors = data
    features = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    heldout = ([line for line in lines[300:330] for _ in range(5)], np.repeat(features[300:330], 5, axis=0))
    path = tmp_path / "toy_embedding.npz"
    task = tasks.EmbeddingTask(lines[:300], features[:300], words, path, heldout=heldout, encoder=encoder,
                               dim=16, dim_word=12, batch_size=30, max_epochs=30, lrate=0.01, seed=2, validFreq=50,
                               saveFreq=100)
    run = trainer.Trainer(task, path)
    before = run._validate()
    summary = run.run(verbose=False)
    assert summary.best > before + 100
    model = embedding.load_model(path)
    again = (evaluation.i2t(*(embedding.encode_images(model, heldout[1]),
                              embedding.encode_sentences(model, heldout[0])))[:3])
    assert sum(again) > 100


@pytest.mark.parametrize("kind", ["decoder", "skipthoughts", "embedding"])
def test_through_jax(data, tmp_path, kind):
    """The road to GPUs, on the CPU: the same training, its held-out measure included."""
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    pytest.importorskip("jax")
    _, lines, words, _, vectors = data
    rows = []
    for device in ("cpu", "jax"):
        folder = tmp_path / device
        folder.mkdir()

        options = {**OPTIONS, "max_epochs": 1, "dispFreq": 2, "validFreq": 4, "device": device}
        saveto = folder / "uni_skip.npz"
        if kind == "skipthoughts":
            encoded = [corpus.EncodedCorpus.build(folder / name, part, words, verbose=False)
                       for name, part in (("train", lines[:320]), ("heldout", lines[320:]))]
            task = tasks.SkipThoughtsTask(encoded[0], folder, ["<eos>", "UNK", *words], heldout=encoded[1],
                                          **options, batches="homogeneous", n_samples=6)
        elif kind == "embedding":
            features = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            task = tasks.EmbeddingTask(lines[:320], features[:320], words, saveto,
                                       heldout=(lines[320:], features[320:]), **options)
        else:
            task = decoder_task(data, saveto, **options)
        if device == "jax":     # compiles once for every shape
            shapes = {tuple(array.shape for array in task.minibatch(batch, np.random.default_rng(0))[0])
                      for batch in copy.deepcopy(task.batches)}
            assert len(shapes) <= 2
        assert trainer.Trainer(task, saveto).run(verbose=False, max_updates=4).updates == 4
        assert all(value.dtype == np.float32 for value in files.load_arrays(saveto, list(task.params)).values())
        rows.append([[float(row[name] or 0) for name in ("update", "words", "cost", "gradient_norm", "heldout")]
                     for row in read_log(saveto)])
    assert any(row[-1] for row in rows[0])
    # Recall jumps where two scores are nearly the same.
    np.testing.assert_allclose(np.array(rows[1])[:, :-1], np.array(rows[0])[:, :-1], rtol=2e-3)
    np.testing.assert_allclose(np.array(rows[1])[:, -1], np.array(rows[0])[:, -1], rtol=0.05)


@pytest.mark.parametrize("devices", [("cpu", "jax", "cpu"), ("jax", "cpu", "jax")])
def test_a_checkpoint_goes_on_on_another_device(data, tmp_path, devices):
    """And back, to rounding, random numbers of all kinds included."""
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    pytest.importorskip("jax")
    options = {**OPTIONS, "dispFreq": 1, "validFreq": 100, "dropout": 0.2, "word_dropout": 0.3, "noise": 0.1,
               "n_samples": 6}
    for name, parts in (("one", {6: devices[0]}), ("two", dict(zip((2, 4, 6), devices)))):
        for updates, device in parts.items():
            task = decoder_task(data, tmp_path / f"{name}.npz", device=device, **options)
            trainer.Trainer(task, tmp_path / f"{name}.npz", resume=True).run(verbose=False, max_updates=updates)
    one, two = (costs(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(two, one, rtol=2e-4)


def costs(path):
    """Of the updates in a training's log."""
    return [[float(row[name]) for name in ("update", "words", "cost", "gradient_norm")]
            for row in read_log(path) if row["cost"]]


def test_the_next_minibatch_is_drawn_while_the_device_computes(data, tmp_path, monkeypatch):
    """It is not lost where a training ends before it is used."""
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    options = {"batches": "homogeneous", "noise": 0.3, "max_epochs": 3}
    trainer.Trainer(decoder_task(data, whole, **options), whole).run(verbose=False, max_updates=6)
    task, events, fetch = decoder_task(data, parts, **options), [], backend.fetch
    run, minibatch = trainer.Trainer(task, parts), task.minibatch
    monkeypatch.setattr(task, "minibatch", lambda *given: events.append("drawn") or minibatch(*given))
    monkeypatch.setattr(backend, "fetch", lambda *given: events.append("waited for") or fetch(*given))
    for updates in (3, 3, 6):
        run.run(verbose=False, max_updates=updates)
    assert events[:7] == ["drawn"] + 3 * ["drawn", "waited for"]
    one, other = final(whole), final(parts)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_precision(data, tmp_path):
    """bfloat16 is for JAX alone, and stands in the program, whatever a CPU makes of it."""
    with pytest.raises(StorytellerError, match="bfloat16"):
        decoder_task(data, tmp_path / "m.npz", precision="bfloat16", device="cpu")
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    jax = pytest.importorskip("jax")
    from storyteller.backend import jax_device
    x = np.ones((2, 2), np.float32)
    for precision, there in (("float32", False), ("bfloat16", True)):
        with jax_device.computing(precision):
            assert ("bf16" in jax.jit(lambda a, b: a @ b).lower(x, x).as_text()) == there


def test_a_falling_rate(data, tmp_path):
    """Steps get smaller up to decay_updates, and a fiftieth of the rate stays."""
    path, last, steps = tmp_path / "toy.npz", None, []
    run = trainer.Trainer(decoder_task(data, path, max_epochs=4, decay_updates=40, optimizer="adam"), path)
    for update in (19, 20, 38, 39, 40, 59, 60):
        run.run(verbose=False, max_updates=update)
        now = np.concatenate([array.ravel() for array in run.arrays().values()])
        if update in (20, 39, 40, 60):
            steps.append(np.abs(now - last).max())
        last = now
    assert steps[0] > 4 * steps[1] > 0 and steps[2] < 2 * steps[1] and steps[3] > 0


def test_what_is_measured_and_written(data, tmp_path):
    """The averages, without dropout, by the same steps as are told; the output's weights stand in the file."""
    path = tmp_path / "toy.npz"
    task = decoder_task(data, path, **{"max_epochs": 4, "average": 0.95, "dropout": 0.3, "word_dropout": 0.3,
                                       "put_back": 0.35, "tied": True, "validFreq": 1000})
    run = trainer.Trainer(task, path)
    summary = run.run(verbose=False)
    vocabulary.save_dictionary(tmp_path / "toy_dictionary.pkl", data[2], data[3])
    dec = decoder.load_model(path, tmp_path / "toy_dictionary.pkl")
    assert dec.options["ends"] == [["<eos>", "UNK", *data[2]].index(".")] and dec.options["n_sentences"] == 8
    sequences = [np.array([data[2][word] for word in line.split()]) for line in data[1][320:]]
    np.testing.assert_allclose(evaluation.perplexity(dec, sequences, data[4][320:])[0], summary.best, rtol=1e-4)
    saved = files.load_arrays(path, files.array_names(path))
    np.testing.assert_array_equal(saved["ff_logit_W"], saved["Wemb"].T)
    np.testing.assert_array_equal(saved["Wemb"], run.optimiser.state["a_Wemb"].get_value())
    assert np.abs(saved["Wemb"] - run.p["Wemb"].get_value()).max() > 1e-4
    again = decoder_task(data, tmp_path / "again.npz", init=path, put_back=0.35, tied=True)
    np.testing.assert_array_equal(again.params["Wemb"], saved["Wemb"])
    saved["Wemb"][3] += 1
    files.save_arrays(path, **saved)
    with pytest.raises(StorytellerError, match="not its word vectors"):
        decoder_task(data, tmp_path / "again.npz", init=path, put_back=0.35, tied=True)


def test_a_checkpoint_every_so_often(data, tmp_path, monkeypatch):
    path, written = tmp_path / "toy.npz", []
    run = trainer.Trainer(decoder_task(data, path, saveFreq=100), path)
    monkeypatch.setattr(run, "save_checkpoint", lambda: written.append(run.update))
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0)
    run.run(verbose=False, max_updates=3)
    assert written == [1, 2, 3, 3]


def test_styles_alone(data, tmp_path):
    """Some passages are written from their style's vector, others for each minibatch."""
    task = decoder_task(data, tmp_path / "toy.npz", style_share=0.25)
    mean, rng = data[4][:320].mean(axis=0), np.random.default_rng(0)
    rows = np.arange(320)
    seen = [np.isclose(task.minibatch(rows, rng)[0][2], mean, atol=1e-6).all(axis=1) for _ in range(20)]
    assert 0.2 < np.mean(seen) < 0.3 and (np.mean(seen, axis=0) < 1).all()
    styles = np.stack([mean, -mean]), np.arange(320) % 2
    encoded = corpus.EncodedCorpus(data[0] / "train")
    task = tasks.DecoderTask(encoded, data[4][:320], tmp_path / "toy.npz", styles=styles, style_share=0.9, **OPTIONS)
    ctx = task.minibatch(np.array([4, 7] * 20), rng)[0][2]
    expected = np.sign(ctx @ mean)
    assert (expected == np.tile([1, -1], 20)).mean() > 0.8


def final(path):
    with np.load(trainer.checkpoint_path(path)) as archive:
        return {name: archive[name] for name in archive.files if name != "state"}


KEPT = {"put_back": 0.35, "n_sentences": 3, "tied": True, "average": 0.9, "dropout": 0.2, "word_dropout": 0.2,
        "style_share": 0.2}


@pytest.mark.parametrize("options", [{}, {"batches": "homogeneous"},
                                     {"n_samples": 6, "noise": 0.3, "decay_updates": 50}, {"n_samples": 6, **KEPT}])
def test_resuming_changes_nothing(data, tmp_path, options):
    """Bit for bit the parameters and the optimiser of a training that was never stopped."""
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    trainer.Trainer(decoder_task(data, whole, max_epochs=3, **options), whole).run(verbose=False)
    for updates in (7, 23, 41, None):
        trainer.Trainer(decoder_task(data, parts, max_epochs=3, **options), parts, resume=True).run(
            verbose=False, max_updates=updates)
    one, other = final(whole), final(parts)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    # The log is the same but for the clock, and the last row of each part.
    logs = [{row["update"]: {**row, "seconds": ""} for row in read_log(path)} for path in (whole, parts)]
    assert logs[0].items() <= logs[1].items() and logs[1].keys() - logs[0].keys() <= {"7", "23", "41"}


def read_log(path):
    with open(trainer.log_path(path), newline="") as file:
        return list(csv.DictReader(file))


def test_what_a_killed_training_leaves_is_removed(data, tmp_path):
    path = tmp_path / "toy.npz"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"toy.npz.checkpoint.npz.{gone.pid}.0123abcd.part").write_bytes(b"half")
    kept = [tmp_path / f"other.npz.{os.getpid()}.0123abcd.part", tmp_path / "notes.part"]
    for file in kept:
        file.write_bytes(b"")
    trainer.Trainer(decoder_task(data, path), path, resume=True)
    assert sorted(tmp_path.glob("*.part")) == sorted(kept)


def test_half_a_row_in_the_log(data, tmp_path):
    """A training that was killed leaves rows behind the checkpoint, the last of them cut off."""
    path = tmp_path / "toy.npz"
    trainer.Trainer(decoder_task(data, path, max_epochs=3), path).run(verbose=False, max_updates=20)
    rows = read_log(path)
    with open(trainer.log_path(path), "a") as file:
        file.write("25,1,9.0,99,1.5,0.5,\n2")
    trainer.Trainer(decoder_task(data, path, max_epochs=3), path, resume=True).run(verbose=False, max_updates=40)
    found = read_log(path)
    assert found[:len(rows)] == rows and [int(row["update"]) for row in found] == sorted(
        {int(row["update"]) for row in found})
    Path(trainer.log_path(path)).write_bytes(b"\xff\0\xfe")
    trainer.Trainer(decoder_task(data, path, max_epochs=3), path, resume=True).run(verbose=False, max_updates=50)
    assert int(read_log(path)[-1]["update"]) == 50


SCRIPT = """
import os, signal, sys
import numpy as np
from tests.test_training import OPTIONS, decoder_task, sentences
from storyteller.training import trainer, vocabulary
from pathlib import Path
folder, saveto, device, killed_after = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lines = sentences(400)
words, counts = vocabulary.build(lines, verbose=False)
vectors = np.load(folder / 'vectors.npy')
task = decoder_task((folder, lines, words, counts, vectors), saveto, max_epochs=6, saveFreq=3, dispFreq=1,
                    device=device)
print('ready', flush=True)
run = trainer.Trainer(task, saveto, resume=True)
step = run._step
def killed(*arrays):
    found = step(*arrays)       # through JAX still to be computed
    if run.update == killed_after:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
run._step = killed
run.run(verbose=False)
"""


def start_script(folder, saveto, device="cpu", killed_after=-1):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(saveto), device, str(killed_after)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=Path(__file__).parent.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_killed_through_jax(data, tmp_path):
    """Kill -9 amid an update, which the device computes: the costs go on where they were at the checkpoint."""
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    pytest.importorskip("jax")
    np.save(tmp_path / "vectors.npy", data[4])
    whole, killed = tmp_path / "whole.npz", tmp_path / "killed.npz"
    process = start_script(tmp_path, killed, "jax", killed_after=5)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    for path in (whole, killed):
        task = decoder_task(data, path, device="jax", max_epochs=6, dispFreq=1)
        run = trainer.Trainer(task, path, resume=True)
        assert run.update == (3 if path == killed else 0)
        run.run(verbose=False, max_updates=8)
    assert len(costs(whole)) == 8
    np.testing.assert_allclose(costs(killed), costs(whole), rtol=2e-4)


def test_killed_at_random_moments(data, tmp_path):
    """Kill -9 loses at most the updates since the last checkpoint, and never a file."""
    np.save(tmp_path / "vectors.npy", data[4])
    whole, killed = tmp_path / "whole.npz", tmp_path / "killed.npz"

    assert start_script(tmp_path, whole).wait() == 0
    rng = np.random.default_rng(5)
    kills = 0
    for _ in range(10):
        process = start_script(tmp_path, killed)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(float(rng.uniform(0, 0.6)))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        path = Path(trainer.checkpoint_path(killed))
        if path.exists():
            with np.load(path) as archive:  # whole, whatever moment it was
                assert archive["state"].size
        if Path(killed).exists():
            files.array_names(killed)
    assert kills
    process = start_script(tmp_path, killed)
    assert process.wait() == 0, process.stderr.read()
    one, other = final(whole), final(killed)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_not_a_number(data, tmp_path):
    path = tmp_path / "toy.npz"
    task = decoder_task(data, path, max_epochs=3)
    run = trainer.Trainer(task, path)
    real, calls = run._step, []

    def exploding(*arrays):
        calls.append(1)
        return real(*arrays) if len(calls) < 25 else [np.float32(np.nan), np.float32(1)]
    run._step = exploding
    with pytest.raises(StorytellerError, match="update 25.*after update 20 is kept.*lrate"):
        run.run(verbose=False)
    assert trainer.Trainer(task, path, resume=True).update == 20


@pytest.mark.parametrize("number, raised", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_interrupted(data, tmp_path, number, raised):
    path = tmp_path / "toy.npz"
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    run = trainer.Trainer(decoder_task(data, path, max_epochs=3), path)
    real, calls = run._step, []

    def interrupted(*arrays):
        calls.append(1)
        if len(calls) == 14:
            os.kill(os.getpid(), number)
        return real(*arrays)
    run._step = interrupted
    with pytest.raises(raised) as info:
        run.run(verbose=False)
    assert number == signal.SIGINT or info.value.code == 143
    assert trainer.Trainer(decoder_task(data, path, max_epochs=3), path, resume=True).update == 14
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_nothing_to_learn_from(data, tmp_path):
    """No update can be made: an error, and no file."""
    _, lines, words, _, vectors = data
    path = tmp_path / "toy.npz"
    for captions, options in ((lines, {"batch_size": 1}), (lines[:1], {}), (lines, {"maxlen_w": 1})):
        with pytest.raises(StorytellerError):
            task = tasks.EmbeddingTask(captions, vectors[:len(captions)], words, path, dim=4, dim_word=4, **options)
            trainer.Trainer(task, path).run(verbose=False)
    task = decoder_task(data, path, max_epochs=10 ** 9)
    task.minibatch = lambda rows, rng: None
    with pytest.raises(StorytellerError, match="toy.npz"):
        trainer.Trainer(task, path).run(verbose=False)
    assert not list(tmp_path.glob("toy.npz*"))


def test_resuming_with_other_options(data, tmp_path):
    path = tmp_path / "toy.npz"
    trainer.Trainer(decoder_task(data, path), path).run(verbose=False, max_updates=5)
    for name, value in (("lrate", 0.5), ("seed", 9), ("noise", 0.1), ("batch_size", 8)):
        with pytest.raises(StorytellerError, match=name):
            trainer.Trainer(decoder_task(data, path, **{name: value}), path, resume=True)
    assert trainer.Trainer(decoder_task(data, path, max_epochs=99), path, resume=True).update == 5


def test_resuming_what_knew_fewer_options(data, tmp_path):
    """A checkpoint of before an option was there did what NEW_OPTIONS says, and goes on only so."""
    path = tmp_path / "toy.npz"
    options = {"n_samples": 6, "sample_power": 1.0}
    trainer.Trainer(decoder_task(data, path, **options), path).run(verbose=False, max_updates=5)
    with np.load(trainer.checkpoint_path(path)) as archive:
        arrays = dict(archive)
    state = json.loads(arrays["state"].tobytes())
    for name in trainer.NEW_OPTIONS:
        assert name in state["options"]
        del state["options"][name]
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
    np.savez(trainer.checkpoint_path(path), **arrays)
    assert trainer.Trainer(decoder_task(data, path, **options), path, resume=True).update == 5
    with pytest.raises(StorytellerError, match="sample_power"):
        trainer.Trainer(decoder_task(data, path, n_samples=6), path, resume=True)


def test_resuming_with_other_data(data, tmp_path):
    folder, lines, words, counts, vectors = data
    path = tmp_path / "toy.npz"
    trainer.Trainer(decoder_task(data, path), path).run(verbose=False, max_updates=5)
    other = (tmp_path, ["the sea sees the ship .", *lines[1:]], words, counts, vectors)
    with pytest.raises(StorytellerError, match="other training data"):
        trainer.Trainer(decoder_task(other, path), path, resume=True)


def test_damaged_checkpoint(data, tmp_path):
    path = tmp_path / "toy.npz"
    trainer.Trainer(decoder_task(data, path), path).run(verbose=False, max_updates=5)
    checkpoint = Path(trainer.checkpoint_path(path))
    checkpoint.write_bytes(checkpoint.read_bytes()[:3000])
    with pytest.raises(StorytellerError, match="checkpoint.npz.*damaged"):
        trainer.Trainer(decoder_task(data, path), path, resume=True)


def test_full_disk(data, tmp_path, monkeypatch):
    """The last checkpoint stays when the next cannot be written."""
    import errno
    path = tmp_path / "toy.npz"
    run = trainer.Trainer(decoder_task(data, path), path)
    run.run(verbose=False, max_updates=5)
    before = Path(trainer.checkpoint_path(path)).read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(trainer.np, "savez", full)
    with pytest.raises(StorytellerError, match="No space left"):
        run.save_checkpoint()
    monkeypatch.undo()
    assert Path(trainer.checkpoint_path(path)).read_bytes() == before
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("options, says", [
    ({"dims": 3}, "dims"), ({"dim": 0}, "dim"), ({"dim": "large"}, "dim"), ({"lrate": -1.0}, "lrate"),
    ({"optimizer": "sgd"}, "sgd"), ({"batches": "sorted"}, "sorted"),
    ({"n_samples": 14}, "n_samples"), ({"label_smoothing": 2.0}, "smoothing"),
    ({"decay_updates": 5}, "warmup"), ({"put_back": 1.0}, "put_back"), ({"average": 1.5}, "average"),
    ({"tied": True, "doutput": False}, "doutput"),
    ({"maxlen_w": 2}, "maxlen")])
def test_wrong_options(data, tmp_path, options, says):
    with pytest.raises(StorytellerError, match=says):
        path = tmp_path / "toy.npz"
        trainer.Trainer(decoder_task(data, path, **options), path)


def test_data_that_does_not_fit(data, tmp_path):
    folder, lines, words, _, vectors = data
    encoded = corpus.EncodedCorpus.build(tmp_path / "all", lines, words, verbose=False)
    with pytest.raises(StorytellerError, match="399"):
        tasks.DecoderTask(encoded, vectors[:399], tmp_path / "x.npz", **OPTIONS)
    with pytest.raises(StorytellerError, match="one row a caption"):
        tasks.EmbeddingTask(lines, vectors[:399], words, tmp_path / "x.npz")
    with pytest.raises(StorytellerError, match="captions"):
        tasks.EmbeddingTask(lines, vectors, words, tmp_path / "x.npz", heldout=(lines[:7], vectors[:3]))
    with pytest.raises(StorytellerError, match="folder"):
        trainer.Trainer(decoder_task(data, tmp_path / "x.npz"), tmp_path / "nowhere" / "x.npz")


def test_plot(data, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "toy.npz"
    trainer.Trainer(decoder_task(data, path), path).run(verbose=False, max_updates=40)
    trainer.plot_log(trainer.log_path(path), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StorytellerError, match="training log"):
        trainer.plot_log(path, tmp_path / "curves.png")


def test_the_last_measure_is_logged(data, tmp_path):
    """Wherever a training ends, its log ends with what it measured then."""
    path = tmp_path / "toy.npz"

    def run(resume=False, **when):
        summary = trainer.Trainer(decoder_task(data, path), path, resume=resume).run(verbose=False, **when)
        with open(trainer.log_path(path), newline="") as file:
            rows = list(csv.DictReader(file))
        assert float(rows[-1]["heldout"]) == pytest.approx(summary.history[-1]["heldout"] if summary.history
                                                           else float(rows[-1]["heldout"]), rel=1e-5)
        return [(int(row["update"]), bool(row["cost"]), bool(row["heldout"])) for row in rows]
    assert run(max_updates=7) == [(7, True, True)]
    assert run(True, max_updates=7) == [(7, True, True)]   # nothing was done
    assert run(True, max_updates=10) == [(7, True, True), (10, True, False), (10, False, True)]
    assert run(True, max_updates=20)[3:] == [(20, True, True)]


def test_starting_from_a_model(data, tmp_path):
    """The parameters are those of the model before, the optimiser is fresh, resuming is as ever."""
    folder, lines, words, counts, vectors = data
    before, path = tmp_path / "before.npz", tmp_path / "toy.npz"
    vocabulary.save_dictionary(tmp_path / "before_dictionary.pkl", words, counts)
    trainer.Trainer(decoder_task(data, before, max_epochs=2), before).run(verbose=False)
    saved = files.load_arrays(before, files.array_names(before))
    task = decoder_task(data, path, init=before, max_epochs=2)
    run = trainer.Trainer(task, path)
    assert run.p.keys() == saved.keys() and not int(run.optimiser.state["step"].get_value())
    for name in saved:
        np.testing.assert_array_equal(run.arrays()[name], saved[name], err_msg=name)
    run.run(verbose=False, max_updates=9)
    trainer.Trainer(decoder_task(data, path, init=before, max_epochs=2), path, resume=True).run(verbose=False)
    whole = tmp_path / "whole.npz"
    trainer.Trainer(decoder_task(data, whole, init=before, max_epochs=2), whole).run(verbose=False)
    one, other = final(whole), final(path)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for other in (None, path):
        if other:
            vocabulary.save_dictionary(tmp_path / "toy_dictionary.pkl", words, counts)
        with pytest.raises(StorytellerError, match="other initial parameters"):
            trainer.Trainer(decoder_task(data, whole, init=other, max_epochs=2), whole, resume=True)


def test_starting_from_a_model_that_does_not_fit(data, tmp_path):
    _, lines, words, counts, _ = data
    before, path = tmp_path / "before.npz", tmp_path / "toy.npz"
    vocabulary.save_dictionary(tmp_path / "before_dictionary.pkl", words, counts)
    decoder_task(data, before).save(decoder_task(data, before).params)
    for options, says in (({"dim": 25}, "'ff_state_W' has shape .12, 24., and .12, 25."), ({"dim_word": 9}, "'Wemb'"),
                          ({"doutput": False}, "a parameter 'ff_hid_W'")):
        with pytest.raises(StorytellerError, match=says):
            decoder_task(data, path, init=before, **options)
    with pytest.raises(StorytellerError, match="would be overwritten"):
        decoder_task(data, before, init=before)
    with pytest.raises(StorytellerError, match="either embeddings or init"):
        decoder_task(data, path, init=before, embeddings=np.zeros((14, 12), np.float32))
    swapped = dict(zip(words, [3, 2, *range(4, 14)]))
    vocabulary.save_dictionary(tmp_path / "before_dictionary.pkl", swapped, counts)
    with pytest.raises(StorytellerError, match=f"{next(iter(words))}.*same dictionary"):
        decoder_task(data, path, init=before)
    vocabulary.save_dictionary(tmp_path / "before_dictionary.pkl", dict(list(words.items())[:-1]), counts)
    with pytest.raises(StorytellerError, match="has no word at index 13"):
        decoder_task(data, path, init=before)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_starting_from_skip_thoughts(data, tmp_path, bidirectional):
    _, lines, words, _, _ = data
    names = ["<eos>", "UNK", *words]
    encoded = corpus.EncodedCorpus.build(tmp_path / "train", lines, words, verbose=False)
    options = {**OPTIONS, "bidirectional": bidirectional}
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    before = tasks.SkipThoughtsTask(encoded, tmp_path / "before", names, **options)
    changed = {name: array + np.float32(1) for name, array in before.params.items()}
    before.save(changed)
    task = tasks.SkipThoughtsTask(encoded, tmp_path / "after", names, init=tmp_path / "before", **options)
    assert task.params.keys() == changed.keys() and task.init_key
    for name in changed:
        np.testing.assert_array_equal(task.params[name], changed[name])
    says = f"dictionary.txt: has '{names[2]}' at index 2, and this training '{names[-1]}'"
    with pytest.raises(StorytellerError, match=says):
        tasks.SkipThoughtsTask(encoded, tmp_path / "after", [*names[:2], *names[:1:-1]], init=tmp_path / "before",
                               **options)


def test_starting_from_an_embedding(data, tmp_path):
    _, lines, words, _, vectors = data
    options = {"dim": 16, "dim_word": 12}
    before = tasks.EmbeddingTask(lines, vectors, words, tmp_path / "before.npz", **options)
    before.save({name: array + np.float32(1) for name, array in before.params.items()})
    task = tasks.EmbeddingTask(lines, vectors, words, tmp_path / "after.npz", init=tmp_path / "before.npz", **options)
    np.testing.assert_array_equal(task.params["ff_image_W"], before.params["ff_image_W"] + np.float32(1))
    with pytest.raises(StorytellerError, match="same dictionary"):
        tasks.EmbeddingTask(lines, vectors, {word: i + 1 for word, i in words.items()}, tmp_path / "after.npz",
                            init=tmp_path / "before.npz", **options)
