"""Control: whether, how often and on which updates a transformation runs. Add a wrapper here, one a file."""
