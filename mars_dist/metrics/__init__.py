"""Measures of notes, one value a note; means and intervals are taken in `summary`."""
