"""One widget a file, its styles beside it: data goes down as attributes, what the user does goes up as messages."""
