"""From DICOM folders to 8-slice patches, and from masks back to DICOM. Imports no network."""
