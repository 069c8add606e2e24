"""Biomarker extractors, frozen extraction, the embedding store and its FAISS index."""
