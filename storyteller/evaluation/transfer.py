"""Transfer: what can be learned from frozen sentence vectors.

As in Kiros et al. ("Skip-Thought Vectors", 2015, section 3): a linear classifier on frozen vectors,
its regularisation chosen by cross-validation.
"""
from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import StorytellerError

CS = (1.0, 4.0, 16.0, 64.0, 256.0)


def pair_features(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What a classifier of pairs sees: |u - v| beside u * v (Tai et al., ACL 2015).

    Parameters
    ----------
    u, v : arrays (n, dim) float32
        Vectors of the first and of the second sentences.

    Returns
    -------
    array (n, 2 dim) float32

    Raises
    ------
    StorytellerError
        If the shapes differ.
    """
    u, v = np.asarray(u, dtype=np.float32), np.asarray(v, dtype=np.float32)
    if u.ndim != 2 or u.shape != v.shape:
        raise StorytellerError(f"u has shape {u.shape} and v {v.shape}: expected (n, dim) for both")
    return np.concatenate([np.abs(u - v), u * v], axis=1)


def classify(vectors: np.ndarray, labels: Sequence[Any] | np.ndarray, folds: int = 10, *,
             test_vectors: np.ndarray | None = None, test_labels: Sequence[Any] | np.ndarray | None = None,
             Cs: Sequence[float] = CS, seed: int = 1234) -> dict[str, Any]:
    """How well labels can be told from frozen vectors by logistic regression.

    As in the skip-thoughts paper, section 3: with a test set the regularisation is chosen by
    cross-validation on the training set (TREC, MSRP, SICK); without one the whole is
    cross-validated, and the choice made within each training part (MR, CR, SUBJ, MPQA).

    Parameters
    ----------
    vectors : array (n, dim) float32
        Sentence vectors, or :func:`pair_features`.
    labels : sequence of n labels
    folds : int
        Of the cross-validation, shuffled and stratified.
    test_vectors, test_labels : optional
        A test set.
    Cs : sequence of float
        Inverse strengths of regularisation to choose from.
    seed : int
        Of the folds.

    Returns
    -------
    dict
        'accuracy' in percent; 'f1' in percent of the larger label, when there are two labels;
        'C', the choice (for cross-validation a list, one a fold); 'n', how many were judged.

    Raises
    ------
    StorytellerError
        If scikit-learn is not installed, or the data do not suffice.
    """
    need_sklearn()
    from sklearn.metrics import f1_score

    vectors, known = _labelled(vectors, labels, "vectors", "labels")
    counts = check_labels(known, folds)
    Cs = _strengths(Cs)
    if (test_vectors is None) != (test_labels is None):
        raise StorytellerError("one of test_vectors and test_labels is missing: give both or none")
    predicted: np.ndarray
    chosen: Any
    if test_vectors is not None and test_labels is not None:
        test_vectors, truth = _labelled(test_vectors, test_labels, "test_vectors", "test_labels")
        if test_vectors.shape[1] != vectors.shape[1]:
            raise StorytellerError(f"test_vectors have {test_vectors.shape[1]} columns and vectors "
                                   f"{vectors.shape[1]}: expected vectors of one model")
        model = _fitted(vectors, known, folds, Cs, seed)
        predicted, chosen = model.predict(test_vectors), model.best_params_["C"]
    else:
        truth, predicted, chosen = known, np.empty_like(known), []
        for train, test in _folds(known, folds, seed):
            if len(set(known[train].tolist())) < 2:
                raise StorytellerError(f"labels has too few of a kind for {folds} folds: give more data or fewer "
                                       "folds")
            model = _fitted(vectors[train], known[train], min(folds, len(train)), Cs, seed)
            predicted[test] = model.predict(vectors[test])
            chosen.append(model.best_params_["C"])
    result = {"accuracy": 100 * float(np.mean(predicted == truth)), "C": chosen, "n": len(truth)}
    if len(counts) == 2:
        result["f1"] = 100 * float(f1_score(truth, predicted, pos_label=max(counts), zero_division=0))
    return result


def relatedness(vectors: np.ndarray, scores: Sequence[float] | np.ndarray, test_vectors: np.ndarray,
                test_scores: Sequence[float] | np.ndarray, folds: int = 10, *, Cs: Sequence[float] = CS,
                seed: int = 1234) -> dict[str, float]:
    """How well relatedness from 1 to 5 can be told from pairs, as for SICK in the paper.

    A score is learned as a distribution over the five whole grades (3.6 is 0.4 of 3 and 0.6 of
    4) and predicted as the mean of the predicted distribution (Tai et al., ACL 2015).

    Parameters
    ----------
    vectors, test_vectors : arrays (n, dim) float32
        :func:`pair_features` of the training and test pairs.
    scores, test_scores : sequences of n float
        From 1 to 5.
    folds, Cs, seed : see :func:`classify`

    Returns
    -------
    dict
        'pearson', 'spearman' (NaN where the test's or the predicted scores are all the same), 'mse' on the test
        set, and the chosen 'C'.

    Raises
    ------
    StorytellerError
        If scikit-learn is not installed, or the data do not suffice.
    """
    need_sklearn()
    import scipy.stats
    from sklearn.model_selection import KFold

    sets = []
    for name, given, known in (("", vectors, scores), ("test_", test_vectors, test_scores)):
        X, y = _labelled(given, known, name + "vectors", name + "scores")
        if y.dtype.kind not in "fiu" or not ((y >= 1) & (y <= 5)).all():
            raise StorytellerError(f"{name}scores holds something else than numbers from 1 to 5: expected SICK's "
                                   "relatedness_score")
        sets.append((X, y.astype(np.float64)))
    (X, y), (test_X, test_y) = sets
    if X.shape[1] != test_X.shape[1]:
        raise StorytellerError(f"test_vectors have {test_X.shape[1]} columns and vectors {X.shape[1]}: expected "
                               "vectors of one model")
    check_scores(y, folds)
    Cs = _strengths(Cs)

    def error(C: float) -> float:
        splits = KFold(folds, shuffle=True, random_state=seed).split(X)
        return float(np.mean([np.mean((_graded(X[train], y[train], C)(X[test]) - y[test]) ** 2)
                              for train, test in splits]))

    best = min(Cs, key=error) if len(Cs) > 1 else Cs[0]
    predicted = _graded(X, y, best)(test_X)
    varied = len(test_y) > 1 and np.min(test_y) < np.max(test_y) and np.min(predicted) < np.max(predicted)
    return {"pearson": float(scipy.stats.pearsonr(predicted, test_y)[0]) if varied else float("nan"),
            "spearman": float(scipy.stats.spearmanr(predicted, test_y)[0]) if varied else float("nan"),
            "mse": float(np.mean((predicted - test_y) ** 2)), "C": best}


def _graded(X: np.ndarray, y: np.ndarray, C: float) -> Any:
    """A function from features to scores; each pair is learned as its two nearest grades."""
    low = np.minimum(np.floor(y).astype(np.int64), 4)
    weights = np.concatenate([low + 1 - y, y - low])
    grades = np.concatenate([low, low + 1])
    used = weights > 0
    if len(set(grades[used].tolist())) < 2:
        only = float(grades[used][0])
        return lambda other: np.full(len(other), only)
    model = _regression(C)
    model.fit(np.concatenate([X, X])[used], grades[used], sample_weight=weights[used])
    return lambda other: model.predict_proba(other) @ model.classes_


def need_sklearn() -> None:
    """Raise a StorytellerError that says what to install where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise StorytellerError("transfer evaluation takes scikit-learn, which is not installed: "
                               "pip install scikit-learn") from error


def _labelled(vectors: np.ndarray, labels: Sequence[Any] | np.ndarray, name: str, label_name: str,
              ) -> tuple[np.ndarray, np.ndarray]:
    vectors, known = np.asarray(vectors), np.asarray(labels)
    if vectors.ndim != 2 or known.ndim != 1 or len(vectors) != len(known) or not len(known):
        raise StorytellerError(f"{name} has shape {vectors.shape} and {label_name} {known.shape}: expected "
                               "(n, dim) and (n,), one label a row")
    if vectors.dtype.kind not in "fiu" or not np.isfinite(vectors).all():
        raise StorytellerError(f"{name} holds something else than finite numbers: expected sentence vectors")
    return vectors, known


def check_labels(labels: Sequence[Any] | np.ndarray, folds: int) -> Counter[Any]:
    """How often each label occurs; StorytellerError where :func:`classify` could not learn from them."""
    counts: Counter[Any] = Counter(np.asarray(labels).tolist())
    if len(counts) < 2:
        raise StorytellerError(f"labels has only {next(iter(counts), None)!r}: expected at least two different labels")
    _check_folds(folds, len(labels))
    rare, count = min(counts.items(), key=lambda item: item[1])
    if count < 2:
        raise StorytellerError(f"label {rare!r} occurs once: expected each at least twice, so that it can be both "
                               "learned and judged")
    return counts


def check_scores(scores: Sequence[float] | np.ndarray, folds: int) -> None:
    """StorytellerError where :func:`relatedness` could not learn from scores."""
    _check_folds(folds, len(scores))
    if np.min(scores) == np.max(scores):
        raise StorytellerError("scores are all the same: expected different ones to learn from")


def _check_folds(folds: int, n: int) -> None:
    if not 2 <= folds <= n:
        raise StorytellerError(f"folds is {folds} for {n} rows: expected 2 to {n}")


def _strengths(Cs: Sequence[float]) -> list[float]:
    Cs = [float(C) for C in Cs]
    if not Cs or min(Cs) <= 0:
        raise StorytellerError(f"Cs is {Cs}: expected positive numbers to choose from")
    return Cs


def _folds(labels: np.ndarray, folds: int, seed: int) -> Any:
    """Stratified, but with fewer rows of a label than folds plainly shuffled."""
    from sklearn.model_selection import KFold, StratifiedKFold

    rarest = min(Counter(labels.tolist()).values())
    kind = StratifiedKFold if rarest >= folds else KFold
    return list(kind(folds, shuffle=True, random_state=seed).split(np.zeros((len(labels), 1)), labels))


def _regression(C: float = 1.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=1000)


def _fitted(X: np.ndarray, y: np.ndarray, folds: int, Cs: list[float], seed: int) -> Any:
    """A model on all of X, its C chosen by cross-validation."""
    from sklearn.model_selection import GridSearchCV

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about folds without a rare label, and convergence
        try:
            return GridSearchCV(_regression(), {"C": Cs}, cv=_folds(y, folds, seed)).fit(X, y)
        except ValueError as error:  # no fold has two labels
            raise StorytellerError(f"labels has too few of a kind for {folds} folds: give more data or fewer "
                                   "folds") from error
