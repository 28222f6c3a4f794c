"""So that `from hotloop.utils.data import DataLoader` works; the same as `hotloop.data`."""

import sys

from hotloop import data

sys.modules[__name__] = data
