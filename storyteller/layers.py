"""Dense and GRU layers, of arrays or of a graph's variables, and the gated recurrent encoder that models share.

Arrays are rows; a layer with prefix ``p`` finds its parameters as ``p_W``, ``p_b`` and so on,
the names of the model archives.
"""
from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np

from . import cache, files, threads
from .errors import StorytellerError, shown


def dense_shapes(prefix: str, n_in: int | None, n_out: int | None) -> dict[str, tuple]:
    """Names and shapes of a dense layer's parameters (None: any length)."""
    return {f"{prefix}_W": (n_in, n_out), f"{prefix}_b": (n_out,)}


def gru_shapes(prefix: str, n_in: int, dim: int) -> dict[str, tuple]:
    """Names and shapes of a GRU layer's parameters."""
    shapes = {"W": (n_in, 2 * dim), "b": (2 * dim,), "U": (dim, 2 * dim),
              "Wx": (n_in, dim), "Ux": (dim, dim), "bx": (dim,)}
    return {f"{prefix}_{name}": shape for name, shape in shapes.items()}


def join_gru(params: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Join the gates' and the candidate's parameters so that a step is one matrix product.

    Parameters
    ----------
    params : mapping of str to float32 arrays
        Holds the six parameters of :func:`gru_shapes`, or the three of :func:`load_params`.
    prefix : str

    Returns
    -------
    dict
        ``W`` (n_in, 3 dim) = [W, Wx], ``U`` (dim, 3 dim) = [U, Ux], ``b`` (3 dim,) = [b, bx].
    """
    if f"{prefix}_Wx" not in params:
        return {name: params[f"{prefix}_{name}"] for name in ("W", "U", "b")}
    return {name: np.concatenate([params[f"{prefix}_{name}"], params[f"{prefix}_{name}x"]], axis=-1)
            for name in ("W", "U", "b")}


def load_params(kind: str, path: str | os.PathLike, shapes: Mapping[str, tuple], *grus: str) -> dict[str, np.ndarray]:
    """A model's parameters as its network uses them, memory-mapped where they are large.

    Parameters
    ----------
    kind : str
        What it is, in a word, see :func:`storyteller.cache.cached_arrays`.
    path : path
        The model's archive.
    shapes : mapping of str to tuple of int
    *grus : str
        Prefixes of its GRU layers.

    Returns
    -------
    dict of str to float32 arrays
        Of each GRU layer, joined, ``W``, ``U`` and ``b`` of :func:`join_gru`; the others as they are in the archive.

    Raises
    ------
    StorytellerError
        If the file is missing or damaged, or does not hold these parameters.
    """
    def make() -> dict[str, np.ndarray]:
        params = files.load_arrays(path, list(shapes), shapes)
        for prefix in grus:
            joined = join_gru(params, prefix)
            for name, array in joined.items():
                params[f"{prefix}_{name}"] = array
                del params[f"{prefix}_{name}x"]
        return params
    return cache.cached_arrays(kind, path, ["joined", *grus, str(dict(shapes))], make)


def dense(x, W, b, activation: Callable | None = None, out: np.ndarray | None = None):
    """act(x . W + b), of arrays or of variables; of arrays, x . W + b stands in `out` where it is given."""
    from . import backend
    y = backend.dot(x, W, out)
    y += b      # an array's own memory; of a variable, another variable
    return activation(y) if activation else y


def gru_step(projected, h, U, dim: int, dot: Callable | None = None):
    """One step of a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, section 2.3).

    The reset gate multiplies *after* the product with the recurrent matrix:
    h~ = tanh(r * (h . Ux) + x . Wx + bx);  h' = u * h + (1 - u) * h~.

    Parameters
    ----------
    projected : array or variable (n, 3 dim)
        x . [W, Wx] + [b, bx].
    h : array or variable (n, dim)
        The state before the step.
    U : array or variable (dim, 3 dim)
        [U, Ux], see :func:`join_gru`.
    dim : int
    dot : callable, optional
        The product of h and U; default: :func:`storyteller.backend.dot`.

    Returns
    -------
    array or variable (n, dim)
        The state after the step.
    """
    from . import backend
    recurrent = (dot or backend.dot)(h, U)
    gates = backend.sigmoid(projected[:, :2 * dim] + recurrent[:, :2 * dim])
    reset, update = gates[:, :dim], gates[:, dim:]
    candidate = backend.tanh(reset * recurrent[:, 2 * dim:] + projected[:, 2 * dim:])
    return update * h + (np.float32(1) - update) * candidate


def gru(table, words, mask, p: Mapping, prefix: str, h0=None, **put_back):
    """A gated recurrent unit over whole sequences of words, for training; the step is :func:`gru_step`'s.

    Parameters
    ----------
    table : variable (n_words, n_in)
        Word vectors.
    words : variable (T n,) int64
        Rows of the table (negative: zeros), those of all n examples at step 0 first.
    mask : variable (T, n)
        Where it is 0 an example keeps its state.
    p : mapping of str to variables
        Holds the six parameters of :func:`gru_shapes`.
    prefix : str
        Of the parameters' names.
    h0 : variable (n, dim), optional
        The states before the first step; zeros by default.
    **put_back
        ``ended``, ``added`` and ``share`` of :func:`storyteller.backend.gru_sequence`, or nothing.

    Returns
    -------
    variable (T, n, dim)
        The state after every step.
    """
    from . import backend
    W, U, b = (backend.join([p[f"{prefix}_{name}"], p[f"{prefix}_{name}x"]], axis)
               for name, axis in (("W", 1), ("U", 1), ("b", 0)))
    if h0 is None:
        h0 = backend.zero_states(mask, U)
    projected = backend.as_steps(backend.embedded_dense(table, words, W, b), mask)
    return backend.gru_sequence(projected, mask, h0, U, **put_back)


# -- initial values ------------------------------------------------------------------------------

def init_orthogonal(dim: int, rng: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix (dim, dim): U of the SVD of a normal one (Saxe et al. 2014, arXiv:1312.6120)."""
    return np.linalg.svd(rng.standard_normal((dim, dim)))[0].astype(np.float32)


def init_matrix(n_in: int, n_out: int, rng: np.random.Generator) -> np.ndarray:
    """The original's initial values of weights (n_in, n_out): orthogonal where square, else uniform in
    +-0.1."""
    if n_in == n_out:
        return init_orthogonal(n_in, rng)
    return rng.uniform(-0.1, 0.1, (n_in, n_out)).astype(np.float32)


def init_xavier(n_in: int, n_out: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform in +-sqrt(6 / (n_in + n_out)) (Glorot & Bengio 2010, section 4.2.1): (n_in, n_out)."""
    bound = np.sqrt(6 / (n_in + n_out))
    return rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)


def init_dense(prefix: str, n_in: int, n_out: int, rng: np.random.Generator,
               weights: Callable = init_matrix) -> dict[str, np.ndarray]:
    """A dense layer's initial values, see :func:`dense_shapes`: the biases are zero."""
    return {f"{prefix}_W": weights(n_in, n_out, rng), f"{prefix}_b": np.zeros(n_out, np.float32)}


def init_gru(prefix: str, n_in: int, dim: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A GRU layer's initial values, see :func:`gru_shapes`: each gate's matrix on its own, zero biases."""
    return {f"{prefix}_W": np.concatenate([init_matrix(n_in, dim, rng) for _ in range(2)], axis=1),
            f"{prefix}_b": np.zeros(2 * dim, np.float32),
            f"{prefix}_U": np.concatenate([init_orthogonal(dim, rng) for _ in range(2)], axis=1),
            f"{prefix}_Wx": init_matrix(n_in, dim, rng),
            f"{prefix}_Ux": init_orthogonal(dim, rng),
            f"{prefix}_bx": np.zeros(dim, np.float32)}


class Model:
    """Plain data, and what is compiled from them.

    Pickles, copies and hashes such as ``joblib.hash`` hold the plain data alone; what is compiled is made again.
    The originals' models were dicts, so ``model[key]``, ``key in model``, ``model.get(key)`` and ``dict(model)``
    answer their keys.
    """

    #: Attributes that :meth:`_compile` sets.
    _compiled: tuple[str, ...] = ()
    _device = "cpu"

    def _compile(self) -> None:
        """Compile what this model needs beside its parts."""

    def _items(self) -> dict[str, Callable[[], Any]]:
        """The originals' keys, and what gives the value of each."""
        return {}

    def _summary(self) -> str:
        """What the model is, in a few words."""
        return ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary()}>"

    def __getitem__(self, key: str) -> Any:
        return self._items()[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def keys(self) -> list[str]:
        """The originals' keys."""
        return list(self)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        return self[key] if key in self.keys() else default

    def __getstate__(self) -> dict[str, Any]:
        # A memory-mapped array is pickled with its contents: its file may be gone or another one by then.
        return {name: np.asarray(value) if isinstance(value, np.memmap) else value
                for name, value in vars(self).items() if name not in self._compiled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._compile()


class ConvNetModel(Model):
    """A convnet, which gives the outputs of its layers by name.

    Attributes
    ----------
    layer_names : tuple of str
    default_layer : str
        The one whose outputs are the features.
    input : variable (n, 3, 224, 224)
        Of the network as a graph of the engine, which is imported for it.
    layers : dict
        Name -> output node of that graph.
    """

    layer_names: tuple[str, ...] = ()
    default_layer = ""

    _compiled = ("_graph", "_functions")

    def _compile(self) -> None:
        self._graph: tuple[Any, dict[str, Any]] | None = None
        self._functions: dict[str, Any] = {}

    def _outputs(self, x: Any) -> Iterator[tuple[str, Any]]:
        """Name and output of each layer, of an array or of a variable."""
        raise NotImplementedError

    def _build(self, x: Any) -> dict[str, Any]:
        return dict(self._outputs(x))

    def _as_graph(self) -> tuple[Any, dict[str, Any]]:
        if self._graph is None:     # two threads may both build it: either's will do
            from . import backend
            x = backend.tensor4("im")
            self._graph = x, self._build(x)
        return self._graph

    input = property(lambda self: self._as_graph()[0])
    layers = property(lambda self: self._as_graph()[1])

    def compute(self, im: np.ndarray, layer: str = "") -> np.ndarray:
        """Outputs of a layer, by default those that are the features, for a batch: (n, 3, 224, 224) float32 ->
        (n, ...) float32."""
        from . import backend
        layer = layer or self.default_layer
        if layer not in self.layer_names:
            raise StorytellerError(f"layer is {shown(layer)}: expected one of {', '.join(self.layer_names)}")
        im = np.ascontiguousarray(im, dtype=np.float32)
        if self._device == "cpu":
            return np.ascontiguousarray(next(output for name, output in self._outputs(im) if name == layer))
        if layer not in self._functions:    # two threads may both compile it: either's will do
            x, layers = self._as_graph()
            self._functions[layer] = backend.function([x], [layers[layer]], self._device)
        return self._functions[layer](im)[0]


class GRUEncoder(Model):
    """Reads sequences of vectors and gives the last hidden state of each.

    Parameters
    ----------
    params : mapping of str to float32 arrays
        See :func:`gru_shapes`.
    prefix : str
        Of the parameters' names.
    device : str, optional
        See :func:`storyteller.backend.device_of`.

    Attributes
    ----------
    dim : int
        Length of the hidden state.
    params : dict of arrays
        From :func:`join_gru`.
    """

    _compiled = ("_project", "_step", "_last")

    def __init__(self, params: Mapping[str, np.ndarray], prefix: str = "encoder",
                 device: str | None = None):
        from . import backend
        self.params, self._device = join_gru(params, prefix), backend.device_of(device)
        self.dim: int = self.params["U"].shape[0]
        self._compile()

    def _summary(self) -> str:
        return f"{self.dim} units, inputs of {len(self.params['W'])} numbers"

    def _compile(self) -> None:
        from . import backend
        W, U, b = backend.parameters(self.params, self._device != "cpu").values()
        self._last: Any = None
        if backend.on_jax(self._device):    # whole sequences, of which nothing but the last states comes back
            x = backend.matrix("x")
            projected, words, mask = backend.matrix("projected"), backend.int_matrix("words"), backend.matrix("mask")
            read = backend.as_steps(backend.embedding(projected, words.flatten()), mask)
            last = backend.last_step(backend.gru_sequence(read, mask, backend.zero_states(mask, U), U))
            self._project = backend.train_function([x], [dense(x, W, b)], device=self._device, fetched=False)
            self._last = backend.train_function([projected, words, mask], [last], device=self._device, fetched=False)
            return
        self._project = backend.computation(lambda x: [dense(x, W, b)], [2], self._device)
        self._step = backend.computation(lambda x, h: [gru_step(x, h, U, self.dim)], [2, 2], self._device)

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """The input's share of every step, x . [W, Wx] + [b, bx]: (n, n_in), also of :func:`backend.rows`,
        -> (n, 3 dim), for :meth:`final_states` (through JAX an array on the device, with more rows)."""
        from . import backend
        if isinstance(vectors, np.ndarray):
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
            if self._last is not None:
                vectors = backend.padded(vectors, backend.bucket(len(vectors)))
        return self._project(vectors)[0]

    def final_states(self, projected: np.ndarray, sequences: Sequence[np.ndarray],
                    batch_size: int = 128, progress: Callable[[int], object] | None = None,
                    ) -> np.ndarray:
        """Run over the sequences from a zero state.

        Parameters
        ----------
        projected : array (n_words, 3 dim) float32
            From :meth:`project`, one row for each *different* word.
        sequences : sequence of int arrays
            Rows of ``projected``; one sequence an example.  An empty one gives zeros.
        batch_size : int
            Steps that are taken side by side.  Does not change results.
        progress : callable, optional
            Called now and then with the number of sequences done since.

        Returns
        -------
        array (len(sequences), dim) float32

        Notes
        -----
        A state depends on the words so far alone, so each beginning that sequences share is run once.
        """
        states = np.zeros((len(sequences), self.dim), dtype=np.float32)
        if self._last is not None:
            self._states_through_jax(states, projected, sequences, batch_size, progress)
            return states
        # Big-endian bytes sort as the numbers do: those that begin alike come to stand together.
        keys = [np.asarray(sequence, ">i8").tobytes() for sequence in sequences]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        lock = threading.Lock()

        def work(start: int, stop: int) -> None:
            block = order[start:stop]
            states[block] = self._run([sequences[i] for i in block], projected, batch_size)
            if progress is not None:
                with lock:
                    progress(len(block))

        # So few that their states stay small, so many that little is run twice.
        size = min(16 * batch_size, max(2 * batch_size, -(-len(order) // threads.count())))
        threads.in_threads(work, len(order), size)
        return states

    def _run(self, sequences: Sequence[np.ndarray], projected: np.ndarray, batch_size: int) -> np.ndarray:
        """Final states of sorted sequences: every step takes all different beginnings one word further."""
        lengths = np.array(list(map(len, sequences)), dtype=np.int64)
        starts, words = np.cumsum(lengths) - lengths, np.concatenate(sequences)
        shared = np.array([0, *map(_in_common, sequences, sequences[1:])], dtype=np.int64)
        states = np.zeros((len(sequences), self.dim), dtype=np.float32)
        # In place of an array a step, of many sizes, of which the allocator would keep gigabytes with threads.
        memory = np.empty((2, *states.shape), dtype=np.float32)
        # The rows whose beginning is no other's before them, and the state after it.
        rows, h = np.zeros(1, dtype=np.int64), states[:1]
        for t in range(int(np.max(lengths))):
            threads.leave_if_stopped()
            longer = np.flatnonzero((shared <= t) & (t < lengths))
            before = np.searchsorted(rows, longer, side="right") - 1
            rows, after = longer, memory[t % 2, :len(longer)]
            for part in (slice(start, start + batch_size) for start in range(0, len(rows), batch_size)):
                after[part] = self._step(projected[words[starts[rows[part]] + t]], h[before[part]])[0]
            h = after
            ended = lengths[rows] == t + 1
            states[rows[ended]] = h[ended]
        # Of equal sequences the first was run.
        return states[np.maximum.accumulate(np.where(shared < lengths, np.arange(len(lengths)), 0))]

    def _states_through_jax(self, states: np.ndarray, projected: Any, sequences: Sequence[np.ndarray], batch_size: int,
                            progress: Callable[[int], object] | None) -> None:
        """Fill in the last states, a batch on the device while the next one is prepared."""
        from . import backend
        from .text import sorted_batches
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        running: list[tuple[np.ndarray, Any]] = []      # the batch before, of which nothing was fetched yet

        def finish() -> None:
            for rows, last in running:
                states[rows] = backend.fetch(last)[0][:len(rows)]
                if progress is not None:
                    progress(len(rows))

        for batch in sorted_batches(lengths, backend.bucket(batch_size)):
            # Few different shapes: lengths are powers of 2, batches see backend.bucket.
            steps = max(16, 1 << int(lengths[batch[0]] - 1).bit_length())
            there = np.arange(steps) < backend.padded(lengths[batch], backend.bucket(len(batch)))[:, None]
            words = np.zeros(there.shape, dtype=np.int64)
            words[there] = np.concatenate([sequences[i] for i in batch])
            last = self._last(projected, np.ascontiguousarray(words.T), there.T.astype(np.float32, order="C"))[0]
            finish()
            running = [(batch, last)]
        finish()


def _in_common(a: np.ndarray, b: np.ndarray) -> int:
    """How many numbers two sequences begin with alike."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


def distinct_words(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The different words (m,) of sequences of int64 indices, rising, and the sequences as places among them."""
    words = np.concatenate([np.zeros(0, np.int64), *sequences])
    used, where = np.unique(words, return_inverse=True)
    return used, np.split(where.reshape(-1), np.cumsum([len(sequence) for sequence in sequences])[:-1])


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Scale every row to unit L2 norm; a row of zeros stays zeros.  (n, d) -> (n, d)."""
    norms = np.sqrt(np.sum(np.square(x), axis=1, keepdims=True))
    return x / np.where(norms == 0, np.float32(1), norms)
