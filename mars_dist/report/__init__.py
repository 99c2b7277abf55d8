"""The page that a person judges by: one self-contained HTML file."""
