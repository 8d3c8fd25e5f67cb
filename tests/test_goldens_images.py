"""Image preparation and VGG-19 against the original's (families images and vgg)."""
from __future__ import annotations

import numpy as np
import pytest

from storyteller import StorytellerError, backend, vgg
from tests.conftest import GOLDENS, read_json

IMAGES, VGG = GOLDENS / "images", GOLDENS / "vgg"
# What the original read wrongly or not at all is read rightly here, see tests/test_bad_input.py.
DIFFERENT = ("x2_palette", "x4_rgba")
FACTS = [fact for fact in read_json(IMAGES / "facts.json")["images"]
         if fact["file"].split(".")[0] not in DIFFERENT]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact["file"])
def test_load_image(fact):
    name = fact["file"].split(".")[0]
    rawim, im = vgg.load_image(IMAGES / fact["file"])
    assert rawim.dtype == np.uint8 and im.dtype == np.float32 and im.shape == (1, 3, 224, 224)
    allowed = 1 if fact["file"].endswith(".jpg") else 1e-3
    golden_raw = np.load(IMAGES / "rawim.npz")[name]
    assert np.abs(rawim.astype(int) - golden_raw).max() <= 1
    probes = np.load(IMAGES / "im_probes.npz")
    channel, row, column = probes["probe_channel_row_col"].T
    np.testing.assert_allclose(im[0][channel, row, column], probes[name], atol=allowed)
    whole = np.load(IMAGES / "im_float32.npz")
    if name in whole:
        np.testing.assert_allclose(im, whole[name], atol=allowed)
    np.testing.assert_allclose(im[0].mean(axis=(1, 2)), fact["im_channel_means_BGR"], atol=0.05)


@pytest.mark.parametrize("name", ["01_landscape", "04_landscape_odd"])
def test_jpeg_from_the_same_pixels(name):
    """Given the pixels that the original's JPEG decoder gave, nothing differs."""
    pixels = np.load(IMAGES / "jpeg_decoded.npz")[name]
    _, im = vgg.load_image(pixels)
    probes = np.load(IMAGES / "im_probes.npz")
    channel, row, column = probes["probe_channel_row_col"].T
    np.testing.assert_allclose(im[0][channel, row, column], probes[name], atol=1e-3)


def _run(build, device="cpu", **arrays):
    variables = {name: (backend.tensor4 if a.ndim == 4 else backend.matrix)(name)
                 for name, a in arrays.items()}
    return backend.function(list(variables.values()), [build(**variables)], device)(*arrays.values())[0]


@pytest.mark.parametrize("pad", [0, 1])
def test_convolution(pad):
    g = np.load(VGG / "single_layers.npz")
    W, b = backend.shared(g["W"]), backend.shared(g["b"])
    linear = _run(lambda x: backend.conv2d(x, W, pad) + b.dimshuffle("x", 0, "x", "x"), x=g["input"])
    np.testing.assert_allclose(linear, g[f"linear_pad{pad}"], atol=1e-4)
    np.testing.assert_allclose(np.maximum(linear, 0), g[f"rectified_pad{pad}"], atol=1e-4)
    assert np.abs(linear - g[f"WRONG_true_convolution_pad{pad}"]).max() > 1


@pytest.mark.parametrize("tile", [2, 4])
def test_winograds_form(tile, monkeypatch):
    """It gives what the plain one gives: in blocks of rows and of images, and where tiles go beyond the edge."""
    from storyteller.backend import kernels
    rng = np.random.default_rng(0)
    for n, c, o, h, w in ((1, 5, 3, 8, 6), (3, 64, 32, 14, 14), (1, 2, 3, 5, 9)):
        x = rng.standard_normal((n, c, h, w)).astype(np.float32)
        filters, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((o, c, 3, 3), (o,)))
        plain = np.maximum(kernels.conv2d(x, filters, 1) + b[:, None, None], 0)
        for size in (8 << 20, 1 << 10, 1 << 18):
            monkeypatch.setattr(kernels, "TILES_BYTES", size)
            fast = kernels.winograd_conv2d(x, kernels.winograd_filters(filters, tile), b)
            assert fast.shape == plain.shape
            np.testing.assert_allclose(fast, plain, atol=2e-5 * plain.max())


def test_channels_last():
    """Another order in the memory, the same values."""
    from storyteller.backend import kernels
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 7, 5), (4, 3, 3, 3)))
    plain, last = kernels.conv2d(x, w, 1), kernels.conv2d(x, w, 1, channels_last=True)
    assert last.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_allclose(last, plain, atol=1e-5)


@pytest.mark.parametrize("size", ["7x5", "8x8"])
def test_pooling(size):
    g = np.load(VGG / "single_layers.npz")
    np.testing.assert_array_equal(_run(backend.max_pool2d, x=g[f"maxpool_in_{size}"]),
                                  g[f"maxpool_out_{size}"])


def test_dense():
    from storyteller.layers import dense
    g = np.load(VGG / "single_layers.npz")
    W, b = backend.shared(g["dense_W"]), backend.shared(g["dense_b"])
    ours = _run(lambda x: dense(x, W, b, backend.relu), x=g["dense_in"].reshape(2, -1))
    np.testing.assert_allclose(ours, g["dense_out"], atol=1e-4)


def test_weights_are_those_of_the_goldens(vgg_weights):
    for fact, array in zip(read_json(VGG / "facts.json")["weights"], vgg_weights):
        assert list(array.shape) == fact["shape"]
        np.testing.assert_allclose(array.ravel()[:4], fact["first4"])
        np.testing.assert_allclose(array.ravel()[-2:], fact["last2"])


def test_the_network_as_a_graph(net):
    """Of Lasagne's layers in Theano's dialect."""
    im = np.load(IMAGES / "im_float32.npz")["01_landscape"]
    assert tuple(net.layers) == net.layer_names
    of_graph = backend.function([net.input], [net.layers["conv3_2"]])(im)[0]
    np.testing.assert_allclose(of_graph, net.compute(im, "conv3_2"), atol=1e-5 * np.abs(of_graph).max())


@pytest.mark.parametrize("name", ["01_landscape", "02_portrait_odd"])
def test_features(net, name):
    """fc7 and every layer that the goldens probe, relative to the layer's largest value."""
    im = np.load(IMAGES / "im_float32.npz")[name]
    golden = np.load(VGG / "features.npz")
    fc7 = vgg.compute_features(net, im)
    expected = golden[f"fc7_{name}"]
    assert fc7.shape == (1, 4096) and fc7.dtype == np.float32
    np.testing.assert_allclose(fc7[0], expected, atol=1e-4 * np.abs(expected).max())
    for layer in ("pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc8", "prob"):
        values = vgg.compute_features(net, im, layer).ravel()[golden[f"probe_flat_index_{layer}"]]
        expected = golden[f"probe_{layer}_{name}"]
        # JAX makes what is below the least normal number zero.
        np.testing.assert_allclose(values, expected, atol=max(1e-4 * np.abs(expected).max(), np.finfo(np.float32).tiny))


def test_batch(net):
    im = np.load(IMAGES / "im_float32.npz")
    both = np.concatenate([im["01_landscape"], im["02_portrait_odd"]])
    golden = np.load(VGG / "features.npz")
    ours = vgg.compute_features(net, both)
    for row, name in zip(ours, ("01_landscape", "02_portrait_odd")):
        np.testing.assert_allclose(row, golden[f"fc7_{name}"], atol=1e-4 * np.abs(row).max())


def test_wrong_input(net):
    for wrong in (np.zeros((1, 3, 100, 100), np.float32), np.zeros((224, 224, 3), np.float32)):
        with pytest.raises(StorytellerError, match="224"):
            vgg.compute_features(net, wrong)
    with pytest.raises(StorytellerError, match="fc9"):
        vgg.compute_features(net, np.zeros((1, 3, 224, 224), np.float32), "fc9")
