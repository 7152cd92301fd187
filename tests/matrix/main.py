"""Runs the checks every way and writes docs/features.md: `main.py PGWARD [GROUP-OR-TITLE...]`."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback

import asyncpg
import psycopg

# In the order of the table.
import prepared
import settings
import state
import traffic
import transactions
import tools
import table
from place import TOP, WAYS, Failed, Place
from support import LIMIT, No, Way, checks


def why(error):
    """The shortest honest reason; None for a fault of the check itself."""
    if isinstance(error, No):
        return str(error)
    state = getattr(error, "sqlstate", None)
    if state:
        return f"{state}, {condition(state)}"
    if isinstance(error, TimeoutError):
        return "hangs"
    if isinstance(error, (psycopg.OperationalError, ConnectionError, asyncpg.InterfaceError)):
        return "the connection ends"
    if isinstance(error, AssertionError):
        return "wrong answer"
    return None


def condition(sqlstate):
    """PostgreSQL's name for it, in words."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "unknown"
    words = "".join(" " + letter.lower() if letter.isupper() else letter for letter in name)
    return words.strip().replace("sql ", "SQL ")


def in_a_process(check, way, answer):
    os.setsid()
    try:
        check.function(way)
        answer.send((None, None))
    except BaseException as error:
        answer.send((why(error), "".join(traceback.format_exception(error))))
    # Clients that were left open end with it, and threads that wait.
    os._exit(0)


def outcome(place, check, name):
    """None when all is well; otherwise the reason, and what is worth reading on the screen."""
    database = place.database()
    way = Way(place, name, place.open(name), database)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=in_a_process, args=(check, way, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(LIMIT):
            return "hangs", ""
        reason, text = receiver.recv()
    except EOFError:
        reason, text = None, "it died"
    finally:
        # What it has started ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    if text is not None and reason is None:
        raise Failed(f"{check.title}, {name}: a fault of the check\n{text}")
    return reason, text


def run(place, asked):
    """Reasons by check and way; None is a yes. The way without a proxy shows that the check is right."""
    found = {}
    for check in asked:
        for name in WAYS:
            reason, text = outcome(place, check, name)
            found[check.title, name] = reason
            print(f"{check.group}: {check.title}: {name}: {'yes' if reason is None else 'no: ' + reason}", flush=True)
            if text and os.environ.get("PGWARD_MATRIX_VERBOSE"):
                print(text, place.log("proxy"), sep="", flush=True)
            if name == "direct" and reason is not None:
                raise Failed(f"{check.title}: PostgreSQL itself does not pass\n{text}")
    return found


def main():
    pgward, *words = sys.argv[1:]
    asked = [check for check in checks if not words or check.title.startswith(tuple(words)) or check.group in words]
    if not asked:
        raise Failed(f"no check begins with {words}")
    if len({check.title for check in checks}) != len(checks):
        raise Failed("two checks have the same title")
    place = Place(pgward)
    try:
        found = run(place, asked)
        if not words:
            with open(f"{TOP}/docs/features.md", "w") as file:
                file.write(table.page(place.versions(), checks, found))
    finally:
        place.close()


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except Failed as failure:
        sys.exit(f"scripts/matrix: {failure}")
