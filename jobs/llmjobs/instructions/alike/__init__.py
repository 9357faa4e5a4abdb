"""Rows that are nearly the same, the sides of the split, and leaks between them."""
