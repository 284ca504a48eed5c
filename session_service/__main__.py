"""``python -m session_service`` is the command ``session-service``."""

from .cli import main

if __name__ == "__main__":
    main()
