"""`python -m shaketable` is the command `shaketable`."""

from shaketable.cli import main

if __name__ == "__main__":
    main()
