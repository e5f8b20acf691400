"""The TFDS builder of NSCLC-Radiomics, or of any folder of CTs with RTSTRUCTs."""

from data_pipeline.nsclc_radiomics.nsclc_radiomics_dataset_builder import Builder, NsclcRadiomicsConfig

__all__ = ["Builder", "NsclcRadiomicsConfig"]
