"""Scores: one small pure function each, predictions and references in, a number out."""
