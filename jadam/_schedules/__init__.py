"""Schedules: values that change with the number of updates done. One file for each kind of shape."""
