"""Biomarker extractors: the network, its training from clip labels, its calibration, its folder."""
