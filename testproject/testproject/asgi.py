"""The site for uvicorn and other ASGI servers: `uvicorn testproject.asgi:application`."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

from django_connpool.contrib.asgi import saying_goodbye

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")

# uvicorn ends without exit handlers: so the connections are closed in order, and not found dead.
application = saying_goodbye(get_asgi_application())
