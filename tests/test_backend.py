"""Devices of both engines, and GPU code paths through JAX on the CPU where JAX is installed."""
from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, backend, decoder, embedding, search, skipthoughts
from storyteller.training import losses
from tests.conftest import GOLDENS


@pytest.fixture
def jax():
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    return pytest.importorskip("jax")


def refusal(*arguments, of=backend.choose_device):
    with pytest.raises(StorytellerError) as caught:
        of(*arguments)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    return str(caught.value)


def test_gpu_is_refused_clearly_where_there_is_none(monkeypatch):
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    assert backend.choose_device(True) == "cpu"
    if backend.DIALECT == "pytensor":
        jax = pytest.importorskip("jax")
        monkeypatch.setattr(jax, "devices", no_gpu("Unknown backend: 'gpu' requested, but no platforms that are "
                                                   "instances of gpu are present. Platforms present are: cpu"))
    else:
        monkeypatch.setenv("THEANO_FLAGS", "")
        monkeypatch.setenv("THEANORC", os.devnull)
    for refused in (refusal(False), refusal("gpu", of=backend.device_of)):
        assert "FLAG_CPU_MODE" in refused and "GPU" in refused


def no_gpu(text):
    def devices(platform=None):
        raise RuntimeError(text)
    return devices


@pytest.mark.parametrize("text, advice", [
    ("Unable to initialize backend 'cuda': INTERNAL: no supported devices found for CUDA\nmore", "cannot start"),
    ("FAILED_PRECONDITION: cuInit: CUDA driver version is insufficient for CUDA runtime version", "newer driver"),
    ("INTERNAL: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected", "nvidia-smi"),
    ("RESOURCE_EXHAUSTED: failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory", "memory"),
    ("INTERNAL: failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED", "memory"),
    ("FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above for more details.", "memory"),
    ("INTERNAL: CUDA_ERROR_DEVICE_UNAVAILABLE: CUDA-capable device(s) is/are busy or unavailable", "another process"),
    ("CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: forward compatibility was attempted on non supported HW",
     "newer driver"),
    ("x" * 5000, "cannot start"), ("", "cannot start")])
def test_what_a_gpu_may_say(text, advice, jax, monkeypatch):
    """One sentence, for what CUDA and XLA are known to say and for anything else; JAX's settings are left alone."""
    from storyteller import check
    before = dict(os.environ)
    monkeypatch.setattr(jax, "devices", no_gpu(text))
    assert advice in refusal("gpu", of=backend.device_of)
    assert dict(os.environ) == before
    told = check.devices(cpu_mode=False)        # all that JAX has may be gone with the GPU
    assert "JAX" in told["devices"] and "\n" not in told["devices"] and len(told["devices"]) < 400
    assert advice in told["parts compute on"]


@pytest.mark.parametrize("text, advice", [
    ("Outdated cuDNN installation found.\nVersion JAX was built against: 91400", "pip install -U"),
    ("Unable to load cuPTI. Is it installed?", "pip install -U"),
    ("cudaGetDeviceCount failed: CUDA driver version is insufficient for CUDA runtime version", "newer driver"),
    ("odd\n" + "x" * 5000, "cannot start one (odd)")])
def test_a_plugin_that_jax_goes_on_without(text, advice, jax, monkeypatch, caplog):
    """JAX logs why, with a traceback, and then only says that there is no GPU."""
    def devices(platform=None):
        try:
            raise RuntimeError(text)
        except RuntimeError:
            logging.getLogger("jax._src.xla_bridge").exception("Jax plugin configuration error")
        raise RuntimeError("Unknown backend: 'gpu' requested, but no platforms that are instances of gpu are present.")
    monkeypatch.setattr(jax, "devices", devices)
    assert advice in refusal("gpu", of=backend.device_of) and not caplog.records


def test_a_device_that_fails(jax):
    from storyteller.backend import jax_device

    def fail(error):
        with jax_device.computing():
            raise error
    told = refusal(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\n"),
                   of=fail)
    assert "nvidia-smi" in told
    assert "INTERNAL: odd" in refusal(jax.errors.JaxRuntimeError("INTERNAL: odd\n" + "x" * 5000), of=fail)
    with pytest.raises(ZeroDivisionError):      # a mistake of ours stays one
        fail(ZeroDivisionError())


def test_a_device_that_fails_amid_a_call(jax, monkeypatch):
    """When it is asked to compute, or not before the result is waited for."""
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")

    class Promised:
        __array__ = fail
    assert "nvidia-smi" in refusal(Promised(), of=backend.fetch)
    backend.device_of("jax")        # JAX has functions of its own, made at import
    monkeypatch.setattr(jax, "jit", lambda *_, **__: fail)
    x = backend.matrix("x")
    call = backend.train_function([x], [backend.tanh(x)], device="jax")
    assert "nvidia-smi" in refusal(np.ones((2, 2), np.float32), of=call)


def test_gpu_without_jax(monkeypatch):
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    monkeypatch.setitem(sys.modules, "jax", None)
    assert "jax[cuda12]" in refusal(False)
    assert "JAX" in refusal([], [], "gpu", of=backend.function)


def test_the_device_of_the_environment(monkeypatch):
    """It comes before FLAG_CPU_MODE, and after what a program asks for."""
    monkeypatch.setenv(backend.VARIABLE, "tpu")
    assert "tpu" in refusal(True) and backend.VARIABLE in refusal(of=backend.device_of)
    assert backend.device_of("cpu") == "cpu"
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    assert backend.choose_device(False) == backend.device_of() == "cpu"


@pytest.mark.parametrize("rows", [[0], [2, 2, 2], [1, 0, 1, 2, 0], [3, 1, 0, 2]])
def test_rows_that_are_alike_are_multiplied_once(rows):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((4, 30), np.float32)[rows], random.standard_normal((30, 5), np.float32)
    assert backend.dot_distinct(x, y) == pytest.approx(x @ y, abs=1e-5)


def test_unknown_device():
    with pytest.raises(StorytellerError, match="tpu"):
        backend.function([], [], device="tpu")


def test_theanos_own_operations(monkeypatch):
    """On a GPU Theano's own operations are used.  They do not run here, without a C++ compiler, so only
    the graph is checked."""
    if backend.DIALECT == "pytensor":
        pytest.skip("PyTensor has none")
    from storyteller.backend import operations
    monkeypatch.setattr(operations, "theano_on_gpu", lambda: True)
    g = np.load(GOLDENS / "vgg" / "single_layers.npz")
    x = backend.tensor4("x")
    convolution = backend.conv2d(x, backend.shared(g["W"]), 1).owner.op
    assert not convolution.filter_flip and convolution.border_mode in (1, (1, 1), ((1, 1), (1, 1)))
    assert backend.max_pool2d(x).owner.op.ignore_border


def test_decoder_through_jax(jax):
    folder = GOLDENS / "decoder"
    cpu, gpu = (decoder.load_model(folder / "dec_doutput.npz", folder / "dec_doutput_dictionary.pkl", device)
                for device in ("cpu", "jax"))
    for context in np.load(folder / "dec_doutput_contexts.npy"):
        assert decoder.run_sampler(gpu, context, beam_width=5) == decoder.run_sampler(cpu, context, beam_width=5)


@pytest.mark.parametrize("put_back", [0, 0.4])
def test_beams_through_jax(put_back, jax):
    """The device takes steps by itself: the hypotheses, those that ended before their time included, are the CPU's."""
    rng = np.random.default_rng(6)
    params = losses.init_decoder(8, 6, 12, 30, rng)
    for name in ("Wemb", "ff_logit_W"):     # words that differ in what may follow
        params[name] = rng.standard_normal(params[name].shape).astype(np.float32)
    options = {"put_back": put_back, "ends": [4, 7]} if put_back else {}
    if put_back:
        params["sentences"] = rng.standard_normal((3, 12)).astype(np.float32)
    cpu, ours = (decoder.Decoder(options, params, [f"w{i}" for i in range(30)], device) for device in ("cpu", "jax"))
    lengths = set()
    for width, maxlen, use_unk in [(1, 1, True), (1, 40, False), (3, 7, False), (5, 8, True), (40, 9, False),
                                   (6, 40, False), (16, 90, True)]:
        state = cpu.f_init(rng.standard_normal((1, 8), np.float32))
        stop = (lambda finished, cheapest: len(finished) > 2) if maxlen > 80 else None
        expected, found = (search.beam_search(dec.step, state, width, maxlen, use_unk, stop,
                                              dec.expander(state, width, use_unk, maxlen)) for dec in (cpu, ours))
        assert [(h.words, h.finished) for h in found] == [(h.words, h.finished) for h in expected]
        assert [h.cost for h in found] == pytest.approx([h.cost for h in expected], rel=1e-5)
        lengths |= {len(h.words) for h in found if h.finished}
    assert min(lengths) < 8 < max(lengths)
    # Words that are forbidden.
    only = {**params, "ff_logit_b": np.where(np.arange(30) < 4, np.float32(0), np.float32(-np.inf))}
    expected, found = (
        [h.words for h in search.beam_search(dec.step, state, 7, 5, True, expand=dec.expander(state, 7, True, 5))]
        for dec in (decoder.Decoder(options, only, cpu.vocabulary, device) for device in ("cpu", "jax")))
    assert found == expected and max(max(words) for words in found) == 3
    # A search of a narrower beam than was announced.
    expected, found = (search.beam_search(dec.step, state, 5, 6, expand=dec.expander(state, 10, False))
                       for dec in (cpu, ours))
    assert [h.words for h in found] == [h.words for h in expected]
    params["ff_hid_b"] = np.full(6, np.nan, np.float32)
    broken = decoder.Decoder(options, params, cpu.vocabulary, "jax")
    with pytest.raises(StorytellerError, match="damaged"):
        decoder.passages(broken, np.zeros(8, np.float32), beam_width=3)


def test_a_damaged_word_through_jax(jax):
    """On the device more hypotheses than the beam is wide read words; what they read does not matter."""
    rng = np.random.default_rng(0)
    params = losses.init_decoder(8, 6, 12, 30, rng)
    for name in ("Wemb", "ff_logit_W"):
        params[name] = rng.standard_normal(params[name].shape).astype(np.float32)
    params["Wemb"][[0, 20]] = np.nan        # the first stands for the end, after which nothing is read
    cpu, ours = (decoder.Decoder({}, params, [f"w{i}" for i in range(30)], device) for device in ("cpu", "jax"))

    def told(dec, context):
        try:
            return [passage.text for passage in decoder.passages(dec, context, beam_width=5, maxlen=6, n_best=2)]
        except StorytellerError as error:
            return str(error)
    contexts = rng.standard_normal((25, 8)).astype(np.float32)
    expected = [told(cpu, context) for context in contexts]
    assert [told(ours, context) for context in contexts] == expected
    assert {type(each) for each in expected} == {list, str}


def test_sentences_through_jax(jax, monkeypatch):
    """With the tables on the device, and with their rows copied there."""
    folder = GOLDENS / "skipthoughts"
    sentences = (folder / "sentences.txt").read_text(encoding="utf-8").split("\n")[:-1]
    golden = np.load(folder / "encoded.npz")["norm1_eos0"]
    for largest in (2 ** 28, 0):
        monkeypatch.setattr(backend, "_TABLE", largest)
        model = skipthoughts.load_model(folder, device="jax")
        np.testing.assert_allclose(skipthoughts.encode(model, sentences), golden, atol=1e-5)
        with pytest.raises(IndexError):
            model.vectors([np.array([len(model.utable)])])
        # A table that takes the place of another.
        model.utable = np.asarray(model.utable)[::-1].copy()
        changed = np.abs(skipthoughts.encode(model, sentences[:1])[0] - golden[0]) > 1e-3
        assert changed[:model.dim // 2].any() and not changed[model.dim // 2:].any()


def test_shapes_are_few():
    assert [backend.bucket(n) for n in (1, 2, 4, 5, 16, 17, 64, 65, 129, 1025, 4096, 4097, 20000)] == [
        1, 4, 4, 16, 16, 64, 64, 128, 256, 2048, 4096, 8192, 20480]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert backend.padded(x, 2) is x and backend.padded(x, 4, 7, axis=1)[:, 3].tolist() == [7, 7]


@pytest.mark.parametrize("last_first", [False, True])
@pytest.mark.parametrize("n, count", [(1, 4), (40, 4), (5000, 4), (5000, 120), (9000, 300)])
def test_largest(n, count, last_first, jax):
    """With many ties; of many numbers only the blocks with the largest are looked at, and of these many are sorted."""
    numbers = np.round(np.random.default_rng(n).standard_normal(n) * 20).astype(np.float32)
    x = backend.vector("x")
    cpu, ours = (backend.train_function([x], backend.largest(x, count, last_first), device=device)(numbers)
                 for device in ("cpu", "jax"))
    np.testing.assert_array_equal(cpu, ours)
    assert cpu[1].tolist() == sorted(range(n), key=lambda i: (-numbers[i], -i if last_first else i))[:count]


@pytest.fixture
def compilations(jax):
    """Counts what XLA compiles; programs that are kept on disk count as well."""
    counts = [0]

    def listen(name, seconds, fun_name="", **_):
        # "stage" is JAX's own for putting an array on a device.
        counts[0] += name.endswith("backend_compile_duration") and "stage" not in fun_name
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: counts[0]
    jax.monitoring.unregister_event_duration_listener(listen)


def test_few_compilations(compilations):
    """Searches and sentences of other sizes find what was compiled for those before."""
    folder = GOLDENS / "decoder"
    dec = decoder.load_model(folder / "dec_doutput.npz", folder / "dec_doutput_dictionary.pkl", "jax")
    contexts = np.load(folder / "dec_doutput_contexts.npy")
    decoder.passages(dec, contexts[0], beam_width=20, maxlen=5)
    first = compilations()
    assert first <= 8
    for width, context in zip((17, 40, 64), contexts):
        decoder.passages(dec, context, beam_width=width, n_best=3, maxlen=30)
    assert compilations() == first
    model = skipthoughts.load_model(GOLDENS / "skipthoughts", device="jax")
    skipthoughts.encode(model, ["A man sat by the window.", "She smiled."])
    first = compilations()
    skipthoughts.encode(model, ["He sat.", "A cat sat by the man, and she smiled."])
    assert compilations() == first


def test_parameters_are_on_the_device_once(jax):
    """However many functions share them, and of a training nothing but the newest."""
    def there():
        return sum(array.shape == (41, 43) for array in jax.live_arrays())
    before, x = there(), backend.matrix("x")
    W = backend.trainable(np.ones((41, 43)))
    functions = [backend.train_function([x], [of(backend.dot(x, W))], device="jax")
                 for of in (backend.tanh, backend.relu)]
    step = backend.train_function([x], [backend.total(W)], [(W, W + backend.dot(x, W))], "jax")
    assert there() == before + 1
    for _ in range(2):
        assert [each(np.ones((1, 41), np.float32))[0].shape for each in functions] == [(1, 43)] * 2
        step(np.zeros((41, 41), np.float32))
    assert there() == before + 1


def test_programs_are_kept(jax, tmp_path):
    """In the cache folder, unless the user has JAX keep them elsewhere."""
    program = """
import numpy as np, jax
from storyteller import backend
x = backend.matrix("x")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
backend.device_of("jax")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
backend.function([x], [backend.tanh(x)], "jax")(np.ones((2, 2), "f"))
"""
    for folder, own in (("cache/programs", {}), ("mine", {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")})):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600,
                              cwd=Path(__file__).parent.parent,
                              env={**os.environ, "STORYTELLER_CACHE": str(tmp_path / "cache"), **own})
        assert not done.returncode and any((tmp_path / folder).iterdir()), done.stderr


def test_retrieval_through_jax(jax):
    """Of equal scores the later row comes first; the vectors stay on the device."""
    folder = GOLDENS / "embedding"
    model, cpu = (embedding.load_model(folder / "coco_embedding.npz", device) for device in ("jax", "cpu"))
    captions = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")[:-1]
    vectors = embedding.encode_sentences(cpu, captions)
    np.testing.assert_allclose(embedding.encode_sentences(model, captions), vectors, atol=1e-6)
    vectors = np.concatenate([vectors, vectors[:5]])
    for k in (1, 7, 9999):
        ours, expected = (of(vectors, vectors[2], k) for of in (model.nearest, embedding.nearest))
        np.testing.assert_allclose(ours[1], expected[1], atol=1e-6)
        assert ours[0][0] == expected[0][0] == len(captions) + 2 and len(ours[0]) == len(expected[0])
    assert model._kept[0] is vectors
    for value in (np.nan, np.inf, -np.inf):
        damaged = np.tile(vectors, (5000 // len(vectors) + 1, 1))
        damaged[5, 0] = value
        with pytest.raises(StorytellerError, match="finite"):
            model.nearest(damaged, np.abs(vectors[2]), 3)


def test_convolution_through_jax(jax):
    g = np.load(GOLDENS / "vgg" / "single_layers.npz")
    x = backend.tensor4("x")
    for pad in (0, 1):
        y = backend.conv2d(x, backend.shared(g["W"]), pad) + backend.shared(g["b"]).dimshuffle("x", 0, "x", "x")
        ours = backend.function([x], [y], "jax")(g["input"])[0]
        np.testing.assert_allclose(ours, g[f"linear_pad{pad}"], atol=1e-4)
    for size in ("7x5", "8x8"):
        ours = backend.function([x], [backend.max_pool2d(x)], "jax")(g[f"maxpool_in_{size}"])[0]
        np.testing.assert_array_equal(ours, g[f"maxpool_out_{size}"])


def test_features_through_jax(jax, vgg_weights):
    from storyteller import vgg
    im = np.load(GOLDENS / "images" / "im_float32.npz")["01_landscape"]
    golden = np.load(GOLDENS / "vgg" / "features.npz")["fc7_01_landscape"]
    net = vgg.ConvNet(vgg_weights, {"scale": np.ones(3), "shift": np.zeros(3)}, device="jax")
    np.testing.assert_allclose(vgg.compute_features(net, im)[0], golden, atol=1e-4 * golden.max())


RC = {"rc1": "[global]\ndevice = gpu\nfloatX = float32\n[nvcc]\nfastmath = True\n[lib]\ncnmem = 0.9\n",
      "rc2": "[global]\nfloatX = float32\ndevice = cpu  # no GPU here\n", "rc3": "device = cpu\n", "rc4": "\0\xff[",
      "rc5": "[global]\ncompute_test_value = raise\nmode = DebugMode\n"}
PROGRAM = """
import os
before = dict(os.environ)
import numpy as np
from storyteller import StorytellerError, backend
x = backend.matrix("x")
print(backend.function([x], [backend.sigmoid(x)])(np.zeros((1, 1), "f"))[0][0, 0], before == dict(os.environ))
try:
    if backend.DIALECT == "theano":     # whose GPU they name
        backend.choose_device(False)
except StorytellerError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("flags, rc", [("device=gpu,floatX=float32", ""), ("device=cuda0,lib.cnmem=1", ""),
                                       ("x,foo=bar,=", ""),
                                       ("compute_test_value=raise,mode=DebugMode,cxx=/nowhere", ""),
                                       *(("", name) for name in RC)])
def test_the_engines_own_settings(flags, rc, tmp_path):
    """Those of 2015, malformed ones and any others: the CPU is used, and nobody is told about the engine."""
    (tmp_path / "rc").write_text(RC.get(rc, ""))
    own = {"THEANO_FLAGS": flags, "PYTENSOR_FLAGS": flags}
    if rc:
        own.update(THEANORC=str(tmp_path / "rc"), PYTENSORRC=str(tmp_path / "rc"))
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **own}, text=True, capture_output=True,
                          cwd=Path(__file__).parent.parent, timeout=120)
    out = done.stdout.splitlines()
    assert out[:1] == ["0.5 True"], done.stderr
    assert not done.stderr
    if backend.DIALECT == "theano":     # asked for a GPU, it names the file or variable
        wrong = "THEANO_FLAGS" if "gpu" in flags else str(tmp_path / "rc") if rc in ("rc1", "rc3", "rc4") else ""
        assert "refused:" in done.stdout and wrong in done.stdout


def test_an_engine_that_cannot_be_started(tmp_path):
    for name in ("pytensor", "theano"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ValueError('broken\\ninstall')")
    program = """
from storyteller import StorytellerError
import storyteller.backend
try:
    storyteller.backend.DIALECT
except StorytellerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"},
                          timeout=60)
    assert "cannot be started" in done.stdout and not done.stderr
