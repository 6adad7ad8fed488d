"""Whether something answers: ``python -m deployments.health URL`` ends with 0 when it answers with 200, else with 1."""

import sys
import urllib.request


def answers(url: str) -> bool:
    """Whether a request gets the answer 200 within five seconds."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1]) else 1)
