"""Recurrent 3D-DenseUNet in JAX and Flax: the networks, their training and their evaluation. Knows arrays, never DICOM."""

__version__ = "0.1.0"
