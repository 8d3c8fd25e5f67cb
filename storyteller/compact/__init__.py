"""The small models that come with the package, and what the settings leave to them.

They are of the same architecture, in the same formats, as the large ones; ``recipes/compact`` makes
them, and docs/compact.md describes them.
"""
from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))

# Settings that belong together: naming one of a group leaves nothing of it to the compact models.
GROUPS: tuple[dict[str, str], ...] = (
    {"skmodels": "", "sktables": ""},
    {"decmodel": "romance.npz", "dictionary": "romance_dictionary.pkl"},
    {"vsemodel": "embedding.npz"},
    {"vgg": "efficientnet_lite0.npz"},
    {"captions": "captions.txt"},
    {"negbias": "caption_style.npy"},
    {"posbias": "verse_style.npy"},
)

# Options of story() that measured best for the compact decoder (docs/compact.md).
TELLING = {"prose": True, "candidates": 12, "guidance": 1.5}


def paths(named: object = ()) -> dict[str, str]:
    """Paths of the compact models for every group of settings of which none is in ``named``."""
    return {key: os.path.join(FOLDER, name) if name else FOLDER
            for group in GROUPS if not set(group) & set(named)      # type: ignore[call-overload]
            for key, name in group.items()}
