"""Parts and stories asked for by many threads at once, and in other processes."""
from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stages
from storyteller import backend, compact, decoder, embedding, generate, images, skipthoughts, threads, workers

ROOT = Path(__file__).parents[1]
TEXTS = [f"The {a} saw {n} {b}s by the river ." for a in ("cat", "old man", "girl") for b in ("dog", "boat")
         for n in ("two", "many")]
needs_models = pytest.mark.skipif(not Path(compact.FOLDER, "romance.npz").is_file(), reason="no compact models")


@pytest.fixture(scope="module")
def z():
    return generate.load_all(verbose=False)


def at_once(function, jobs, threads=6):
    """The function's results, from threads that all begin together."""
    barrier = threading.Barrier(threads)

    def first(job):
        if job[0] < threads:
            barrier.wait(60)
        return function(job[1])
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(first, enumerate(jobs)))


def same(found, expected):
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


def test_a_compiled_function_called_at_once():
    x = backend.matrix("x")
    middle = backend.tanh(backend.dot(x, backend.shared(np.random.default_rng(0).random((60, 60)))))
    f = backend.function([x], [backend.tanh(middle * 2), middle])
    jobs = [np.full((1 + i % 9, 60), i, np.float32) for i in range(200)]
    for found, expected in zip(at_once(f, jobs), [f(job) for job in jobs]):
        same(found, expected)


def test_a_core_is_kept_busy_within_the_block():
    with stages.busy_core() as process:
        assert process.poll() is None
        if hasattr(os, "sched_getaffinity"):
            assert len(os.sched_getaffinity(process.pid)) == 1
    assert process.poll() is not None


def test_a_training_function_counts_every_call():
    x, total = backend.matrix("x"), backend.trainable(np.zeros((1, 1)))
    f = backend.train_function([x], [x.sum()], [(total, total + x)])
    at_once(f, [np.ones((1, 1), np.float32)] * 200)
    assert total.get_value()[0, 0] == 200


@needs_models
class TestParts:
    def test_skipthoughts(self, z):
        jobs = [TEXTS[i % 5:i % 5 + 4] for i in range(24)]
        same(at_once(lambda X: skipthoughts.encode(z["stv"], X, verbose=False), jobs),
             [skipthoughts.encode(z["stv"], X, verbose=False) for X in jobs])

    def test_embedding(self, z):
        jobs = [TEXTS[i % 5:i % 5 + 4] for i in range(24)]
        same(at_once(lambda X: embedding.encode_sentences(z["vse"], X), jobs),
             [embedding.encode_sentences(z["vse"], X) for X in jobs])
        jobs = [np.random.default_rng(i).random((2, z["vse"].dim_image), np.float32) for i in range(24)]
        same(at_once(lambda IM: embedding.encode_images(z["vse"], IM), jobs),
             [embedding.encode_images(z["vse"], IM) for IM in jobs])

    def test_many_words_do_not_change_what_few_give(self, z):
        model = embedding.load_model(Path(compact.FOLDER, "embedding.npz"))
        few = embedding.encode_sentences(model, TEXTS[:1])
        embedding.encode_sentences(model, ["a cat sat on a mat ."] * (model.n_words // 6 + 1))
        np.testing.assert_array_equal(embedding.encode_sentences(model, TEXTS[:1]), few)

    def test_decoder(self, z):
        contexts = skipthoughts.encode(z["stv"], TEXTS, verbose=False)
        options = {"beam_width": 3, "maxlen": 8}
        assert at_once(lambda c: decoder.passages(z["dec"], c, **options), contexts) == [
            decoder.passages(z["dec"], c, **options) for c in contexts]

    def test_convnet(self, z):
        jobs = [np.random.default_rng(i).random((1, 3, 224, 224), np.float32) for i in range(6)]
        net = copy.copy(z["net"])       # its function is compiled by the first call
        same(at_once(lambda im: images.compute_features(net, im, "block2"), jobs),
             [images.compute_features(z["net"], im, "block2") for im in jobs])


def tell(z, image):
    told = generate.story(z, image, 5, 2, maxlen=6, candidates=2, show=False)
    return told.passage, round(told.cost, 3), tuple(caption.text for caption in told.captions)


PICTURES = [ROOT / "images" / name for name in ("ex1.jpg", "ex2.jpg")]


@needs_models
def test_stories_of_threads(z, monkeypatch):
    expected = [tell(z, picture) for picture in PICTURES] * 2
    assert at_once(lambda picture: tell(z, picture), PICTURES * 2, 4) == expected
    loads = []
    load = decoder.load_model
    monkeypatch.setattr(decoder, "load_model", lambda *args: loads.append(1) or load(*args))
    lazy = generate.Models(verbose=False)
    assert at_once(lambda picture: tell(lazy, picture), PICTURES * 2, 4) == expected
    assert len(loads) == 1


@needs_models
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_stories_of_a_forked_process(z):
    at_once(lambda picture: tell(z, picture), PICTURES, 2)
    receive, send = multiprocessing.Pipe(False)
    child = multiprocessing.get_context("fork").Process(target=lambda: send.send(tell(z, PICTURES[0])))
    child.start()
    assert receive.poll(60)
    assert receive.recv() == tell(z, PICTURES[0])
    child.join()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_process_forked_while_a_thread_opens_a_picture():
    data, opening, go_on = PICTURES[0].read_bytes(), threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, size=-1):
            if "_decode" in [frame.name for frame in traceback.extract_stack()]:
                opening.set()
                go_on.wait(60)
            return super().read(size)
    thread = threading.Thread(target=lambda: images.open_image(Slow(data)))
    thread.start()
    opening.wait(60)
    threading.Timer(0.3, go_on.set).start()
    child = multiprocessing.get_context("fork").Process(target=lambda: images.open_image(data))
    child.start()
    child.join(30)
    child.kill()
    thread.join()
    assert child.exitcode == 0


def test_the_filters_of_warnings_stay():
    before = list(warnings.filters)
    at_once(lambda picture: images.open_image(picture), PICTURES * 6)
    assert warnings.filters == before


@needs_models
@pytest.mark.parametrize("key", ["stv", "vse", "dec", "net"])
def test_parts_are_pickled_copied_and_hashed(z, key):
    joblib = pytest.importorskip("joblib")
    run = {"stv": lambda model: skipthoughts.encode(model, TEXTS, verbose=False),
           "vse": lambda model: embedding.encode_sentences(model, TEXTS),
           "dec": lambda model: model.f_init(np.ones((1, model.dimctx), np.float32)),
           "net": lambda model: model.compute(np.ones((1, 3, 224, 224), np.float32), "block1")}[key]
    expected = run(z[key])
    again = pickle.loads(pickle.dumps(z[key]))
    for other in (again, copy.copy(z[key])):
        np.testing.assert_array_equal(run(other), expected)
    assert joblib.hash(again) == joblib.hash(z[key]) == joblib.hash(generate.Models(verbose=False)[key])


# -- work shared by the threads of this package --------------------------------------------------------

@pytest.fixture(params=(1, 2, 5))
def granted(request, monkeypatch):
    """So many threads, and products so small that they are shared."""
    before = threads.count()
    monkeypatch.setattr(threads, "SHARED", 400)
    workers.limit_threads(request.param)
    yield request.param
    workers.limit_threads(before)


@pytest.mark.parametrize(("left", "right"), [((3, 40), (40, 700)), ((700, 40), (40, 3)), ((1, 40), (40, 700)),
                                             ((9, 6, 40), (9, 40, 20)), ((3, 0), (0, 5)), ((0, 4), (4, 5))])
def test_a_shared_product(granted, left, right):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape, dtype=np.float32) for shape in (left, right))
    wide = np.full((*left[:-1], right[-1] + 2), np.nan, np.float32)
    for out in (None, wide[..., 1:-1]):     # in the middle of other memory
        found = threads.matmul(x, y, out)
        np.testing.assert_allclose(found, np.matmul(x, y), rtol=1e-5, atol=1e-5)
        assert out is None or found is out
    np.testing.assert_array_equal(threads.matmul(x, y, out=wide[..., 1:-1]), found)
    assert np.isnan(wide[..., [0, -1]]).all()


def test_blocks_come_in_their_order_whoever_takes_them(granted):
    def work(start, stop):
        taken.add(threading.get_ident())
        assert threads.count() == 1 and threads.in_threads(lambda *block: block, 2, 1) == [(0, 1), (1, 2)]
        return start, stop
    taken = set()
    assert threads.in_threads(work, 41, 5) == [(i, min(i + 5, 41)) for i in range(0, 41, 5)]
    assert 1 <= len(taken) <= granted
    assert threads.count() == granted       # what was taken from the BLAS is given back


def test_an_error_of_one_thread_ends_the_work_of_all(granted):
    begun = []

    def work(start, stop):
        begun.append(start)
        if start == 3:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        threads.in_threads(work, 1000, 1)
    assert len(begun) < 1000 and threads.count() == granted
    assert threads.in_threads(lambda start, stop: start, 3, 1) == [0, 1, 2]


def test_threads_that_share_work_at_once(granted):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((90, 90), dtype=np.float32) for _ in range(2))
    for found in at_once(lambda _: threads.matmul(x, y), range(60)):
        np.testing.assert_allclose(found, x @ y, rtol=1e-4, atol=1e-4)
    assert threads.count() == granted


def test_scratch_memory_is_one_callers_alone():
    def use(i):
        with threads.scratch(1000 + i) as memory:
            memory[:] = i
            threads.in_threads(lambda *_: None, 4, 1)
            return len(memory) == 1000 + i and (memory == i).all()
    assert all(at_once(use, range(100)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_shares_work_too(granted):
    with threads.one_thread:        # as if another thread computed meanwhile
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(_shared_sum) == (granted, 120)


def _shared_sum():
    return threads.count(), sum(threads.in_threads(lambda start, stop: start, 16, 1))


def test_settings_of_numpys_errors_reach_every_thread(granted):
    def work(start, stop):
        time.sleep(0.01)        # so that every thread takes some
        return np.log(np.zeros(3)), np.geterr()["divide"]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        assert {kind for _, kind in threads.in_threads(work, 10, 1)} == {"ignore"}


@pytest.mark.parametrize("ends", ["atexit.register(share)", "threading.Thread(target=share).start()"])
def test_work_is_done_when_the_interpreter_ends(ends):
    program = f"""
import atexit, threading, time
from storyteller import threads, workers
workers.limit_threads(2)
def share():
    time.sleep(0.3)
    print(sum(threads.in_threads(lambda start, stop: start, 9, 1)))
{ends}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("36\n", "")


def test_libraries_that_two_threads_were_the_first_to_ask_for(granted):
    threads._libraries.cache_clear()        # as if the other one's list were kept
    with threads.one_thread:
        assert threads.count() == granted


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timer on this system")
def test_ctrl_c_at_any_moment_leaves_the_helpers_at_work(granted):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for moment in np.linspace(5e-4, 4e-3, 100):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, moment)
                while True:
                    threads.in_threads(lambda start, stop: start, 9, 1)
                    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
                        time.sleep(0.01)    # the handler may be about to run
                        # JAX has a function called at each garbage collection, and what is raised there is lost.
                        signal.setitimer(signal.ITIMER_REAL, moment)
            assert threads.in_threads(lambda start, stop: start, 9, 1) == list(range(9))
            assert threads.count() == granted
    finally:
        signal.signal(signal.SIGALRM, before)
