"""Objectives: each a module that owns its backbone and turns two views of a batch into a loss."""
