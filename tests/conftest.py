"""Shapes and types of the segmenter's tensors are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook("worker.segmenter", "beartype.beartype").__enter__()
