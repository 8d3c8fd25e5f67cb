"""Reading and writing every file format of the models, safely.

Model files come from strangers and over bad connections.  Nothing here executes anything a file
says, trusts a size that a file declares, or lets a failure through as anything but one
`StorytellerError` that names the file, what was expected, and what to do next.  Savers write under
a temporary name and move the finished file into place.
"""
from .arrays import (
    array_names,
    convert_object_table,
    describe,
    int_option,
    is_archive,
    is_object_table,
    load_arrays,
    load_dictionary,
    load_matrix,
    load_options,
    load_pickle,
    load_vector,
    save_arrays,
    save_npy_header,
    save_pickle,
    table_shape,
)
from .io import AGAIN, check_readable, open_file, sniff, write_atomically, wrong_kind
from .vgg19 import VGG19_SHAPES, load_torch_state, load_vgg19, save_vgg19_pickle

__all__ = [
    "AGAIN", "VGG19_SHAPES", "array_names", "check_readable", "convert_object_table", "describe",
    "int_option", "is_archive", "is_object_table", "load_arrays", "load_dictionary", "load_matrix", "load_options",
    "load_pickle", "load_torch_state", "load_vector", "load_vgg19", "open_file", "save_arrays",
    "save_npy_header", "save_pickle", "save_vgg19_pickle", "sniff", "table_shape", "write_atomically",
    "wrong_kind",
]
