"""Message ids, as clients send them."""

from common.messages import MAX_SEQ, is_run_id


def parts_of(uuid: str) -> tuple[str, int]:
    """Run and seq of a message id. Raises ValueError where it is none."""
    run, _, digits = uuid.partition(".")
    if not is_run_id(run) or not digits.isascii() or not digits.isdigit() or str(int(digits[:20])) != digits:
        raise ValueError("no message id")
    seq = int(digits)
    if seq >= MAX_SEQ:
        raise ValueError("no message id")
    return run, seq
