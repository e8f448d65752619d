"""Calls with one thing wrong raise an error that names the operator, in Python and in ``torch.ops``; none crashes."""

import re

import malformed_calls
from test_errors import ERRORS


def test_malformed_calls_raise(cases, tried):
    count = cases(400, 2000)
    wrong = list(filter(None, map(complaint, range(count))))
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:30])
    tried("malformed calls, each an error that names the operator", count)


def complaint(seed: int) -> str | None:
    call = malformed_calls.draw(seed)
    try:
        call.run()
    except ERRORS as error:
        named = re.search(call.name, str(error)) is not None
        return None if named else f"seed {seed}: {call.about}: not named by {error!r:.300}"
    except Exception as error:
        return f"seed {seed}: {call.about}: {error!r:.300}"
    return f"seed {seed}: {call.about}: no error"
