"""What PostgreSQL keeps in one backend, and a session expects to find again."""

import time

from psycopg.errors import UndefinedTable
from support import BACKENDS, SOON, No, fails, group, one, same, until

check = group("What lives in one backend")
LEAKS = "leaks to another client"


@check("A temporary table is there in its session's later transactions")
def temporary(way):
    many = way.clients(2)
    for i, client in enumerate(many):
        way.elsewhere(client.execute, f"create temp table t as select {i} as a")
    for n in range(4):
        for i, client in enumerate(many):
            way.elsewhere(client.execute, f"insert into t values ({i})")
            same(way.elsewhere(one, client, "select array_agg(a) from t"), [i] * (n + 2))


@check("A temporary table is not seen by another session")
def temporary_of_another(way):
    first, second = way.clients(2)
    way.elsewhere(first.execute, "create temp table t as select 1 as a")
    for _ in range(2 * BACKENDS):
        try:
            way.elsewhere(second.execute, "select * from t")
        except UndefinedTable:
            continue
        raise No(LEAKS)


@check("A backend serves others again when the temporary table is dropped")
def temporary_dropped(way):
    for client in way.clients(2 * BACKENDS):
        client.execute("begin")
        client.execute("create temp table t (a int)")
        client.execute("commit")
        client.execute("drop table t")
    way.pool_is_whole()


@check("Temporary tables in more sessions at a time than there are backends")
def temporary_in_many(way):
    many = way.clients(BACKENDS + 2)
    for i, client in enumerate(many):
        client.execute(f"create temp table t as select {i} as a")
    for i, client in enumerate(many):
        same(one(client, "select a from t"), i)


@check("A cursor WITH HOLD is read in later transactions")
def held(way):
    many = way.clients(2)
    for i, client in enumerate(many):
        text = f"declare c cursor with hold for select {i}00 + n from generate_series(1, 9) n"
        way.elsewhere(client.execute, text)
    for n in range(4):
        for i, client in enumerate(many):
            same(way.elsewhere(one, client, "fetch c"), i * 100 + n + 1)
    for client in many:
        way.elsewhere(client.execute, "close c")
    fails("34000", way.elsewhere, many[0].execute, "fetch c")


@check("A session's advisory lock keeps every other session out")
def locked(way):
    first, second = way.clients(2)
    way.elsewhere(first.execute, "select pg_advisory_lock(1)")
    for _ in range(2 * BACKENDS):
        same(way.elsewhere(one, second, "select pg_try_advisory_lock(1)"), False, "another client gets it too")
    same(way.elsewhere(one, first, "select pg_advisory_unlock(1)"), True)
    same(way.elsewhere(one, second, "select pg_try_advisory_lock(1)"), True)


@check("A session's advisory lock can be released in a later transaction")
def unlocked(way):
    first, second = way.clients(2)
    for _ in range(2):
        way.elsewhere(first.execute, "select pg_advisory_lock(1)")
        same(way.elsewhere(one, first, "select pg_advisory_unlock(1)"), True, "is not found")
        same(way.elsewhere(one, second, "select pg_try_advisory_lock(1)"), True)
        same(way.elsewhere(one, second, "select pg_advisory_unlock(1)"), True, "is not found")


@check("A session's advisory lock is free when the session ends, or its client vanishes")
def lock_ends(way):
    server = way.server()
    for end in ("close", "vanish"):
        wire = way.wire()
        wire.query("select pg_advisory_lock(1)")
        if end == "close":
            wire.client.close()
        else:
            wire.vanish()
        until(lambda: one(server, "select pg_try_advisory_lock(1)"), "stays locked")
        server.execute("select pg_advisory_unlock(1)")


@check("`currval` and `lastval` in a later transaction")
def sequences(way):
    many = way.clients(2)
    many[0].execute("create sequence s")
    for n in range(3):
        values = [way.elsewhere(one, client, "select nextval('s')") for client in many]
        for client, value in zip(many, values):
            same(way.elsewhere(one, client, "select currval('s')"), value)
            same(way.elsewhere(one, client, "select lastval()"), value)


# ---------------------------------------------------------------------------------------------- notifications

check = group("Notifications")


@check("LISTEN: a waiting client gets what others notify")
def listens(way):
    listener, *others = way.clients(3)
    way.elsewhere(listener.execute, "listen news")
    for n in range(4):
        way.elsewhere(others[n % 2].execute, f"notify news, '{n}'")
    found = [notify.payload for notify in listener.notifies(timeout=SOON, stop_after=4)]
    same(found, ["0", "1", "2", "3"], "nothing arrives" if not found else "wrong answer")


@check("LISTEN: no other client gets the notification")
def listens_alone(way):
    listener, *others = way.clients(3)
    heard = []
    for client in others:
        client.add_notify_handler(heard.append)
    way.elsewhere(listener.execute, "listen news")
    for n in range(BACKENDS):
        for client in others:
            way.elsewhere(client.execute, f"notify news, '{n}'")
    way.rest()
    time.sleep(0.2)
    for client in others:
        client.execute("select 1")
    same(heard, [], LEAKS)


@check("UNLISTEN ends it")
def unlistens(way):
    listener, other = way.clients(2)
    for _ in range(2):
        way.elsewhere(listener.execute, "listen news")
        way.elsewhere(other.execute, "notify news")
        same(len(list(listener.notifies(timeout=SOON, stop_after=1))), 1, "nothing arrives")
        way.elsewhere(listener.execute, "unlisten news")
        way.elsewhere(other.execute, "notify news")
        same(list(listener.notifies(timeout=0.3)), [])
    way.pool_is_whole()


@check("More clients that listen than there are backends")
def many_listen(way):
    many = way.clients(BACKENDS + 2)
    for client in many:
        client.execute("listen news")
    way.client().execute("notify news")
    found = [len(list(client.notifies(timeout=1, stop_after=1))) for client in many]
    same(found, [1] * len(many), "nothing arrives at some")
