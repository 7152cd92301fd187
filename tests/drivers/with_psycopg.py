"""psycopg 3 with blocking connections, a thread for each client."""

import threading
import time
from datetime import date
from decimal import Decimal

import psycopg
from psycopg import sql
from support import BACKENDS, CLIENTS, OTHER, ROWS, SCHEMA, check, each, main, raises, same, tenant, until

opened = []


def connect(url=ROWS, **settings):
    connection = psycopg.connect(url, autocommit=True, connect_timeout=10, **settings)
    opened.append(connection)
    return connection


def clients(*urls, count=CLIENTS, **settings):
    """So many clients, of these tenants in turn."""
    urls = urls or [ROWS]
    return [connect(urls[i % len(urls)], **settings) for i in range(count)]


def close_all():
    while opened:
        opened.pop().close()


def one(connection, text, values=None, **how):
    return connection.execute(text, values, **how).fetchone()[0]


def user(connection):
    return connection.info.user


# ------------------------------------------------------------------------------ sharing and isolation


@check
def shares_backends():
    def work(i, client):
        return {one(client, "select pg_backend_pid()") for _ in range(20)}

    for urls in [(ROWS, OTHER), (SCHEMA,)]:
        pids = set().union(*each(clients(*urls), work))
        if BACKENDS:
            assert 1 <= len(pids) <= BACKENDS, f"{len(pids)} backends"
        else:
            same(len(pids), CLIENTS)
        close_all()


@check
def sees_its_own_rows():
    def work(i, client):
        for _ in range(30):
            row = client.execute("select count(*), min(tenant_id), max(tenant_id), sum(id) from items").fetchone()
            same(row, (100, user(client), user(client), 5050))

    each(clients(ROWS, OTHER), work)


@check
def types_go_there_and_back():
    client = connect()
    values = (True, 2**40, 1.5, Decimal("12345.678900"), "é€😀", b"\x00\xff", date(2024, 2, 29), [1, None, 3], None)
    for binary in (False, True):
        row = client.execute(
            "select %s::bool, %s::int8, %s::float8, %s::numeric, %s::text, %s::bytea, %s::date, %s::int[], %s::text",
            values,
            binary=binary,
        ).fetchone()
        same(row, values)


# -------------------------------------------------------------------------------- prepared statements


@check
def prepared():
    def work(i, client):
        for n in range(50):
            id = (i * 50 + n) % 100 + 1
            row = client.execute("select name, %s::int8 + id from items where id = %s", (n, id), prepare=True).fetchone()
            same(row, (f"{user(client)} {id}", n + id))
        same(len(client._prepared._names), 1)

    each(clients(ROWS, OTHER), work)


@check
def prepared_at_once_by_threshold():
    def work(i, client):
        client.prepare_threshold = 0
        for n in range(50):
            same(one(client, "select name from items where id = %s", (n + 1,)), f"{user(client)} {n + 1}")
            same(one(client, "select %s::text || tenant_id from items where id = 1", (f"{i} ",)), f"{i} {user(client)}")

    each(clients(ROWS, SCHEMA), work)


@check
def prepared_in_transactions():
    def work(i, client):
        for n in range(25):
            with client.transaction():
                for id in (n + 1, n + 2):
                    row = client.execute("select id from items where id = %s", (id,), prepare=True).fetchone()
                    same(row, (id,))

    each(clients(ROWS, OTHER), work)


@check
def prepared_evicted():
    def work(i, client):
        client.prepare_threshold = 0
        client.prepared_max = 3
        for n in range(60):
            same(one(client, f"select id + {n % 10} from items where id = %s", (i + 1,)), i + 1 + n % 10)
        assert len(client._prepared._names) <= 3

    each(clients(ROWS, OTHER), work)


@check
def prepared_forgotten_on_rollback():
    """psycopg sends DEALLOCATE ALL when it sees a ROLLBACK."""

    def work(i, client):
        client.prepare_threshold = 0
        for n in range(10):
            for id in (1, 2):
                same(one(client, "select name from items where id = %s", (id,)), f"{user(client)} {id}")
            client.execute("begin")
            same(one(client, "select id from items where id = %s", (i + 1,)), i + 1)
            client.execute("rollback")

    each(clients(ROWS, OTHER), work)


@check
def prepared_deallocated_by_name():
    def work(i, client):
        for n in range(10):
            name = f"mine_{n % 3}"
            prepared = client.pgconn.prepare(name.encode(), f"select {i} + $1::int".encode())
            same(prepared.status, psycopg.pq.ExecStatus.COMMAND_OK)
            for k in range(3):
                result = client.pgconn.exec_prepared(name.encode(), [str(k).encode()])
                same((result.status, result.get_value(0, 0)), (psycopg.pq.ExecStatus.TUPLES_OK, str(i + k).encode()))
            client.execute(f"deallocate {name}")
            result = client.pgconn.exec_prepared(name.encode(), [b"1"])
            same(result.error_field(psycopg.pq.DiagnosticField.SQLSTATE), b"26000")

    each(clients(ROWS, OTHER), work)


@check
def prepared_by_sql():
    def work(i, client):
        client.execute(f"prepare mine(int) as select name || ' {i}' from items where id = $1")
        for n in range(20):
            same(one(client, f"execute mine({n + 1})"), f"{user(client)} {n + 1} {i}")
        client.execute("deallocate mine")
        with raises("26000"):
            client.execute("execute mine(1)")
        client.execute(f"prepare mine(int) as select $1 + {i}")
        same(one(client, "execute mine(1)"), i + 1)

    each(clients(ROWS, OTHER), work)


@check
def prepared_again_after_ddl():
    """A changed result may fail once for each client; prepared anew, it works on every backend."""
    owner = connect(SCHEMA)
    owner.execute("drop table if exists shifting")
    owner.execute("create table shifting as select 1 as a")
    many = clients(SCHEMA)

    def before(i, client):
        for _ in range(3):
            same(client.execute("select * from shifting", prepare=True).fetchall(), [(1,)])

    def after(i, client):
        try:
            client.execute("select * from shifting", prepare=True)
        except psycopg.errors.FeatureNotSupported as error:
            assert "cached plan must not change result type" in str(error), str(error)
            # The next time it gets another name.
            client._prepared._names.clear()
        for _ in range(5):
            same(client.execute("select * from shifting", prepare=True).fetchall(), [(1, "new")])

    each(many, before)
    owner.execute("alter table shifting add b text default 'new'")
    each(many, after)
    owner.execute("drop table shifting")


@check
def prepared_survives_other_ddl():
    owner = connect(SCHEMA)
    owner.execute("drop table if exists growing")
    owner.execute("create table growing as select n as a from generate_series(1, 10) n")
    many = clients(SCHEMA)

    def work(i, client):
        for _ in range(3):
            same(client.execute("select sum(a) from growing where a > %s", (0,), prepare=True).fetchone(), (55,))

    each(many, work)
    owner.execute("alter table growing add b int")
    owner.execute("create index on growing (a)")
    each(many, work)
    owner.execute("drop table growing")


# ------------------------------------------------------------------------------------------- settings

SHOWN = "select current_setting('TimeZone'), current_setting('application_name'), current_setting('search_path')"


@check
def settings_kept():
    def work(i, client):
        zone, name, path = f"Etc/GMT+{i}", f"client {i}", f"mine_{i}, public"
        client.execute(sql.SQL("set timezone to {}").format(zone))
        client.execute(sql.SQL("set application_name = {}").format(name))
        client.execute(f"set search_path to mine_{i}, public")
        client.execute("select set_config('app.x', %s, false)", (str(i),))
        for n in range(20):
            same(client.execute(SHOWN + ", current_setting('app.x')").fetchone(), (zone, name, path, str(i)))
            with client.transaction():
                same(one(client, "show timezone"), zone)
                same(one(client, "select extract(timezone_hour from timestamptz '2024-01-01')::int"), -i)
        same(client.info.parameter_status("TimeZone"), zone)

    each(clients(ROWS, OTHER), work)


@check
def settings_at_startup():
    def work(i, client):
        for n in range(10):
            row = client.execute(SHOWN + ", current_setting('work_mem')").fetchone()
            same(row, (f"Etc/GMT+{i}", f"start {i}", "public", f"{i + 1}MB"))

    options = "-c timezone=Etc/GMT+{0} -c search_path=public -c work_mem={1}MB"
    many = [
        connect((ROWS, OTHER)[i % 2], application_name=f"start {i}", options=options.format(i, i + 1))
        for i in range(CLIENTS)
    ]
    each(many, work)


@check
def settings_local():
    def work(i, client):
        before = client.execute(SHOWN).fetchone()
        for n in range(15):
            with client.transaction():
                client.execute(f"set local timezone to 'Etc/GMT+{i}'")
                client.execute("select set_config('app.local', %s, true)", (f"{i} {n}",))
                same(one(client, "show timezone"), f"Etc/GMT+{i}")
                same(one(client, "select current_setting('app.local')"), f"{i} {n}")
            same(client.execute(SHOWN).fetchone(), before)
            assert one(client, "select current_setting('app.local', true)") in (None, "")

    each(clients(ROWS, OTHER), work)


@check
def settings_rolled_back():
    def work(i, client):
        client.execute(f"set timezone to 'Etc/GMT+{i}'")
        for n in range(10):
            with client.transaction(force_rollback=True):
                client.execute("set timezone to 'Asia/Colombo'")
                client.execute("set app.x to 'undone'")
                same(one(client, "show timezone"), "Asia/Colombo")
            same(one(client, "show timezone"), f"Etc/GMT+{i}")
            assert one(client, "select current_setting('app.x', true)") in (None, "")
            with client.transaction():
                client.execute("set timezone to 'Asia/Colombo'")
                with client.transaction(force_rollback=True):
                    client.execute("set timezone to 'Asia/Kolkata'")
                client.execute(f"set timezone to 'Etc/GMT+{(i + n) % 12}'")
            same(one(client, "show timezone"), f"Etc/GMT+{(i + n) % 12}")
            client.execute(f"set timezone to 'Etc/GMT+{i}'")

    each(clients(ROWS, OTHER), work)


@check
def settings_reset():
    def work(i, client):
        start = f"Etc/GMT+{i}"
        same(one(client, "show timezone"), start)
        for reset in ("reset timezone", "set timezone to default", "reset all", "discard all"):
            client.execute("set timezone to 'Asia/Colombo'")
            client.execute("set app.x to 'set'")
            same(one(client, "show timezone"), "Asia/Colombo")
            client.execute(reset)
            same(one(client, "show timezone"), start)
            same(one(client, "select current_setting('app.x')"), "" if "all" in reset else "set")
            client.execute("reset app.x")

    many = [connect((ROWS, OTHER)[i % 2], options=f"-c timezone=Etc/GMT+{i}") for i in range(CLIENTS)]
    each(many, work)


# --------------------------------------------------------------------------------------- transactions


@check
def transactions():
    def work(i, client):
        topic = f"transactions {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        for n in range(10):
            with client.transaction():
                client.execute("insert into notes (topic, id) values (%s, %s)", (topic, n))
                same(one(client, "select count(*) from notes where topic = %s", (topic,)), n + 1)
            try:
                with client.transaction():
                    client.execute("insert into notes (topic, id) values (%s, 1000)", (topic,))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            same(one(client, "select count(*) from notes where topic = %s", (topic,)), n + 1)
        same(one(client, "select sum(id) from notes where topic = %s", (topic,)), 45)

    each(clients(ROWS, OTHER), work)


@check
def savepoints():
    def work(i, client):
        topic = f"savepoints {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        insert = "insert into notes (topic, id) values (%s, %s)"
        with client.transaction():
            client.execute(insert, (topic, 1))
            with client.transaction():
                client.execute(insert, (topic, 2))
            with client.transaction(force_rollback=True):
                client.execute(insert, (topic, 3))
            with raises("22012"):
                with client.transaction():
                    client.execute("select 1/0")
            client.execute(insert, (topic, 4))
        rows = client.execute("select id from notes where topic = %s order by id", (topic,)).fetchall()
        same(rows, [(1,), (2,), (4,)])

    each(clients(ROWS, OTHER), work)


@check
def failed_transaction():
    def work(i, client):
        client.execute("begin")
        with raises("42703"):
            client.execute("select no_such_column from items")
        same(client.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
        for _ in range(3):
            with raises("25P02"):
                client.execute("select 1")
        same(client.execute("commit").statusmessage, "ROLLBACK")
        same(client.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
        same(one(client, "select max(id) from items"), 100)

    each(clients(ROWS, OTHER), work)


@check
def implicit_transactions():
    """Without autocommit, as most programs use psycopg."""

    def work(i, client):
        client.autocommit = False
        topic = f"implicit {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        client.execute("insert into notes (topic, id) values (%s, 1)", (topic,))
        client.commit()
        client.execute("insert into notes (topic, id) values (%s, 2)", (topic,))
        client.rollback()
        same(one(client, "select array_agg(id) from notes where topic = %s", (topic,)), [1])
        client.commit()

    each(clients(ROWS, OTHER), work)


@check
def read_only():
    def work(i, client):
        client.read_only = True
        with raises("25006"):
            with client.transaction():
                same(one(client, "show transaction_read_only"), "on")
                client.execute("insert into notes (topic) values ('never')")
        client.read_only = None
        with client.transaction():
            same(one(client, "show transaction_read_only"), "off")

    each(clients(ROWS, OTHER), work)


@check
def isolation_levels():
    def work(i, client):
        for n in range(8):
            for level in psycopg.IsolationLevel:
                client.isolation_level = level
                with client.transaction():
                    same(one(client, "show transaction_isolation"), level.name.lower().replace("_", " "))
            client.isolation_level = None
            with client.transaction():
                same(one(client, "show transaction_isolation"), "read committed")

    each(clients(ROWS, OTHER), work)


@check
def nothing_is_lost_between_writers():
    owner = connect(SCHEMA)
    owner.execute("delete from notes where topic = 'counter'")
    owner.execute("insert into notes (topic, id) values ('counter', 0)")

    def work(i, client):
        for _ in range(10):
            with client.transaction():
                before = one(client, "select id from notes where topic = 'counter' for update")
                client.execute("update notes set id = %s where topic = 'counter'", (before + 1,))

    each(clients(SCHEMA), work)
    same(one(owner, "select id from notes where topic = 'counter'"), CLIENTS * 10)


# ----------------------------------------------------------------------------------------------- COPY


def copied(rows):
    return [(f"line {n}", n, None if n % 3 else "tab\there, \"quoted\" and \\ too\n") for n in range(rows)]


def copy_table(client, name):
    client.execute(f"drop table if exists {name}")
    client.execute(f"create table {name} (a text, b int, c text)")


def copy_there_and_back(way):
    def work(i, client):
        name = f"copy_{way.split()[0]}_{i}"
        copy_table(client, name)
        rows = copied(500)
        with client.cursor() as cursor:
            with cursor.copy(f"copy {name} from stdin") as copy:
                for row in rows:
                    copy.write_row(row)
            same(cursor.rowcount, 500)
        with client.cursor().copy(f"copy {name} to stdout with (format {way})") as copy:
            data = b"".join(bytes(part) for part in copy)
        client.execute(f"truncate {name}")
        with client.cursor() as cursor:
            with cursor.copy(f"copy {name} from stdin with (format {way})") as copy:
                for at in range(0, len(data), 777):
                    copy.write(data[at : at + 777])
            same(cursor.rowcount, 500)
        same(client.execute(f"select * from {name} order by b").fetchall(), rows)
        client.execute(f"drop table {name}")

    each(clients(SCHEMA), work)


@check
def copy_text():
    copy_there_and_back("text")


@check
def copy_csv():
    copy_there_and_back("csv")


@check
def copy_binary():
    copy_there_and_back("binary")


@check
def copy_out_of_shared_tables():
    def work(i, client):
        with client.cursor().copy("copy (select id, tenant_id from items order by id) to stdout") as copy:
            rows = [tuple(row) for row in copy.rows()]
        same(rows, [(str(n), user(client)) for n in range(1, 101)])
        # PostgreSQL's own word about COPY FROM and row security, also in a prepared statement's guise.
        if BACKENDS:
            with raises("0A000"):
                with client.cursor().copy("copy notes (topic) from stdin") as copy:
                    copy.write(b"x\n")
        same(one(client, "select 1"), 1)

    each(clients(ROWS, OTHER), work)


@check
def copy_fails_midway():
    def work(i, client):
        name = f"copy_bad_{i}"
        copy_table(client, name)
        for n in range(3):
            with raises("22P02"):
                with client.cursor().copy(f"copy {name} from stdin") as copy:
                    for row in copied(2000):
                        copy.write_row(row)
                    copy.write(b"x\tnot a number\t\\N\n")
            same(one(client, f"select count(*) from {name}"), 0)
            try:
                with client.cursor().copy(f"copy {name} from stdin") as copy:
                    for row in copied(100):
                        copy.write_row(row)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            same(client.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
            same(one(client, f"select count(*) from {name}"), 0)
            with raises("22012"):
                with client.cursor().copy("copy (select 1/(500 - n) from generate_series(1, 1000) n) to stdout") as copy:
                    for _ in copy:
                        pass
            same(one(client, "select max(id) from items"), 100)
        client.execute(f"drop table {name}")

    each(clients(SCHEMA), work)


# ------------------------------------------------------------------------------------ LISTEN / NOTIFY


class Busy:
    """Other clients at work until the block ends, and none of them may fail."""

    def __init__(self, url=ROWS, count=8):
        self.many = clients(url, count=count)

    def __enter__(self):
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.failed = None
        self.thread.start()
        return self

    def run(self):
        def work(i, client):
            while not self.stop.is_set():
                same(one(client, "select count(*) from items, pg_sleep(0.001)"), 100)

        try:
            each(self.many, work)
        except BaseException as error:
            self.failed = error

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if self.failed:
            raise self.failed


def heard(client, count, seconds=10):
    return [(n.channel, n.payload) for n in client.notifies(timeout=seconds, stop_after=count)]


@check
def listen():
    listener, sender = connect(), connect()
    listener.execute("listen news")
    with Busy():
        for n in range(50):
            sender.execute("select pg_notify('news', %s)", (f"number {n}",))
        sender.execute("notify news, 'rolled in'")
        with sender.transaction(force_rollback=True):
            sender.execute("notify news, 'rolled back'")
        sender.execute("notify news")
        expected = [("news", f"number {n}") for n in range(50)] + [("news", "rolled in"), ("news", "")]
        same(heard(listener, len(expected)), expected)


@check
def listen_while_at_work():
    """A listener that goes on with queries loses none."""
    listener, sender = connect(), connect()
    seen = []
    listener.add_notify_handler(lambda notify: seen.append(notify.payload))
    listener.execute("listen work")
    with Busy():
        for n in range(30):
            sender.execute("select pg_notify('work', %s)", (str(n),))
            same(one(listener, "select id from items where id = %s", (n + 1,)), n + 1)
        until("the last notification", lambda: listener.execute("select 1") and len(seen) >= 30)
    same(seen, [str(n) for n in range(30)])


@check
def listen_by_more_clients_than_backends():
    listeners, sender = clients(), connect()
    each(listeners, lambda i, client: client.execute("listen crowd"))
    for n in range(10):
        sender.execute("select pg_notify('crowd', %s)", (str(n),))
    found = each(listeners, lambda i, client: heard(client, 10))
    same(found, [[("crowd", str(n)) for n in range(10)]] * CLIENTS)


@check
def unlisten():
    listener, sender = connect(), connect()
    listener.execute("listen first")
    listener.execute("listen second")
    sender.execute("notify first, '1'")
    same(heard(listener, 1), [("first", "1")])
    listener.execute("unlisten first")
    sender.execute("notify first, '2'")
    sender.execute("notify second, '3'")
    same(heard(listener, 1), [("second", "3")])
    listener.execute("unlisten *")
    sender.execute("notify second, '4'")
    listener.execute("listen third")
    sender.execute("notify third, '5'")
    same(heard(listener, 1), [("third", "5")])


@check
def listen_is_not_for_other_tenants():
    """PostgreSQL's channels belong to the database; a tenant's are its own behind pgward."""
    mine, others = connect(ROWS), connect(OTHER)
    mine.execute("listen shared")
    others.execute("listen shared")
    connect(ROWS).execute("notify shared, 'mine'")
    connect(OTHER).execute("notify shared, 'theirs'")
    if BACKENDS:
        same(heard(mine, 1), [("shared", "mine")])
        same(heard(others, 1), [("shared", "theirs")])
        same(heard(mine, 1, 0.2), [])
        same(heard(others, 1, 0.2), [])
    else:
        same(heard(others, 2), [("shared", "mine"), ("shared", "theirs")])


# --------------------------------------------------------------------------------------------- cancel


def runs(watcher, text):
    found = "select count(*) from pg_stat_activity where state = 'active' and query = %s"
    return one(watcher, found, (text,)) == 1


@check
def cancel():
    sleeper, watcher = connect(SCHEMA), connect(SCHEMA)
    with Busy(SCHEMA, 2):
        for n, how in enumerate([sleeper.cancel, sleeper.cancel_safe]):
            text = f"select pg_sleep(3{n})"
            begin = time.monotonic()

            def end():
                until("the sleep", lambda: runs(watcher, text))
                how()

            thread = threading.Thread(target=end)
            thread.start()
            with raises("57014"):
                sleeper.execute(text)
            thread.join()
            assert time.monotonic() - begin < 5, "it took too long"
            same(one(sleeper, "select max(id) from items"), 100)


@check
def statement_timeout():
    client = connect(SCHEMA, options="-c statement_timeout=200")
    with raises("57014"):
        client.execute("select pg_sleep(30)")
    same(one(connect(SCHEMA), "select 1 from pg_sleep(0.3)"), 1)
    same(one(client, "show statement_timeout"), "200ms")


# ----------------------------------------------------------------------------------------- pipelining


@check
def pipeline():
    def work(i, client):
        topic = f"pipeline {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        with client.pipeline():
            cursors = [client.execute("select name, %s::int from items where id = %s", (i, n)) for n in range(1, 51)]
            for n in range(20):
                client.execute("insert into notes (topic, id) values (%s, %s)", (topic, n))
        same([cursor.fetchone() for cursor in cursors], [(f"{user(client)} {n}", i) for n in range(1, 51)])
        same(one(client, "select sum(id) from notes where topic = %s", (topic,)), 190)

    each(clients(ROWS, OTHER), work)


@check
def pipeline_with_prepared():
    def work(i, client):
        client.prepare_threshold = 0
        for round in range(5):
            with client.pipeline():
                cursors = [client.execute("select name from items where id = %s", (n,)) for n in range(1, 21)]
            same([cursor.fetchone()[0] for cursor in cursors], [f"{user(client)} {n}" for n in range(1, 21)])

    each(clients(ROWS, OTHER), work)


@check
def pipeline_with_transactions():
    def work(i, client):
        topic = f"piped {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        with client.pipeline():
            with client.transaction():
                client.execute("insert into notes (topic, id) values (%s, 1)", (topic,))
            with client.transaction(force_rollback=True):
                client.execute("insert into notes (topic, id) values (%s, 2)", (topic,))
            with client.transaction():
                client.execute("insert into notes (topic, id) values (%s, 3)", (topic,))
        same(one(client, "select array_agg(id order by id) from notes where topic = %s", (topic,)), [1, 3])

    each(clients(ROWS, OTHER), work)


@check
def pipeline_with_an_error_in_it():
    def work(i, client):
        topic = f"broken {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        insert = "insert into notes (topic, id) values (%s, %s)"
        # What psycopg prepares behind an error it takes for prepared; so this is prepared before, the rest never.
        client.execute(insert, (topic, -1), prepare=True)
        client.prepare_threshold = None
        for n in range(8):
            with raises("22012"):
                with client.pipeline() as pipeline:
                    client.execute(insert, (topic, n), prepare=True)
                    pipeline.sync()
                    client.execute(insert, (topic, 1000), prepare=True)
                    client.execute("select 1/%s", (0,))
                    client.execute(insert, (topic, 1001), prepare=True)
            same(client.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
            with client.pipeline():
                same(one(client, "select %s::int", (n,)), n)
        found = one(client, "select array_agg(id order by id) from notes where topic = %s", (topic,))
        same(found, list(range(-1, 8)))

    each(clients(ROWS, OTHER), work)


@check
def executemany():
    def work(i, client):
        topic = f"many {i}"
        client.execute("delete from notes where topic = %s", (topic,))
        with client.cursor() as cursor:
            insert = "insert into notes (topic, id) values (%s, %s) returning id"
            cursor.executemany(insert, [(topic, n) for n in range(100)], returning=True)
            found = [results.fetchone()[0] for results in cursor.results()]
        same(found, list(range(100)))

    each(clients(ROWS, OTHER), work)


# ------------------------------------------------------------------------------------- large and long


@check
def large_result_streamed():
    """50 MB, while others are at work."""
    client = connect()
    with Busy():
        count = size = total = 0
        query = "select n, repeat(md5(n::text), 160) from generate_series(1, 10000) n"
        for n, text in client.cursor().stream(query, size=1):
            count, total, size = count + 1, total + n, size + len(text)
        same((count, total, size), (10000, 50005000, 10000 * 5120))
    same(one(client, "select 1"), 1)


@check
def large_parameter():
    client = connect()
    text = "é" * 5_000_000
    same(one(client, "select md5(%s::text)", (text,)), one(client, "select md5(repeat('é', 5000000))"))


@check
def large_result_given_up():
    client = connect()
    for row in client.cursor().stream("select repeat('x', 1000) from generate_series(1, 20000)"):
        break
    same(one(client, "select max(id) from items"), 100)


# --------------------------------------------------------------------------------- state of a session


@check
def temporary_tables():
    with Busy(SCHEMA, 6):
        pair = clients(SCHEMA, count=2)
        for i, client in enumerate(pair):
            client.execute("create temp table scratch (a int)")
        for n in range(20):
            for i, client in enumerate(pair):
                client.execute("insert into scratch values (%s)", (i * 100 + n,))
        for i, client in enumerate(pair):
            same(client.execute("select min(a), count(*) from scratch").fetchone(), (i * 100, 20))
            client.execute("drop table scratch")
            with raises("42P01"):
                client.execute("select * from scratch")


@check
def temporary_tables_of_a_transaction():
    def work(i, client):
        with client.transaction():
            client.execute("create temp table brief on commit drop as select %s::int as a", (i,))
            same(one(client, "select a from brief"), i)
        with raises("42P01"):
            client.execute("select * from brief")

    each(clients(SCHEMA), work)


@check
def advisory_locks():
    first, second = clients(SCHEMA, count=2)
    with Busy(SCHEMA, 6):
        for n in range(5):
            first.execute("select pg_advisory_lock(4711)")
            for _ in range(5):
                same(one(second, "select pg_try_advisory_lock(4711)"), False)
                same(one(first, "select pg_try_advisory_lock(4711)"), True)
                same(one(first, "select pg_advisory_unlock(4711)"), True)
            same(one(first, "select pg_advisory_unlock(4711)"), True)
            same(one(second, "select pg_try_advisory_lock(4711)"), True)
            same(one(second, "select pg_advisory_unlock(4711)"), True)


@check
def advisory_locks_of_transactions():
    first, second = clients(SCHEMA, count=2)
    with first.transaction():
        first.execute("select pg_advisory_xact_lock(4712)")
        same(one(second, "select pg_try_advisory_xact_lock(4712)"), False)
    same(one(second, "select pg_try_advisory_xact_lock(4712)"), True)


@check
def cursors_with_hold():
    with Busy(ROWS, 6):
        with psycopg.ServerCursor(connect(), "held", withhold=True) as cursor:
            cursor.execute("select id from items order by id")
            same([cursor.fetchmany(10) for _ in range(10)], [[(n * 10 + k,) for k in range(1, 11)] for n in range(10)])
            same(cursor.fetchone(), None)


@check
def server_side_cursors():
    def work(i, client):
        with client.transaction():
            with client.cursor("mine", scrollable=True) as cursor:
                cursor.itersize = 7
                cursor.execute("select id from items order by id")
                same([row[0] for row in cursor], list(range(1, 101)))
                cursor.scroll(50, mode="absolute")
                same(cursor.fetchone(), (51,))

    each(clients(ROWS, OTHER), work)


@check
def notices():
    client = connect()
    seen = []
    client.add_notice_handler(lambda notice: seen.append(notice.message_primary))
    client.execute("do $$ begin for n in 1..3 loop raise notice 'number %', n; end loop; end $$")
    same(seen, ["number 1", "number 2", "number 3"])


@check
def several_statements_at_once():
    client = connect()
    with client.cursor() as cursor:
        cursor.execute("select 1 as a; select 2, 3; update items set price = price where false; select 4 where false")
        found = []
        while True:
            found.append((cursor.statusmessage, cursor.fetchall() if cursor.description else None))
            if not cursor.nextset():
                break
    same(found, [("SELECT 1", [(1,)]), ("SELECT 1", [(2, 3)]), ("UPDATE 0", None), ("SELECT 0", [])])


@check
def errors_tell_all():
    client = connect(SCHEMA)
    client.execute("create table if not exists strict (a int primary key check (a > 0))")
    with raises("23514") as caught:
        client.execute("insert into strict values (%s)", (-1,))
    found = caught.error.diag
    same((found.table_name, found.constraint_name, found.severity_nonlocalized), ("strict", "strict_a_check", "ERROR"))
    with raises("42601") as caught:
        client.execute("select wrong from from items")
    same(caught.error.diag.statement_position, "19")
    client.execute("drop table strict")


@check
def many_short_connections():
    def work(i, url):
        for n in range(5):
            with psycopg.connect(url) as client:
                same(one(client, "select tenant_id from items where id = %s", (n + 1,)), tenant(url))

    each([ROWS, OTHER, SCHEMA] * 4, work)


main(close_all)
