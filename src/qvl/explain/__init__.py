"""Pages that show what the model is given."""
