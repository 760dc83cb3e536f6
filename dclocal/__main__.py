"""`python -m dclocal`."""

from dclocal.entry import main

if __name__ == "__main__":
    main()
