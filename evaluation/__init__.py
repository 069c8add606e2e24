"""Scores, patient bootstrap, paired comparison and the floors that every score is read against."""
