"""Measures: of each note, of sets of notes, of codebooks; means and intervals are taken in `summary`."""
