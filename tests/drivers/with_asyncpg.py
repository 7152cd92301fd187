"""asyncpg: binary protocol, prepared statements for everything, a pool that resets what it takes back."""

import asyncio
import io
import time
from datetime import datetime, timezone
from decimal import Decimal

import asyncpg
from support import BACKENDS, CLIENTS, OTHER, ROWS, SCHEMA, check, main, raises, same, tenant, until_async

opened = []


class Client(asyncpg.Connection):
    """A connection that remembers whose it is."""

    user = None


async def connect(url=ROWS, **how):
    client = await asyncpg.connect(url, timeout=10, connection_class=Client, **how)
    client.user = tenant(url)
    opened.append(client)
    return client


async def clients(*urls, count=CLIENTS, **how):
    urls = urls or [ROWS]
    return await asyncio.gather(*[connect(urls[i % len(urls)], **how) for i in range(count)])


async def close_all():
    while opened:
        connection = opened.pop()
        connection.terminate()


async def each(many, work):
    return await asyncio.gather(*[work(i, client) for i, client in enumerate(many)])


async def shared(work, *urls, **how):
    return await each(await clients(*(urls or (ROWS, OTHER)), **how), work)


class Busy:
    """Other clients at work until the block ends, and none of them may fail."""

    def __init__(self, url=ROWS, count=8):
        self.url, self.count = url, count

    async def __aenter__(self):
        self.done = False
        many = await clients(self.url, count=self.count)

        async def work(i, client):
            while not self.done:
                same(await client.fetchval("select count(*) from items, pg_sleep(0.001)"), 100)

        self.work = asyncio.ensure_future(each(many, work))

    async def __aexit__(self, *_):
        self.done = True
        await self.work


# ------------------------------------------------------------------------------ sharing and isolation


@check
async def shares_backends():
    async def work(i, client):
        return {await client.fetchval("select pg_backend_pid()") for _ in range(20)}

    found = set().union(*await shared(work))
    if BACKENDS:
        assert 1 <= len(found) <= BACKENDS, f"{len(found)} backends"


@check
async def sees_its_own_rows():
    async def work(i, client):
        for _ in range(30):
            row = await client.fetchrow("select count(*), min(tenant_id), max(tenant_id), sum(id) from items")
            same(tuple(row), (100, client.user, client.user, 5050))

    await shared(work)


@check
async def types_go_there_and_back():
    client = await connect()
    values = [True, 2**40, 1.5, Decimal("12345.678900"), "é€😀", b"\0\xff", [1, None], '{"a": [1, 2]}', None]
    moment = datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=timezone.utc)
    row = await client.fetchrow(
        "select $1::bool, $2::int8, $3::float8, $4::numeric, $5::text, $6::bytea, $7::int[], $8::json, $9::text,"
        " $10::timestamptz",
        *values,
        moment,
    )
    same(list(row), [*values, moment])


@check
async def types_of_a_tenant():
    """asyncpg asks the server about types that it does not know, with settings of its own for it."""
    owner = await connect(SCHEMA)
    await owner.execute("drop type if exists pair; drop type if exists mood")
    await owner.execute("create type mood as enum ('good', 'bad'); create type pair as (a mood[], b int)")

    async def work(i, client):
        for n in range(3):
            row = await client.fetchrow("select $1::mood[] as moods, row(array['bad']::mood[], $2)::pair", ["good"], i)
            same(tuple(row), (["good"], (["bad"], i)))

    await shared(work, SCHEMA)
    await owner.execute("drop type pair; drop type mood")


# -------------------------------------------------------------------------------- prepared statements


@check
async def prepared():
    async def work(i, client):
        statement = await client.prepare("select name, $1::int8 + id as sum from items where id = $2")
        same([p.name for p in statement.get_parameters()], ["int8", "int4"])
        for n in range(50):
            id = (i * 50 + n) % 100 + 1
            same(tuple(await statement.fetchrow(n, id)), (f"{client.user} {id}", n + id))

    await shared(work)


@check
async def prepared_by_cache():
    async def work(i, client):
        for n in range(50):
            same(await client.fetchval("select name from items where id = $1", n + 1), f"{client.user} {n + 1}")
            same(await client.fetchval("select $1::int + max(id) from items", i), i + 100)

    await shared(work, ROWS, SCHEMA)


@check
async def prepared_evicted():
    async def work(i, client):
        for n in range(60):
            same(await client.fetchval(f"select id + {n % 10} from items where id = $1", i + 1), i + 1 + n % 10)

    await shared(work, statement_cache_size=3)


@check
async def prepared_without_cache():
    async def work(i, client):
        for n in range(30):
            same(await client.fetchval("select name from items where id = $1", n + 1), f"{client.user} {n + 1}")

    await shared(work, statement_cache_size=0)


@check
async def prepared_many():
    async def work(i, client):
        found = await client.fetchval("select count(*) from items")
        same(found, 100)
        await client.executemany("select $1::int, id from items where id = $1", [(n,) for n in range(100)])
        statements = [await client.prepare(f"select {n} + $1::int") for n in range(30)]
        for n in reversed(range(30)):
            same(await statements[n].fetchval(i), n + i)

    await shared(work)


@check
async def prepared_by_sql():
    async def work(i, client):
        await client.execute(f"prepare mine(int) as select name || ' {i}' from items where id = $1")
        for n in range(10):
            same(await client.fetchval(f"execute mine({n + 1})"), f"{client.user} {n + 1} {i}")
        await client.execute("deallocate mine")
        with raises("26000"):
            await client.execute("execute mine(1)")

    await shared(work)


@check
async def prepared_again_after_ddl():
    """asyncpg prepares a statement again whose result has changed, by the same text."""
    owner = await connect(SCHEMA)
    await owner.execute("drop table if exists shifting; create table shifting as select 1 as a")
    many = await clients(SCHEMA)

    async def before(i, client):
        for _ in range(3):
            same([tuple(row) for row in await client.fetch("select * from shifting")], [(1,)])

    async def after(i, client):
        for _ in range(5):
            same([tuple(row) for row in await client.fetch("select * from shifting")], [(1, "new")])

    await each(many, before)
    await owner.execute("alter table shifting add b text default 'new'")
    await each(many, after)
    await owner.execute("drop table shifting")


@check
async def deallocate_all_and_prepared_again():
    async def work(i, client):
        for n in range(10):
            for id in (1, 2):
                same(await client.fetchval("select name from items where id = $1", id), f"{client.user} {id}")
            await client.execute("deallocate all")
            with raises("26000"):
                await client.fetchval("select name from items where id = $1", 1)
            await client.reload_schema_state()

    await shared(work)


# ------------------------------------------------------------------------------------------- settings

SHOWN = "select current_setting('TimeZone'), current_setting('application_name'), current_setting('search_path')"


@check
async def settings_kept():
    async def work(i, client):
        await client.execute(f"set timezone to 'Etc/GMT+{i}'; set application_name = 'client {i}'")
        await client.execute(f"set search_path to mine_{i}, public")
        await client.fetchval("select set_config('app.x', $1, false)", str(i))
        for n in range(20):
            row = await client.fetchrow(SHOWN + ", current_setting('app.x')")
            same(tuple(row), (f"Etc/GMT+{i}", f"client {i}", f"mine_{i}, public", str(i)))
            async with client.transaction():
                same(await client.fetchval("show timezone"), f"Etc/GMT+{i}")
        same(client.get_settings().TimeZone, f"Etc/GMT+{i}")

    await shared(work)


@check
async def settings_at_startup():
    async def work(i, client):
        for n in range(10):
            row = await client.fetchrow(SHOWN + ", current_setting('work_mem')")
            same(tuple(row), ("Asia/Colombo", "start", "public", "3MB"))

    settings = {"timezone": "Asia/Colombo", "application_name": "start", "search_path": "public", "work_mem": "3MB"}
    await shared(work, server_settings=settings)


@check
async def settings_local():
    async def work(i, client):
        before = tuple(await client.fetchrow(SHOWN))
        for n in range(10):
            async with client.transaction():
                await client.execute(f"set local timezone to 'Etc/GMT+{i}'; set local app.x to '{n}'")
                same(await client.fetchval("show timezone"), f"Etc/GMT+{i}")
                same(await client.fetchval("select current_setting('app.x')"), str(n))
            same(tuple(await client.fetchrow(SHOWN)), before)
            assert await client.fetchval("select current_setting('app.x', true)") in (None, "")

    await shared(work)


@check
async def settings_rolled_back():
    async def work(i, client):
        await client.execute(f"set timezone to 'Etc/GMT+{i}'")
        for n in range(10):
            transaction = client.transaction()
            await transaction.start()
            await client.execute("set timezone to 'Asia/Colombo'")
            same(await client.fetchval("show timezone"), "Asia/Colombo")
            await transaction.rollback()
            same(await client.fetchval("show timezone"), f"Etc/GMT+{i}")

    await shared(work)


@check
async def settings_reset():
    async def work(i, client):
        for reset in ("reset timezone", "set timezone to default", "reset all", "discard all"):
            await client.execute(f"set timezone to 'Etc/GMT+{i}'")
            same(await client.fetchval("show timezone"), f"Etc/GMT+{i}")
            await client.execute(reset)
            await client.reload_schema_state()
            same(await client.fetchval("show timezone"), "Asia/Colombo")

    await shared(work, server_settings={"timezone": "Asia/Colombo"}, statement_cache_size=0)


@check
async def pool_resets_what_it_takes_back():
    """A pool's release says CLOSE ALL, UNLISTEN *, RESET ALL and unlocks everything."""
    async with asyncpg.create_pool(ROWS, min_size=CLIENTS, max_size=CLIENTS) as pool:

        async def work(i):
            for n in range(5):
                async with pool.acquire() as client:
                    same(await client.fetchval("select name from items where id = $1", i + 1), f"{user} {i + 1}")
                    assert await client.fetchval("select current_setting('app.x', true)") in (None, "")
                    async with client.transaction():
                        await client.execute(f"set local app.x to '{i}'")
                        same(await client.fetchval("select current_setting('app.x')"), str(i))

        user = await pool.fetchval("select tenant_id from items limit 1")
        await asyncio.gather(*[work(i) for i in range(CLIENTS * 2)])


# --------------------------------------------------------------------------------------- transactions


@check
async def transactions():
    async def work(i, client):
        topic = f"transactions {i}"
        await client.execute("delete from notes where topic = $1", topic)
        insert = "insert into notes (topic, id) values ($1, $2)"
        for n in range(10):
            async with client.transaction():
                await client.execute(insert, topic, n)
            try:
                async with client.transaction():
                    await client.execute(insert, topic, 1000)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
        found = await client.fetch("select id from notes where topic = $1 order by id", topic)
        same([row["id"] for row in found], list(range(10)))

    await shared(work)


@check
async def savepoints():
    async def work(i, client):
        topic = f"savepoints {i}"
        await client.execute("delete from notes where topic = $1", topic)
        insert = "insert into notes (topic, id) values ($1, $2)"
        async with client.transaction():
            await client.execute(insert, topic, 1)
            with raises("22012"):
                async with client.transaction():
                    await client.execute(insert, topic, 2)
                    await client.execute("select 1/0")
            async with client.transaction():
                await client.execute(insert, topic, 3)
        found = await client.fetch("select id from notes where topic = $1 order by id", topic)
        same([row["id"] for row in found], [1, 3])

    await shared(work)


@check
async def failed_transaction():
    async def work(i, client):
        await client.execute("begin")
        with raises("42703"):
            await client.fetch("select no_such_column from items")
        with raises("25P02"):
            await client.fetch("select 1")
        same(await client.execute("commit"), "ROLLBACK")
        same(await client.fetchval("select max(id) from items"), 100)

    await shared(work)


@check
async def read_only_and_isolation_levels():
    async def work(i, client):
        for level in ("serializable", "repeatable_read", "read_uncommitted", "read_committed"):
            async with client.transaction(isolation=level):
                same(await client.fetchval("show transaction_isolation"), level.replace("_", " "))
        with raises("25006"):
            async with client.transaction(readonly=True):
                await client.execute("insert into notes (topic) values ('never')")
        async with client.transaction(isolation="serializable", readonly=True, deferrable=True):
            same(await client.fetchval("show transaction_deferrable"), "on")
        same(await client.fetchval("show transaction_read_only"), "off")

    await shared(work)


# ----------------------------------------------------------------------------------------------- COPY


def rows(count):
    return [(f"line {n}", n, None if n % 3 else 'tab\there, "quoted" and \\ too\n') for n in range(count)]


async def copy_there_and_back(how):
    async def work(i, client):
        name = f"copy_{how}_{i}"
        await client.execute(f"drop table if exists {name}; create table {name} (a text, b int, c text)")
        same(await client.copy_records_to_table(name, records=rows(500)), "COPY 500")
        data = io.BytesIO()
        same(await client.copy_from_table(name, output=data, format=how), "COPY 500")
        await client.execute(f"truncate {name}")
        data.seek(0)
        same(await client.copy_to_table(name, source=data, format=how), "COPY 500")
        same([tuple(row) for row in await client.fetch(f"select * from {name} order by b")], rows(500))
        await client.execute(f"drop table {name}")

    await shared(work, SCHEMA)


@check
async def copy_text():
    await copy_there_and_back("text")


@check
async def copy_csv():
    await copy_there_and_back("csv")


@check
async def copy_binary():
    await copy_there_and_back("binary")


@check
async def copy_of_a_query():
    async def work(i, client):
        data = io.BytesIO()
        query = "select id, tenant_id from items where id <= $1 order by id"
        same(await client.copy_from_query(query, 20, output=data, format="csv"), "COPY 20")
        same(data.getvalue().decode(), "".join(f"{n},{client.user}\n" for n in range(1, 21)))

    await shared(work)


@check
async def copy_fails_midway():
    async def broken():
        for n in range(100):
            yield f"x\t{n}\t\\N\n".encode() * 20
        raise ZeroDivisionError

    async def work(i, client):
        name = f"copy_bad_{i}"
        await client.execute(f"drop table if exists {name}; create table {name} (a text, b int, c text)")
        for n in range(3):
            with raises("22P02"):
                await client.copy_to_table(name, source=io.BytesIO(b"x\t1\t\\N\n" * 2000 + b"x\ty\t\\N\n" * 2000))
            try:
                await client.copy_to_table(name, source=broken())
                raise AssertionError("the copy went through")
            except ZeroDivisionError:
                pass
            with raises("22012"):
                query = "select 1/(500 - n) from generate_series(1, 1000) n"
                await client.copy_from_query(query, output=io.BytesIO())
            same(await client.fetchval(f"select count(*) from {name}"), 0)
        await client.execute(f"drop table {name}")

    await shared(work, SCHEMA)


# ------------------------------------------------------------------------------------ LISTEN / NOTIFY


async def listening(client, channel):
    seen = []
    listener = lambda _connection, _pid, channel, payload: seen.append((channel, payload))
    await client.add_listener(channel, listener)
    return seen, listener


@check
async def listen():
    """Heard while the listener does nothing at all."""
    listener, sender = await clients(ROWS, count=2)
    seen, _ = await listening(listener, "news")
    expected = [("news", f"number {n}") for n in range(50)]
    async with Busy():
        for _, payload in expected:
            await sender.execute("select pg_notify('news', $1)", payload)

        async def all_heard():
            return len(seen) >= len(expected)

        await until_async("the last notification", all_heard)
    same(seen, expected)


@check
async def listen_by_more_clients_than_backends():
    listeners, sender = await clients(), await connect()
    heard = [(await listening(client, "crowd"))[0] for client in listeners]
    for n in range(10):
        await sender.execute("select pg_notify('crowd', $1)", str(n))

    async def all_heard():
        return all(len(seen) >= 10 for seen in heard)

    await until_async("the last notification", all_heard)
    same(heard, [[("crowd", str(n)) for n in range(10)]] * CLIENTS)


@check
async def unlisten():
    listener, sender = await clients(ROWS, count=2)
    first, handle = await listening(listener, "first")
    second, _ = await listening(listener, "second")
    await sender.execute("notify first, '1'")
    await sender.execute("notify second, '2'")

    async def both():
        return len(second) == 1

    await until_async("the second notification", both)
    await listener.remove_listener("first", handle)
    await sender.execute("notify first, '3'")
    await sender.execute("notify second, '4'")

    async def more():
        return len(second) == 2

    await until_async("the last notification", more)
    same((first, second), ([("first", "1")], [("second", "2"), ("second", "4")]))


@check
async def listen_is_not_for_other_tenants():
    listeners, senders = await clients(ROWS, OTHER, count=2), await clients(ROWS, OTHER, count=2)
    heard = [(await listening(client, "shared"))[0] for client in listeners]
    for word in ("first", "last"):
        for whose, client in zip(("mine", "theirs"), senders):
            await client.execute(f"notify shared, '{word} of {whose}'")

    async def all_heard():
        return all(("shared", f"last of {whose}") in seen for whose, seen in zip(("mine", "theirs"), heard))

    await until_async("the last notification", all_heard)
    if BACKENDS:
        same(heard, [[("shared", f"{word} of {whose}") for word in ("first", "last")] for whose in ("mine", "theirs")])


# --------------------------------------------------------------------------------------------- cancel


@check
async def cancel():
    sleeper, watcher = await clients(SCHEMA, count=2)
    running = "select count(*) = 1 from pg_stat_activity where state = 'active' and query = $1"
    async with Busy(SCHEMA, 2):
        for n in range(2):
            text = f"select pg_sleep(3{n})"
            begin = time.monotonic()
            sleep = asyncio.ensure_future(sleeper.execute(text))

            async def runs():
                return await watcher.fetchval(running, text)

            await until_async("the sleep", runs)
            sleep.cancel()
            try:
                await sleep
                raise AssertionError("it was not cancelled")
            except asyncio.CancelledError:
                pass
            same(await sleeper.fetchval("select max(id) from items"), 100)

            async def over():
                return not await runs()

            await until_async("the end of the sleep", over)
            assert time.monotonic() - begin < 5, "it took too long"


@check
async def timeout():
    async def work(i, client):
        for n in range(2):
            try:
                await client.execute("select pg_sleep(30)", timeout=0.2)
                raise AssertionError("there was no timeout")
            except asyncio.TimeoutError:
                pass
            same(await client.fetchval("select $1::int", i), i)

    await shared(work, ROWS, count=3)


# --------------------------------------------------------------------------- large, long, and of a session


@check
async def large_result_streamed():
    client = await connect()
    async with Busy():
        count = size = total = 0
        async with client.transaction():
            query = "select n, repeat(md5(n::text), 160) as text from generate_series(1, 10000) n"
            async for row in client.cursor(query, prefetch=200):
                count, total, size = count + 1, total + row["n"], size + len(row["text"])
        same((count, total, size), (10000, 50005000, 10000 * 5120))
        found = await client.fetch(query)
        same((len(found), sum(len(row["text"]) for row in found)), (10000, 10000 * 5120))


@check
async def cursors():
    async def work(i, client):
        async with client.transaction():
            cursor = await client.cursor("select id from items where id > $1 order by id", 10)
            same([row["id"] for row in await cursor.fetch(5)], [11, 12, 13, 14, 15])
            same(await cursor.forward(10), 10)
            same((await cursor.fetchrow())["id"], 26)

    await shared(work)


@check
async def cursors_with_hold():
    client = (await clients(ROWS, count=1))[0]
    async with Busy(ROWS, 6):
        await client.execute("begin; declare held cursor with hold for select id from items order by id; commit")
        for n in range(10):
            same([row["id"] for row in await client.fetch("fetch 10 from held")], list(range(n * 10 + 1, n * 10 + 11)))
        await client.execute("close held")


@check
async def temporary_tables():
    pair = await clients(SCHEMA, count=2)
    async with Busy(SCHEMA, 6):
        for client in pair:
            await client.execute("create temp table scratch (a int)")
        for n in range(20):
            for i, client in enumerate(pair):
                await client.execute("insert into scratch values ($1)", i * 100 + n)
        for i, client in enumerate(pair):
            same(tuple(await client.fetchrow("select min(a), count(*) from scratch")), (i * 100, 20))


@check
async def advisory_locks():
    first, second = await clients(SCHEMA, count=2)
    async with Busy(SCHEMA, 6):
        for n in range(5):
            await first.execute("select pg_advisory_lock(4711)")
            same(await second.fetchval("select pg_try_advisory_lock(4711)"), False)
            same(await first.fetchval("select pg_advisory_unlock(4711)"), True)
            same(await second.fetchval("select pg_try_advisory_lock(4711)"), True)
            same(await second.fetchval("select pg_advisory_unlock(4711)"), True)


@check
async def notices():
    client = await connect()
    seen = []
    client.add_log_listener(lambda _, message: seen.append(message.message))
    await client.execute("do $$ begin for n in 1..3 loop raise notice 'number %', n; end loop; end $$")
    same(seen, ["number 1", "number 2", "number 3"])


main(close_all)
