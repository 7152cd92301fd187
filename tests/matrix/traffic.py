"""Cancel requests, COPY and pipelines."""

import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from support import BACKENDS, SOON, each, ended, fails, group, one, same, until
from wire import COPY_DONE, FLUSH, SYNC, bind, call, copy_data, copy_fail, execute, parse, query

# ---------------------------------------------------------------------------------------------- cancel

check = group("Cancel requests")


def sleeping(server):
    text = "select count(*) from pg_stat_activity where query like 'select pg_sleep%%' and state = 'active'"
    return one(server, text + " and datname = current_database()")


@check("A cancel request ends its own client's statement, and no other")
def right_one(way):
    server, many = way.server(), way.clients(BACKENDS)
    with ThreadPoolExecutor(BACKENDS) as pool:
        for chosen in range(BACKENDS):
            work = [pool.submit(ended, client, "select pg_sleep(1.2)") for client in many]
            until(lambda: sleeping(server) == BACKENDS, "waits for nothing")
            many[chosen].cancel_safe(timeout=SOON)
            found = [done.result() for done in work]
            same(found[chosen], "57014", "is not cancelled")
            same(found.count("57014"), 1, "cancels another client's")
    same([one(client, "select 1") for client in many], [1] * BACKENDS)


@check("A cancel request of an idle client ends nothing, though others use its backend")
def idle(way):
    server, (first, *others) = way.server(), way.clients(1 + BACKENDS)
    for _ in range(BACKENDS):
        way.elsewhere(one, first, "select 1")
    way.rest()
    with ThreadPoolExecutor(BACKENDS) as pool:
        for holder in others:
            holder.execute("select 1")
        work = [pool.submit(ended, client, "select pg_sleep(1)") for client in others]
        until(lambda: sleeping(server) == BACKENDS, "waits for nothing")
        first.cancel_safe(timeout=SOON)
        same([done.result() for done in work], [None] * BACKENDS, "cancels another client's")
    same(one(first, "select 1"), 1)


@check("A cancel request is carried out while every backend is busy and clients wait")
def full(way):
    server, many = way.server(), way.clients(BACKENDS + 2)
    with ThreadPoolExecutor(len(many)) as pool:
        work = [pool.submit(ended, client, "select pg_sleep(8)") for client in many[:BACKENDS]]
        until(lambda: sleeping(server) == BACKENDS, "waits for nothing")
        waiting = [pool.submit(one, client, "select 1") for client in many[BACKENDS:]]
        time.sleep(0.2)
        many[0].cancel_safe(timeout=SOON)
        same(work[0].result(), "57014", "is not cancelled")
        same([done.result() for done in waiting], [1, 1])
        for client in many[1:BACKENDS]:
            client.cancel_safe(timeout=SOON)


@check("A statement that waits for a backend can be cancelled, and its session goes on")
def waiting(way):
    server, many = way.server(), way.clients(BACKENDS + 1)
    last = many[-1]
    with ThreadPoolExecutor(len(many)) as pool:
        work = [pool.submit(ended, client, "select pg_sleep(7)") for client in many[:BACKENDS]]
        until(lambda: sleeping(server) == BACKENDS, "waits for nothing")
        late = pool.submit(ended, last, "select pg_sleep(8)")
        time.sleep(0.5)
        last.cancel_safe(timeout=SOON)
        until(late.done, "is not cancelled")
        same(late.result(), "57014", "the connection ends" if last.closed else "wrong answer")
        same([done.result() for done in work], [None] * BACKENDS, "cancels another client's")
    same(one(last, "select 1"), 1)


@check("A cancel request with a wrong key ends nothing")
def wrong_key(way):
    server, client = way.server(), way.client()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(ended, client, "select pg_sleep(1)")
        until(lambda: sleeping(server) == 1, "waits for nothing")
        with socket.create_connection(("127.0.0.1", way.port)) as stranger:
            stranger.sendall(struct.pack("!iiii", 16, 80877102, client.info.backend_pid, 12345))
            stranger.settimeout(SOON)
            same(stranger.recv(1), b"")
        same(work.result(), None, "is cancelled")


# ------------------------------------------------------------------------------------------------ COPY

check = group("COPY")


def copied(form):
    def work(i, client):
        client.execute(f"create table t{i} (a int, b text)")
        rows = [(n, f"{i}, \"{n}\"\n\té") for n in range(300)]
        for _ in range(3):
            client.execute(f"truncate t{i}")
            with client.cursor().copy(f"copy t{i} from stdin (format {form})") as copy:
                if form == "csv":
                    copy.write("".join(f'{a},"{b.replace(chr(34), chr(34) * 2)}"\n' for a, b in rows))
                else:
                    copy.set_types(["int4", "text"])
                    for row in rows:
                        copy.write_row(row)
            same(client.execute(f"select a, b from t{i} order by a").fetchall(), rows)
            with client.cursor().copy(f"copy t{i} to stdout (format {form})") as copy:
                first = b"".join(bytes(block) for block in copy)
            client.execute(f"create temp table again (like t{i}) on commit drop")
            client.execute(f"truncate t{i}")
            with client.cursor().copy(f"copy t{i} from stdin (format {form})") as copy:
                copy.write(first)
            same(client.execute(f"select a, b from t{i} order by a").fetchall(), rows)

    return lambda way: each(way.clients(2 * BACKENDS), work)


for form in ("text", "csv", "binary"):
    check(f"COPY in and out, {form}, by more clients than backends")(copied(form))


@check("COPY FROM that fails midway stores nothing and leaves its session and the pool usable")
def fails_midway(way):
    def bad(client):
        with client.cursor().copy("copy t from stdin") as copy:
            for n in range(20000):
                copy.write(f"{n}\n" if n != 500 else "not a number\n")

    many = way.clients(BACKENDS + 2)
    many[0].execute("create table t (a int)")
    for client in many:
        fails("22P02", way.elsewhere, bad, client)
    for client in many:
        same(way.elsewhere(one, client, "select count(*) from t"), 0)
    way.rest()


@check("COPY FROM that the client gives up (CopyFail)")
def given_up(way):
    def give_up(wire):
        wire.send(query("copy t from stdin"), copy_data(b"1\n"), copy_fail("changed my mind"))
        wire.expect("G", "E 57014", "Z I")

    many = [way.wire() for _ in range(BACKENDS + 1)]
    many[0].query("create table t (a int)")
    for wire in many:
        way.elsewhere(give_up, wire)
    same([way.elsewhere(wire.query, "select count(*) from t") for wire in many], ["0"] * len(many))


@check("COPY FROM by the extended protocol")
def extended(way):
    def work(wire, n):
        wire.send(parse("", "copy t from stdin"), bind(""), execute())
        wire.send(FLUSH)
        wire.expect("1", "2", "G")
        wire.send(copy_data(b"%d\n" % n), COPY_DONE, SYNC)
        wire.expect("C COPY 1", "Z I")

    wire = way.wire()
    wire.query("create table t (a int)")
    for n in range(4):
        way.elsewhere(work, wire, n)
    same(way.elsewhere(wire.query, "select sum(a) from t"), "6")


@check("A client that vanishes in the middle of COPY FROM leaves nothing behind, and the pool usable")
def vanishes_in(way):
    way.client().execute("create table t (a int)")
    for _ in range(2 * BACKENDS):
        wire = way.wire()
        wire.send(query("copy t from stdin"))
        wire.expect("G")
        wire.send(copy_data(b"1\n2\n"))
        wire.vanish()
    way.pool_is_whole()
    same(one(way.client(), "select count(*) from t"), 0)


@check("A client that vanishes in the middle of a long COPY TO leaves the pool usable")
def vanishes_out(way):
    for _ in range(2 * BACKENDS):
        wire = way.wire()
        wire.send(query("copy (select repeat('x', 1000) from generate_series(1, 50000)) to stdout"))
        wire.expect("H")
        wire.vanish()
    way.pool_is_whole()


# ----------------------------------------------------------------------------------------- pipelining

check = group("Pipelines and long messages")


def row(n):
    """One statement without a name."""
    return parse("", "select $1::int") + bind("", n) + execute()


@check("A pipeline with an error in the middle: what follows is skipped up to the next Sync, no further")
def error_in_pipeline(way):
    def work(wire, i):
        def insert(n):
            return parse("", f"insert into t values ({i}, {n})") + bind("") + execute()

        wire.send(insert(1), SYNC, insert(2), parse("", "select 1 / 0"), bind(""), execute(), insert(3), SYNC)
        wire.send(insert(4), SYNC)
        wire.expect("1", "2", "C INSERT 0 1", "Z I")
        wire.expect("1", "2", "C INSERT 0 1", "1", "E 22012", "Z I")
        wire.expect("1", "2", "C INSERT 0 1", "Z I")

    many = [way.wire() for _ in range(2 * BACKENDS)]
    many[0].query("create table t (i int, n int)")
    each(many, lambda i, wire: work(wire, i))
    for i, wire in enumerate(many):
        same(way.elsewhere(wire.query, f"select array_agg(n order by n) from t where i = {i}"), "{1,4}")


@check("Five hundred Syncs in flight, by more clients than backends")
def many_syncs(way):
    def work(i, wire):
        sender = threading.Thread(target=wire.send, args=[row(i * 1000 + n) + SYNC for n in range(500)])
        sender.start()
        for n in range(500):
            wire.expect("1", "2", f"D {i * 1000 + n}", "C SELECT 1", "Z I")
        sender.join()

    each([way.wire() for _ in range(2 * BACKENDS)], work)


@check("BEGIN and COMMIT inside a pipeline keep to one backend")
def transaction_in_pipeline(way):
    def work(i, wire):
        def simple(text):
            return parse("", text) + bind("") + execute() + SYNC

        for _ in range(10):
            pid = simple("select pg_backend_pid()")
            wire.send(simple("begin"), pid, pid, pid, simple("commit"))
            pids = {answer for answer in wire.answers(*"ZZZZZ") if answer.startswith("D")}
            same(len(pids), 1)

    each([way.wire() for _ in range(2 * BACKENDS)], work)


@check("Flush: answers come before the Sync")
def flush(way):
    def work(wire, n):
        wire.send(row(n), FLUSH)
        wire.expect("1", "2", f"D {n}", "C SELECT 1")
        wire.send(row(n + 1), FLUSH)
        wire.expect("1", "2", f"D {n + 1}", "C SELECT 1")
        wire.send(SYNC)
        wire.expect("Z I")

    wire = way.wire()
    for n in range(4):
        way.elsewhere(work, wire, n)


@check("Rows in portions (Execute with a limit)")
def portions(way):
    def work(wire):
        wire.send(parse("", "select generate_series(1, 5)"), bind(""), execute(2), execute(2), FLUSH)
        wire.expect("1", "2", "D 1", "D 2", "s", "D 3", "D 4", "s")
        wire.send(execute(2), SYNC)
        wire.expect("D 5", "C SELECT 1", "Z I")

    wire = way.wire()
    for _ in range(3):
        way.elsewhere(work, wire)


@check("Several statements in one simple query, one of which fails")
def several(way):
    def work(i, wire):
        wire.send(query(f"insert into t values ({i}); select 1 / 0; insert into t values ({i})"))
        wire.expect("C INSERT 0 1", "E 22012", "Z I")
        wire.send(query(f"insert into t values ({i}); select {i}; commit; select 1"))
        wire.expect("C INSERT 0 1", "T", f"D {i}", "C SELECT 1", "C COMMIT", "T", "D 1", "C SELECT 1", "Z I")

    many = [way.wire() for _ in range(2 * BACKENDS)]
    many[0].query("create table t (i int)")
    each(many, work)
    same(many[0].query("select count(*) from t"), str(len(many)))


@check("A message that comes a byte at a time")
def bytewise(way):
    wire, other = way.wire(), way.wire()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for n, byte in enumerate(row(7) + SYNC + query("select 8")):
        wire.send(bytes([byte]))
        if n % 10 == 0:
            same(other.query(f"select {n}"), str(n))
        time.sleep(0.001)
    wire.expect("1", "2", "D 7", "C SELECT 1", "Z I", "T", "D 8", "C SELECT 1", "Z I")


@check("A parameter of 20 MB and a result of 40 MB, while others work")
def large(way):
    stop = threading.Event()

    def busy(client):
        while not stop.is_set():
            same(one(client, "select count(*) from generate_series(1, 100)"), 100)

    client, many = way.client(), way.clients(BACKENDS)
    with ThreadPoolExecutor(BACKENDS) as pool:
        work = [pool.submit(busy, other) for other in many]
        try:
            same(one(client, "select length(%s::text)", "x" * 20_000_000), 20_000_000)
            total = sum(len(text) for _, text in client.cursor().stream(
                "select n, repeat('x', 4000) from generate_series(1, 10000) n"))
            same(total, 40_000_000)
        finally:
            stop.set()
        for done in work:
            done.result()


@check("Large objects by libpq's own functions (fast path)")
def large_objects(way):
    def work(wire):
        wire.query("begin")
        # lo_creat(mode), as libpq calls it.
        wire.send(call(957, 0x60000))
        same([answer[0] for answer in wire.answers("Z")], ["V", "Z"])
        wire.query("commit")

    wire = way.wire()
    for _ in range(3):
        way.elsewhere(work, wire)
    same(way.elsewhere(wire.query, "select count(*) from pg_largeobject_metadata"), "3")
