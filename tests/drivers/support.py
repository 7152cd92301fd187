"""What the checks of all Python drivers share: where they connect, and how they tell what came of them.

A check is a function with an assertion that can fail. A script runs those named on its command line, or
all (but those given as `-name`), against the URLs of the environment, whoever is behind them: pgward or
PostgreSQL itself.
"""

import asyncio
import contextlib
import inspect
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

ROWS = os.environ["PGWARD_ROWS"]
OTHER = os.environ["PGWARD_OTHER"]
SCHEMA = os.environ["PGWARD_SCHEMA"]
# How many backends serve all clients; 0 without a proxy.
BACKENDS = int(os.environ.get("PGWARD_BACKENDS", "0"))
CLIENTS = 12
# A check that takes longer hangs.
PATIENCE = 25

_checks = []


def check(function):
    _checks.append(function)
    return function


def tenant(url):
    """The user of a URL, which is what `tenant_id` says."""
    return url.split("//")[1].split(":")[0]


def each(items, work):
    """Runs `work(number, item)` for all at once, in a thread each."""
    with ThreadPoolExecutor(len(items)) as pool:
        return [done.result() for done in [pool.submit(work, i, item) for i, item in enumerate(items)]]


def until(what, condition):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < 10, f"{what} did not happen"
        time.sleep(0.01)


async def until_async(what, condition):
    begin = time.monotonic()
    while not await condition():
        assert time.monotonic() - begin < 10, f"{what} did not happen"
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def raises(sqlstate):
    """The block ends in this error of the server. What it says is in `.error` behind the block."""
    caught = Caught()
    try:
        yield caught
    except Exception as error:
        assert getattr(error, "sqlstate", None) == sqlstate, f"{sqlstate} expected: {error!r}"
        caught.error = error
    else:
        raise AssertionError(f"{sqlstate} expected, and nothing happened")


class Caught:
    error = None


def same(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


def say(*words):
    print(*words, flush=True)


def main(after):
    """`after` closes what a check has opened."""
    asked = [name for name in sys.argv[1:] if not name.startswith("-")]
    checks = [f for f in _checks if (not asked or f.__name__ in asked) and f"-{f.__name__}" not in sys.argv]
    say("#plan", *[function.__name__ for function in checks])
    for function in checks:
        name = function.__name__
        say("#begin", name)
        watch = threading.Timer(PATIENCE, hung, [name])
        watch.start()
        try:
            if inspect.iscoroutinefunction(function):
                asyncio.run(around(function, after))
            else:
                try:
                    function()
                finally:
                    after()
            say("#good", name)
        except BaseException as error:
            say("#bad", name, told(error))
        finally:
            watch.cancel()


async def around(function, after):
    try:
        await function()
    finally:
        await after()


def told(error):
    here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == sys.argv[0]]
    lines = ", ".join(f"line {frame.lineno}" for frame in here)
    state = getattr(error, "sqlstate", None)
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {state or ''} {text} ({lines})"


def hung(name):
    """The rest is run by another process."""
    say("#bad", name, f"hangs for {PATIENCE} s")
    os._exit(3)
