"""Evaluation: ranking of images and sentences, perplexity and BLEU, and transfer of sentence vectors.

For the nearest sentences of a query use :func:`storyteller.embedding.nearest`, with vectors of unit
norm for the cosine.
"""
from .datasets import load_binary, load_msrp, load_sick, load_trec
from .perplexity import bleu, perplexity
from .ranking import captions_per_image, evalrank, i2t, t2i
from .transfer import CS, check_labels, check_scores, classify, pair_features, relatedness
from .transfer import need_sklearn as _need_sklearn

__all__ = ["CS", "bleu", "captions_per_image", "check_labels", "check_scores", "classify", "evalrank", "i2t",
           "load_binary", "load_msrp", "load_sick", "load_trec", "need_sklearn", "pair_features", "perplexity",
           "relatedness", "t2i"]


def need_sklearn() -> None:
    """Raise a StorytellerError that says what to install where scikit-learn is missing."""
    _need_sklearn()
