"""What a site tells of its pools over HTTP: probes, numbers, and the page. See urls.py.

`access` decides who may see and act; `probes` are the answers for programs; `page` is that for
people, of `charts` and what lies in `files`; `acting` is what its buttons do.
"""

from __future__ import annotations
