"""Operators of Nightshift."""
