"""Recurrent 3D-DenseUNet in JAX and Flax: networks, training, inference and scores. Works on arrays, not on DICOM.

The public names are listed in `__init__.pyi`, and imported when they are first used: `import rdunet_jax` loads no JAX.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
