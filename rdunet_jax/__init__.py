"""Recurrent 3D-DenseUNet in JAX and Flax: networks, training, evaluation. Knows arrays, never DICOM."""

__version__ = "0.1.0"
