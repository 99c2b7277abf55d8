"""How good a model is on held-out notes, each figure beside the lines that say what it could be."""
