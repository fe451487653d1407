"""The command line. Its commands are short, and most of their time is importing, which makes no garbage: looking for
some all the while costs a tenth. `tuneloop run`, which lives long, goes back to `USUAL_COLLECTION`."""

import gc

USUAL_COLLECTION = gc.get_threshold()
gc.set_threshold(50_000, 20, 20)
