"""Reading and writing every file format, safely: the models' and plain text.

Model files come from strangers and over bad connections.  Nothing here executes anything a file
says, trusts a size that a file declares, or lets a failure through as anything but one
`StorytellerError` that names the file, what was expected, and what to do next.  Savers write under
a temporary name and move the finished file into place.

``io`` opens, recognises and replaces files; ``unpickle`` is the reader of pickles under ``pickles``
(options, dictionaries), ``tables`` (word vectors), ``lasagne`` and ``torch``; ``arrays`` reads .npz and
.npy; ``vgg19`` puts the convnet's weights of ``lasagne``, ``caffe``, ``torch`` and ``keras`` into one
layout.  ``text`` reads plain text.
"""
from .arrays import array_names, is_archive, load_arrays, load_matrix, load_vector, save_arrays, save_npy_header
from .io import AGAIN, check_readable, describe, identify, open_file, remove_parts, sniff, write_atomically, wrong_kind
from .pickles import int_option, load_counts, load_dictionary, load_options, load_pickle, save_pickle
from .tables import convert_object_table, is_object_table, table_shape
from .text import TEXT, TEXT_SUFFIXES, Source, open_text
from .torch import load_torch_state
from .vgg19 import VGG19_SHAPES, load_vgg19

__all__ = [
    "AGAIN", "Source", "TEXT", "TEXT_SUFFIXES", "VGG19_SHAPES", "array_names", "check_readable",
    "convert_object_table", "describe", "identify", "int_option", "is_archive", "is_object_table",
    "load_arrays", "load_counts", "load_dictionary", "load_matrix", "load_options", "load_pickle",
    "load_torch_state", "load_vector", "load_vgg19", "open_file", "open_text", "remove_parts", "save_arrays",
    "save_npy_header", "save_pickle", "sniff", "table_shape", "write_atomically", "wrong_kind",
]
