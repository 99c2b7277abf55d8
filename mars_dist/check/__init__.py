"""`mars check`: whether a training will fit, how long it will take and what it will cost, before money is spent."""
