"""One screen a file: what fills the terminal or lies over it."""
