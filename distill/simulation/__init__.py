"""Simulated expert knowledge: images with known landmarks, gaze and regions, so that every path runs without private data."""
