"""Weights and training state on disk."""

from qvl.checkpoint.layout import load_model, save_model

__all__ = ["load_model", "save_model"]
