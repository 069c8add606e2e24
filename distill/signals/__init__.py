"""Signals: what a student is told in training, as small terms of its loss, and what a teacher is shown beside the frame."""
