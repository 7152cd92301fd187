"""What the checks share: how they connect, how clients meet each other's backends, what counts as a no.

A check is a function that is given a `Way` and returns when the feature is there.
"""

import itertools
import os
import select
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from typing import Callable, NamedTuple

import psycopg
import wire
from place import BACKENDS

# A check that takes longer hangs.
LIMIT = 25
# How long something may take that is soon done, or else never.
SOON = 4


class No(Exception):
    """The feature is not there. The text is the reason that goes into the table."""


class Check(NamedTuple):
    group: str
    title: str
    function: Callable


checks: list[Check] = []


def group(name):
    """Decorators for the checks of one part of the table."""

    def titled(title):
        def listed(function):
            checks.append(Check(name, title, function))
            return function

        return listed

    return titled


def same(found, expected, reason="wrong answer"):
    if found != expected:
        raise No(reason) from AssertionError(f"{found!r} instead of {expected!r}")


def one(client, text, *values):
    return client.execute(text, values or None).fetchone()[0]


def fails(sqlstate, work, *arguments):
    """The work must end in this error."""
    try:
        work(*arguments)
    except (psycopg.Error, wire.Refused) as error:
        if error.sqlstate != sqlstate:
            raise
    else:
        raise No("an error is missing") from AssertionError(f"{sqlstate} expected, and nothing happened")


def ended(client, text):
    """SQLSTATE of a statement, or None when it came to its end."""
    try:
        client.execute(text)
    except psycopg.Error as error:
        return error.sqlstate or "the connection ends"
    return None


def each(items, work):
    """Runs `work(number, item)` for all at once."""
    with ThreadPoolExecutor(len(items)) as pool:
        return [done.result() for done in [pool.submit(work, i, item) for i, item in enumerate(items)]]


def until(condition, reason):
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > SOON:
            raise No(reason)
        time.sleep(0.02)


class Way:
    """To a database of the check's own: straight, or through a proxy."""

    def __init__(self, place, name, port, database):
        self.place, self.name, self.port, self.database = place, name, port, database
        self.rotation = None

    def address(self, user="app"):
        return {
            "host": "127.0.0.1", "port": self.port, "user": user, "dbname": self.database,
            "password": self.place.password, "sslmode": "disable",
        }

    def client(self, user="app", **how):
        """One that prepares nothing by itself."""
        settings = self.address(user) | {"connect_timeout": 10} | how
        try:
            return psycopg.connect(**settings, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            raise No("the login is refused") from error

    def clients(self, count, **how):
        return [self.client(**how) for _ in range(count)]

    def wire(self, **how):
        return wire.Wire(self.client(**how))

    def server(self, database=None):
        """Its superuser's view, past all proxies."""
        return self.place.connected(database or self.database)

    def elsewhere(self, work, *arguments):
        """Does the work, which is at most a transaction, on another backend than the time before, unless its
        session keeps one."""
        if self.rotation is None:
            self.rotation = Rotation(self)
        return self.rotation.let(work, *arguments)

    def rest(self):
        """The backends are free again, until there is work to do elsewhere."""
        if self.rotation is not None:
            self.rotation.end()
            self.rotation = None

    def pool_is_whole(self):
        """All backends can be had at the same time."""
        self.rest()
        many = self.clients(BACKENDS)
        for client in many:
            client.execute("begin")
        same(len({one(client, "select pg_backend_pid()") for client in many}), BACKENDS)
        for client in many:
            client.execute("commit")
            client.close()

    def tool(self, name, *arguments, script="", database=None):
        """What one of PostgreSQL's programs prints."""
        address = self.address()
        environment = {
            "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PSQLRC": "/dev/null", "PGHOST": address["host"],
            "PGPORT": str(self.port), "PGUSER": address["user"], "PGDATABASE": database or self.database,
            "PGPASSWORD": address["password"], "PGSSLMODE": "disable", "PGCONNECT_TIMEOUT": "10",
        }
        done = subprocess.run(
            [f"{self.place.bin}/{name}", *arguments], env=environment, input=script, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise No(f"{name} ends with an error") from AssertionError(done.stderr[-500:])
        return done.stdout.strip()

    def psql(self, script):
        return self.tool("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", script=script)


class Rotation:
    """Holds every backend in a transaction and lets one client at a time through, each time at another one.

    What a client does then is on a backend that is known, whatever order a proxy has for its idle ones.
    """

    def __init__(self, way):
        self.way = way
        self.worker = ThreadPoolExecutor(1)
        self.holders = []
        # So that two or three clients in turn do not come back each to its own.
        self.order = itertools.cycle([(round + n) % BACKENDS for round in range(BACKENDS) for n in range(BACKENDS)])

    def let(self, work, *arguments):
        self.fill()
        done = self.worker.submit(work, *arguments)
        holder = self.holders[next(self.order) % len(self.holders)]
        holder.release()
        try:
            return done.result(timeout=2 * SOON)
        except TimeoutError:
            raise No("hangs") from None
        finally:
            holder.take()

    def fill(self):
        """A session that keeps its backend leaves fewer of them to hold."""
        for holder in list(self.holders):
            if not holder.holds():
                self.drop(holder)
        while len(self.holders) < BACKENDS:
            self.holders.append(Holder(self.way.client()))
            if not self.holders[-1].holds():
                self.drop(self.holders[-1])
                break
        if not self.holders:
            raise No("no backend is left for other clients")

    def drop(self, holder):
        holder.client.close()
        self.holders.remove(holder)

    def end(self):
        while self.holders:
            self.drop(self.holders[-1])


class Holder:
    """A client with an open transaction."""

    def __init__(self, client):
        self.client, self.holding = client, False
        self.take()

    def take(self):
        self.client.pgconn.send_query(b"begin")

    def holds(self):
        """Waits until it does, or cannot for now."""
        deadline = time.monotonic() + 0.5
        pgconn = self.client.pgconn
        while not self.holding:
            if not select.select([pgconn.socket], [], [], max(0, deadline - time.monotonic()))[0]:
                return False
            pgconn.consume_input()
            if not pgconn.is_busy():
                while pgconn.get_result() is not None:
                    pass
                if pgconn.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
                    return False
                self.holding = True
        return True

    def release(self):
        self.client.pgconn.exec_(b"rollback")
        self.holding = False
