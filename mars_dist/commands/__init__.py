"""What each `mars ...` does. Imports are lazy, so that --help is instant."""
