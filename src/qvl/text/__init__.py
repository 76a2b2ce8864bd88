"""Tokens, markup, prompts and supervision. No torch here."""
