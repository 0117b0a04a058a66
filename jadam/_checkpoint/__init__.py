"""States that outlive their program: written to files, carried over to another transformation, exchanged with torch."""
