"""The adapters to Ray: the only place that imports it."""
