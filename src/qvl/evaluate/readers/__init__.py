"""Benchmarks in their own files -> rows. A reader takes the files in the table's order and the pictures' folder."""
