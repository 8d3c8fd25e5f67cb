"""EfficientNet-Lite0: its operations against plain loops, its preparation, its files."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from storyteller import StorytellerError, efficientnet, files, vgg
from storyteller import backend as be


def by_loops(x, w, b, stride, groups, limit):
    """The definition: TensorFlow's "SAME" padding, one output at a time."""
    n, _, height, width = x.shape
    o, per_group, k, _ = w.shape
    out_h, out_w = -(-height // stride), -(-width // stride)
    above = max((out_h - 1) * stride + k - height, 0) // 2
    left = max((out_w - 1) * stride + k - width, 0) // 2
    out = np.zeros((n, o, out_h, out_w))
    for image in range(n):
        for channel in range(o):
            first = channel * per_group if groups > 1 else 0
            for row in range(out_h):
                for column in range(out_w):
                    total = b[channel]
                    for i in range(k):
                        for j in range(k):
                            r, c = row * stride + i - above, column * stride + j - left
                            if 0 <= r < height and 0 <= c < width:
                                total += x[image, first:first + per_group, r, c] @ w[channel, :, i, j]
                    out[image, channel, row, column] = total
    return out if limit is None else np.clip(out, 0, limit)


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
@pytest.mark.parametrize("kernel, stride, groups", [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 4), (3, 2, 4), (5, 2, 4)])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_convolutions(size, kernel, stride, groups, limit):
    rng = np.random.default_rng(kernel)
    x = rng.standard_normal((2, 4, *size)).astype(np.float32)
    w = rng.standard_normal((4 if groups > 1 else 3, 1 if groups > 1 else 4, kernel, kernel)).astype(np.float32)
    b = rng.standard_normal(len(w)).astype(np.float32)
    v = be.tensor4("x")
    compute = be.function([v], [be.same_conv2d(v, be.shared(w), be.shared(b), stride, groups, limit)])
    np.testing.assert_allclose(compute(x)[0], by_loops(x, w, b, stride, groups, limit), atol=1e-5)


def test_many_channels_are_done_in_blocks():
    """Depthwise filters over more channels than stay in the cache at once."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 40, 64, 64)).astype(np.float32)
    w, b = rng.standard_normal((40, 1, 3, 3)).astype(np.float32), np.zeros(40, np.float32)
    from storyteller.backend import kernels
    whole = kernels.same_conv2d(x, w, b, 2, 40, None)
    one_by_one = [kernels.same_conv2d(x[:, i:i + 1], w[i:i + 1], b[i:i + 1], 2, 1, None) for i in range(40)]
    np.testing.assert_allclose(whole, np.concatenate(one_by_one, axis=1), atol=1e-5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("net") / "net.npz"
    arrays = {name: (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float16)
              for name, shape in efficientnet.parameter_shapes().items()}
    files.save_arrays(path, **arrays)
    return path


def test_network(weights):
    net = vgg.build_convnet(weights)
    assert net.n_features == 1280
    rng = np.random.default_rng(2)
    rawim, im = vgg.load_image(rng.integers(0, 256, (300, 260, 3), dtype=np.uint8), net)
    assert rawim.shape == (224, 224, 3) and im.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(im[0, 0], (rawim[..., 0] - 127.0) / 128)
    one = vgg.compute_features(net, im)
    assert one.shape == (1, 1280) and (one >= 0).all() and one.any()
    np.testing.assert_allclose(vgg.compute_features(net, np.concatenate([im * 0, im]))[1:], one, rtol=1e-4, atol=1e-5)
    sizes = {name: net.compute(im, name).shape[1:] for name in ("stem", "block3", "block16", "head")}
    assert sizes == {"stem": (32, 112, 112), "block3": (24, 56, 56), "block16": (320, 7, 7), "head": (1280, 7, 7)}
    with pytest.raises(StorytellerError, match="fc7"):
        vgg.compute_features(net, im, "fc7")


def test_number_of_parameters():
    """Tan & Le's B0 without squeeze-and-excitation: 4.65 million with its classifier of 1,281,000."""
    count = sum(int(np.prod(shape)) for shape in efficientnet.parameter_shapes().values())
    assert count + 1_281_000 == pytest.approx(4.65e6, rel=0.005)


def test_preparation_is_that_of_the_whole_picture_resized():
    rng = np.random.default_rng(3)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 512)))
    crop, _ = efficientnet.EfficientNetLite0.prepare(smooth)
    whole = Image.fromarray(smooth).resize((320, 256), Image.BICUBIC)
    left, top = (320 - 224) // 2, (256 - 224) // 2
    expected = np.asarray(whole)[top:top + 224, left:left + 224]
    assert np.abs(crop.astype(int) - expected).mean() < 1.5


def test_a_picture_of_one_by_five_thousand_pixels():
    crop, im = efficientnet.EfficientNetLite0.prepare(np.full((5000, 1, 3), 9, np.uint8))
    assert crop.shape == (224, 224, 3) and (crop == 9).all() and im.shape == (1, 3, 224, 224)


@pytest.mark.parametrize("spoil, words", [
    (lambda arrays: arrays.pop("head_W"), "head_W"),
    (lambda arrays: arrays.update(stem_W=np.zeros((1, 3, 3, 3))), "stem_W")])
def test_spoilt_archives(spoil, words, weights, tmp_path):
    arrays = dict(np.load(weights))
    spoil(arrays)
    files.save_arrays(tmp_path / "spoilt.npz", **arrays)
    with pytest.raises(StorytellerError, match=words):
        vgg.build_convnet(tmp_path / "spoilt.npz")


def test_cut_archive(weights, tmp_path):
    (tmp_path / "cut.npz").write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(StorytellerError, match="cut.npz"):
        vgg.build_convnet(tmp_path / "cut.npz")
