"""The terminal app: a Textual front end to the engine, the history and the settings of `dclocal`."""
