"""Of schedules."""

CALLS = {}
