"""``python -m clipdense`` is the command ``clipdense``."""

from clipdense.cli import main

if __name__ == '__main__':
    main()
