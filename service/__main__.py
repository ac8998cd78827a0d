"""``python -m service`` is ``tidings``."""

from service.cli import main

if __name__ == "__main__":
    main()
