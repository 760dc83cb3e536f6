"""`python -m dclocal`."""

from dclocal.cli import main

if __name__ == "__main__":
    main()
