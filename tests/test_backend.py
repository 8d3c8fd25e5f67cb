"""Devices of both engines, and GPU code paths through JAX on the CPU where JAX is installed."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storyteller import StorytellerError, backend, decoder, skipthoughts
from tests.conftest import GOLDENS


def test_gpu_is_refused_clearly_where_there_is_none(caplog, monkeypatch):
    assert backend.choose_device(True) == "cpu"
    if backend.DIALECT == "pytensor":
        jax = pytest.importorskip("jax")
        monkeypatch.setattr(jax, "devices", lambda: [type("Device", (), {"platform": "cpu"})()])
    assert backend.choose_device(False) == "cpu"
    assert "FLAG_CPU_MODE" in caplog.text and "GPU" in caplog.text


def test_gpu_without_jax(caplog, monkeypatch):
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    monkeypatch.setitem(sys.modules, "jax", None)
    assert backend.choose_device(False) == "cpu"
    assert "pip install jax" in caplog.text
    with pytest.raises(StorytellerError, match="JAX"):
        backend.function([], [], device="gpu")


def test_unknown_device():
    with pytest.raises(StorytellerError, match="tpu"):
        backend.function([], [], device="tpu")


def test_theanos_own_operations(monkeypatch):
    """On a GPU Theano's own operations are used.  They do not run here, without a C++ compiler, so only
    the graph is checked."""
    if backend.DIALECT == "pytensor":
        pytest.skip("PyTensor has none")
    monkeypatch.setattr(backend.operations, "theano_on_gpu", lambda: True)
    g = np.load(GOLDENS / "vgg" / "single_layers.npz")
    x = backend.tensor4("x")
    convolution = backend.conv2d(x, backend.shared(g["W"]), 1).owner.op
    assert not convolution.filter_flip and convolution.border_mode in (1, (1, 1), ((1, 1), (1, 1)))
    assert backend.max_pool2d(x).owner.op.ignore_border


@pytest.fixture
def jax():
    if backend.DIALECT == "theano":
        pytest.skip("Theano does not use JAX")
    return pytest.importorskip("jax")


def test_decoder_through_jax(jax):
    folder = GOLDENS / "decoder"
    cpu, gpu = (decoder.load_model(folder / "dec_doutput.npz", folder / "dec_doutput_dictionary.pkl", device)
                for device in ("cpu", "jax"))
    for context in np.load(folder / "dec_doutput_contexts.npy"):
        assert decoder.run_sampler(gpu, context, beam_width=5) == decoder.run_sampler(cpu, context, beam_width=5)


def test_sentences_through_jax(jax):
    folder = GOLDENS / "skipthoughts"
    model = skipthoughts.load_model(folder, device="jax")
    sentences = (folder / "sentences.txt").read_text(encoding="utf-8").split("\n")[:-1]
    golden = np.load(folder / "encoded.npz")["norm1_eos0"]
    np.testing.assert_allclose(skipthoughts.encode(model, sentences), golden, atol=1e-5)


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
    assert all("A GPU is asked for" in line for line in done.stderr.splitlines())
    if backend.DIALECT == "theano":     # asked for a GPU, it names the file or variable
        wrong = "THEANO_FLAGS" if "gpu" in flags else str(tmp_path / "rc") if rc in ("rc1", "rc3", "rc4") else ""
        assert ("refused:" in done.stdout) == bool(wrong) and wrong in done.stdout


def test_an_engine_that_cannot_be_started(tmp_path):
    for name in ("pytensor", "theano"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ValueError('broken\\ninstall')")
    program = """
from storyteller import StorytellerError
try:
    import storyteller.backend
except StorytellerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"},
                          timeout=60)
    assert "cannot be started" in done.stdout and not done.stderr
