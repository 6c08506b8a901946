"""Checks results against the types of the official SDK: run by an interpreter that has ``mcp`` 2.

Lines of standard input are ``[method, revision, result]``; a line is printed for each that is invalid.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    """The number of invalid results."""
    from mcp_types.methods import validate_server_result

    wrong = 0
    for line in sys.stdin:
        method, revision, result = json.loads(line)
        try:
            validate_server_result(method, revision, result)
        except Exception as error:
            wrong += 1
            print(method, revision, error)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
