"""Progress of long work: a tqdm bar with rate and time left."""
from __future__ import annotations


def progress_bar(total: int | None, description: str, unit: str, verbose: bool = True, initial: int = 0):
    """A bar over ``total`` steps (None: not known), as a context manager with ``update(n)``.

    Silent unless ``verbose`` and standard error is a terminal.
    """
    from tqdm import tqdm
    return tqdm(total=total, desc=description, unit=f" {unit}s", initial=initial, smoothing=0.05,
                disable=None if verbose else True, leave=False)
