"""Side by side with the peers, in one run: what README claims, this prints.

Run one from the project's root, with the extra `bench` installed:
`python -m bench.pool_micro --help`. Absolute times say little on a shared machine; the ratios
of one run do.
"""

from __future__ import annotations
