"""The command line. Its commands are short, and most of their time is importing, which makes no garbage: looking for
some all the while costs a tenth. Commands that live long call `collect_as_usual`."""

import gc

_USUAL = gc.get_threshold()
gc.set_threshold(400_000, 20, 20)


def collect_as_usual() -> None:
    """Let the garbage collector run as often as Python means it to."""
    gc.set_threshold(*_USUAL)
