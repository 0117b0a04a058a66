"""Formats of slots and of parameters, and the random bits for rounding to them."""
