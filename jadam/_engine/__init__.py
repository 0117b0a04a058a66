"""Runs rules over trees: the plan of a tree, one step, one leaf, the initial state, and where it is placed."""
