"""Evaluation: ranking of images and sentences, perplexity and BLEU, and transfer of sentence vectors.

For the nearest sentences of a query use :func:`storyteller.embedding.nearest`, with vectors of unit
norm for the cosine.
"""
from .perplexity import bleu, perplexity
from .ranking import PER_IMAGE, i2t, t2i
from .transfer import CS, classify, load_binary, load_msrp, load_sick, load_trec, pair_features, relatedness
from .transfer import need_sklearn as _need_sklearn

__all__ = ["CS", "PER_IMAGE", "bleu", "classify", "i2t", "load_binary", "load_msrp", "load_sick", "load_trec",
           "need_sklearn", "pair_features", "perplexity", "relatedness", "t2i"]


def need_sklearn() -> None:
    """Raise a StorytellerError that says what to install where scikit-learn is missing."""
    _need_sklearn()
