"""What makes the tiny project one whose views query in every way there is."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "ways.py": """
from settings import *
MIDDLEWARE = [*MIDDLEWARE, "tiny.middleware.Async", "tiny.middleware.Sync", "tiny.middleware.Async"]
ROOT_URLCONF = "tiny.ways"
LOGGING = {"version": 1, "disable_existing_loggers": False}
""",
    "asgi.py": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "ways"
from django.core.asgi import get_asgi_application
from django_connpool.contrib.asgi import saying_goodbye
application = saying_goodbye(get_asgi_application())
""",
    "wsgi.py": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "ways"
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
""",
    "tiny/middleware.py": """
from asgiref.sync import markcoroutinefunction

class Sync:
    async_capable = False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

class Async:
    sync_capable = True
    async_capable = True

    def __init__(self, get_response):
        from asgiref.sync import iscoroutinefunction
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request):
        if self.is_async:
            return self.later(request)
        return self.get_response(request)

    async def later(self, request):
        return await self.get_response(request)
""",
    "tiny/ways.py": """
import asyncio, os, threading, time
from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
import django_connpool
from tiny.models import Note

tasks = set()

def query(tag=0, seconds=0.005):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s), %s::int", [seconds, tag])
        return cursor.fetchone()[1]

def several(tag=0):
    query(tag)
    with transaction.atomic():
        query(tag)
        assert query(tag) == tag
    return query(tag)

def answer(tag):
    return HttpResponse(str(tag))

def sync(request, tag):
    return answer(several(tag))

async def sensitive(request, tag):
    await sync_to_async(several)(tag)
    await asyncio.sleep(0.002)
    return answer(await sync_to_async(query)(tag))

async def any_thread(request, tag):
    await sync_to_async(several, thread_sensitive=False)(tag)
    await asyncio.sleep(0.002)
    return answer(await sync_to_async(query, thread_sensitive=False)(tag))

async def to_thread(request, tag):
    await asyncio.to_thread(several, tag)
    await asyncio.sleep(0.002)
    return answer(await asyncio.to_thread(query, tag))

async def gathered(request, tag):
    found = await asyncio.gather(
        *(asyncio.to_thread(query, tag) for _ in range(3)), sync_to_async(several)(tag)
    )
    assert set(found) == {tag}
    return answer(tag)

async def background(request, tag):
    async def work():
        await asyncio.sleep(0.02)
        await asyncio.to_thread(several, tag)
    task = asyncio.create_task(work())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return answer(await sync_to_async(query)(tag))

async def sse(request):
    async def messages():
        number = 0
        while True:
            number += 1
            yield f"data: {await sync_to_async(query)(number, 0)}\\n\\n"
            await asyncio.sleep(0.05 if request.GET.get("fast") else 3600)
    return StreamingHttpResponse(messages(), content_type="text/event-stream")

async def arows(request):
    async def rows():
        async for note in Note.objects.order_by("pk").aiterator(chunk_size=10):
            yield f"{note.text}\\n"
    return StreamingHttpResponse(rows())

def rows(request):
    def lines():
        for note in Note.objects.order_by("pk").iterator(chunk_size=10):
            yield f"{note.text}\\n"
    return StreamingHttpResponse(lines())

def idle_stream(request):
    def lines():
        yield f"{query(1, 0)}\\n"
        for _ in range(int(request.GET.get("times", 1))):
            time.sleep(0.2)
            yield "still here\\n"
    return StreamingHttpResponse(lines())

def slow(request):
    return answer(query(0, 10))

def fill(request):
    from django.core.management import call_command
    call_command("migrate", "--run-syncdb", verbosity=0)
    Note.objects.bulk_create(Note(text="x" * 20_000) for _ in range(2000))
    return answer(0)

def status(request):
    snapshot = connection.pool.snapshot()
    return JsonResponse({
        "pid": os.getpid(), "in_use": snapshot["in_use"], "loans": snapshot["loans"],
        "size": snapshot["size"], "stats": snapshot["stats"], "tasks": len(tasks),
        "threads": threading.active_count(),
    })

views = [sync, sensitive, any_thread, to_thread, gathered, background]
urlpatterns = [path(f"{view.__name__}/<int:tag>/", view) for view in views] + [
    path(f"{view.__name__}/", view) for view in (sse, arows, rows, idle_stream, slow, fill, status)
]
""",
}

WAYS = ["sync", "sensitive", "any_thread", "to_thread", "gathered", "background"]


def add(project: Path) -> Path:
    """Write it into the tiny project and return its folder."""
    for name, text in FILES.items():
        (project / name).write_text(text.lstrip())
    return project
