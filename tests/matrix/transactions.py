"""Transactions, and statements that will not be in one."""

import psycopg
from support import BACKENDS, No, each, fails, group, one, same

check = group("Transactions")


def transaction(client, *texts, begin="begin"):
    client.execute(begin)
    found = [client.execute(text) for text in texts]
    client.execute("commit")
    return [cursor.fetchone()[0] for cursor in found if cursor.description]


@check("More clients than backends, each transaction on one backend, statements in turn on all")
def shares(way):
    def work(i, client):
        found = set()
        for _ in range(20):
            pid = "select pg_backend_pid()"
            pids = transaction(client, pid, pid, pid)
            same(len(set(pids)), 1)
            found.update(pids)
        return found

    many = way.clients(3 * BACKENDS)
    pids = set().union(*each(many, work))
    mine = {way.elsewhere(one, many[0], "select pg_backend_pid()") for _ in range(2 * BACKENDS)}
    if way.name != "direct":
        same((len(pids), len(mine)), (BACKENDS, BACKENDS))


@check("Savepoints")
def savepoints(way):
    def work(i, client):
        for n in range(5):
            client.execute("begin")
            client.execute(f"insert into t values ({i}, {n})")
            client.execute("savepoint a")
            client.execute(f"insert into t values ({i}, 100)")
            fails("22012", client.execute, "select 1 / 0")
            client.execute("rollback to a")
            client.execute("release a")
            client.execute("commit")
        same(one(client, f"select array_agg(n order by n) from t where i = {i}"), list(range(5)))

    many = way.clients(2 * BACKENDS)
    many[0].execute("create table t (i int, n int)")
    each(many, work)


@check("A failed transaction stays failed until its ROLLBACK, and nobody else's does")
def failed(way):
    first, second = way.clients(2)
    for _ in range(3):
        first.execute("begin")
        fails("22012", first.execute, "select 1 / 0")
        same(one(second, "select 1"), 1)
        fails("25P02", first.execute, "select 1")
        first.execute("rollback")
        same(one(first, "select 1"), 1)


@check("A client that vanishes in a transaction: it is rolled back, its locks are free")
def vanishes(way):
    client = way.client()
    client.execute("create table t (a int)")
    for _ in range(2 * BACKENDS):
        wire = way.wire()
        wire.query("begin")
        wire.query("insert into t values (1)")
        wire.query("lock table t")
        wire.vanish()
        client.execute("insert into t values (2)")
    way.pool_is_whole()
    same(one(client, "select array_agg(distinct a) from t"), [2])


@check("SET TRANSACTION, and `BEGIN ISOLATION LEVEL ... READ ONLY`")
def levels(way):
    def read_only(client, text):
        return transaction(client, text, begin="begin isolation level repeatable read read only")

    client = way.client()
    shown = "select current_setting('transaction_isolation') || ' ' || current_setting('transaction_read_only')"
    for _ in range(3):
        text = "set transaction isolation level serializable, read only"
        same(way.elsewhere(transaction, client, text, shown), ["serializable on"])
        same(way.elsewhere(read_only, client, shown), ["repeatable read on"])
        same(way.elsewhere(one, client, shown), "read committed off")


@check("A cursor within a transaction")
def cursors(way):
    def work(i, client):
        for _ in range(3):
            with client.transaction(), client.cursor("c") as cursor:
                cursor.itersize = 7
                cursor.execute(f"select n + {i} from generate_series(1, 50) n")
                same([found[0] for found in cursor], [n + i for n in range(1, 51)])

    each(way.clients(2 * BACKENDS), work)


@check("Two-phase commit: prepared in one session, committed in another")
def two_phase(way):
    first, second = way.clients(2)
    first.execute("create table t (a int)")
    for n in range(4):
        name = f"{way.database}_{n}"

        def prepare():
            first.execute("begin")
            first.execute(f"insert into t values ({n})")
            first.execute(f"prepare transaction '{name}'")

        way.elsewhere(prepare)
        same(way.elsewhere(one, second, "select count(*) from t"), (n + 1) // 2)
        way.elsewhere(second.execute, f"{'rollback' if n % 2 else 'commit'} prepared '{name}'")
    same(way.elsewhere(one, first, "select array_agg(a order by a) from t"), [0, 2])


@check("CALL of a procedure that commits, and DO that does")
def procedures(way):
    def work(i, client):
        client.execute(f"call three({i})")
        client.execute(f"do $$ begin insert into t values ({i}); commit; insert into t values ({i}); end $$")
        same(one(client, f"select count(*) from t where i = {i}"), 5)

    many = way.clients(2 * BACKENDS)
    many[0].execute("create table t (i int)")
    many[0].execute("""create procedure three(i int) language plpgsql as
        $$ begin for n in 1..3 loop insert into t values (i); commit; end loop; end $$""")
    each(many, work)


@check("VACUUM, ANALYZE and REINDEX CONCURRENTLY")
def vacuum(way):
    client = way.client()
    client.execute("create table t as select n as a from generate_series(1, 1000) n")
    client.execute("create index i on t (a)")
    for text in ("vacuum t", "vacuum (full, analyze) t", "analyze t", "reindex index concurrently i"):
        way.elsewhere(client.execute, text)
    same(way.elsewhere(one, client, "select reltuples::int from pg_class where relname = 't'"), 1000)


@check("CREATE INDEX CONCURRENTLY, while others work")
def concurrently(way):
    first, second = way.clients(2)
    first.execute("create table t as select n as a from generate_series(1, 1000) n")
    for n in range(3):
        second.execute("begin")
        second.execute("select 1")
        first.execute(f"create index concurrently i{n} on t (a)")
        second.execute("commit")
    same(one(second, "select count(*) from pg_index where indrelid = 't'::regclass and indisvalid"), 3)


@check("CREATE DATABASE, used at once, and DROP DATABASE when its last client is gone")
def databases(way):
    client, name = way.client(), f"{way.database}_new"
    client.execute(f"create database {name}")
    other = way.client(dbname=name)
    same(one(other, "select current_database()"), name)
    other.close()
    client.execute(f"drop database {name}")


# ------------------------------------------------------------------------------------------------ logins

check = group("Users and logins")


@check("Each user's statements run as that user, also when they take turns")
def users(way):
    many = [way.client(user) for user in ("app", "ann", "bob")]
    for _ in range(4):
        for client in many:
            found = client.execute("select current_user, session_user").fetchone()
            same(found, (client.info.user,) * 2)


@check("A wrong password and an unknown user are refused")
def passwords(way):
    for how in ({"password": "wrong"}, {"user": "nobody_has_this_name"}, {"password": ""}):
        try:
            psycopg.connect(**way.address() | how, connect_timeout=5).close()
        except psycopg.OperationalError:
            continue
        raise No("is let in")
    same(one(way.client(), "select 1"), 1)


@check("A password bound to the TLS channel (SCRAM-SHA-256-PLUS)")
def channel_binding(way):
    client = way.client(sslmode="require", channel_binding="require")
    same(one(client, "select 1"), 1)


@check("A login while every backend is busy")
def busy(way):
    many = way.clients(BACKENDS)
    for client in many:
        client.execute("begin")
        client.execute("select 1")
    late = way.client()
    many[0].execute("commit")
    same(one(late, "select 1"), 1)


@check("A client that connects anew for every statement")
def short(way):
    for n in range(30):
        client = way.client()
        same(one(client, f"select {n}"), n)
        client.close()
    way.pool_is_whole()


@check("Replication connections")
def replication(way):
    client = way.client(replication="database")
    found = client.pgconn.exec_(b"IDENTIFY_SYSTEM")
    same(found.get_value(0, 3), way.database.encode())
