"""`rdunet`: DICOM folders in; data sets, trained networks, scores and segmentations out.

The one package that knows both the data pipeline and the library. `main` has the commands' arguments, a module each
what is done with them.
"""
