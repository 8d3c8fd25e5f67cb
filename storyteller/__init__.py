"""Look at a picture and tell a short story about it in the style of a book.

>>> from storyteller import generate
>>> z = generate.load_all()                        # doctest: +SKIP
>>> generate.story(z, './images/ex1.jpg')          # doctest: +SKIP

Each part works alone: :mod:`~storyteller.vgg` (image features), :mod:`~storyteller.embedding` (the
joint image-sentence space), :mod:`~storyteller.skipthoughts` (thought vectors),
:mod:`~storyteller.style` (the style shift) and :mod:`~storyteller.decoder` (vector to passage).
"""
from .errors import StorytellerError

__version__ = "0.1.0"
__all__ = ["StorytellerError", "__version__", "styles"]


def styles(config: object = None) -> list[str]:
    """Names of the book styles, for ``generate.story(z, image, style=NAME)``.

    Parameters
    ----------
    config : path, mapping, Config or None
        See :func:`storyteller.config.load`.

    Returns
    -------
    list of str
        In alphabetical order.
    """
    from . import config as settings
    return settings.load(config).style_names()      # type: ignore[arg-type]


def __getattr__(name: str) -> object:
    if name in ("formats", "convnets"):     # where the readers stood before they became storyteller.files
        from . import files
        return files
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
