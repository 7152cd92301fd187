"""psycopg 3 with asyncio: the same engine as the blocking one's, but many clients in one thread."""

import asyncio
import time

import psycopg
from support import BACKENDS, CLIENTS, OTHER, ROWS, SCHEMA, check, main, raises, same, until_async

opened = []


async def connect(url=ROWS, **settings):
    client = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10, **settings)
    opened.append(client)
    return client


async def clients(*urls, count=CLIENTS, **settings):
    urls = urls or [ROWS]
    return await asyncio.gather(*[connect(urls[i % len(urls)], **settings) for i in range(count)])


async def close_all():
    while opened:
        await opened.pop().close()


async def each(many, work):
    return await asyncio.gather(*[work(i, client) for i, client in enumerate(many)])


async def shared(work, *urls, **settings):
    return await each(await clients(*(urls or (ROWS, OTHER)), **settings), work)


async def one(client, text, values=None, **how):
    return (await (await client.execute(text, values, **how)).fetchone())[0]


class Busy:
    """Other clients at work until the block ends, and none of them may fail."""

    def __init__(self, url=ROWS, count=8):
        self.url, self.count = url, count

    async def __aenter__(self):
        self.done = False
        many = await clients(self.url, count=self.count)

        async def work(i, client):
            while not self.done:
                same(await one(client, "select count(*) from items, pg_sleep(0.001)"), 100)

        self.work = asyncio.ensure_future(each(many, work))

    async def __aexit__(self, *_):
        self.done = True
        await self.work


@check
async def shares_backends():
    async def work(i, client):
        return {await one(client, "select pg_backend_pid()") for _ in range(20)}

    found = set().union(*await shared(work))
    if BACKENDS:
        assert 1 <= len(found) <= BACKENDS, f"{len(found)} backends"


@check
async def prepared():
    async def work(i, client):
        for n in range(50):
            id = (i * 50 + n) % 100 + 1
            query = "select name, %s::int8 + id from items where id = %s"
            row = await (await client.execute(query, (n, id), prepare=True)).fetchone()
            same(row, (f"{client.info.user} {id}", n + id))

    await shared(work)


@check
async def prepared_evicted():
    async def work(i, client):
        client.prepare_threshold, client.prepared_max = 0, 3
        for n in range(60):
            same(await one(client, f"select id + {n % 10} from items where id = %s", (i + 1,)), i + 1 + n % 10)

    await shared(work)


@check
async def settings_kept():
    async def work(i, client):
        await client.execute(f"set timezone to 'Etc/GMT+{i}'")
        await client.execute(f"set app.x to '{i}'")
        for n in range(20):
            same(await one(client, "select current_setting('app.x') || current_setting('timezone')"), f"{i}Etc/GMT+{i}")

    await shared(work)


@check
async def settings_local():
    async def work(i, client):
        before = await one(client, "show timezone")
        for n in range(10):
            async with client.transaction():
                await client.execute(f"set local timezone to 'Etc/GMT+{i}'")
                same(await one(client, "show timezone"), f"Etc/GMT+{i}")
            same(await one(client, "show timezone"), before)

    await shared(work)


@check
async def transactions():
    async def work(i, client):
        topic = f"transactions {i}"
        await client.execute("delete from notes where topic = %s", (topic,))
        insert = "insert into notes (topic, id) values (%s, %s)"
        for n in range(10):
            async with client.transaction():
                await client.execute(insert, (topic, n))
                async with client.transaction(force_rollback=True):
                    await client.execute(insert, (topic, 1000))
            async with client.transaction(force_rollback=True):
                await client.execute(insert, (topic, 2000))
            with raises("22012"):
                async with client.transaction():
                    await client.execute(insert, (topic, 3000))
                    await client.execute("select 1/0")
        found = await one(client, "select array_agg(id order by id) from notes where topic = %s", (topic,))
        same(found, list(range(10)))

    await shared(work)


async def copy_there_and_back(how):
    rows = [(f"line {n}", n, None if n % 3 else 'tab\there, "quoted" and \\ too\n') for n in range(500)]

    async def work(i, client):
        name = f"copy_{how}_{i}"
        await client.execute(f"drop table if exists {name}")
        await client.execute(f"create table {name} (a text, b int, c text)")
        cursor = client.cursor()
        async with cursor.copy(f"copy {name} from stdin with (format {how})") as copy:
            copy.set_types(["text", "int4", "text"])
            for row in rows if how != "csv" else []:
                await copy.write_row(row)
            for a, b, c in rows if how == "csv" else []:
                c = "" if c is None else '"' + c.replace('"', '""') + '"'
                await copy.write(f"{a},{b},{c}\n")
        same(cursor.rowcount, 500)
        async with client.cursor().copy(f"copy {name} to stdout with (format {how})") as copy:
            data = b"".join([bytes(part) async for part in copy])
        await client.execute(f"truncate {name}")
        async with client.cursor().copy(f"copy {name} from stdin with (format {how})") as copy:
            await copy.write(data)
        same(await (await client.execute(f"select * from {name} order by b")).fetchall(), rows)
        with raises("22P02" if how != "binary" else "22P04"):
            async with client.cursor().copy(f"copy {name} from stdin with (format {how})") as copy:
                await copy.write(b"x\ty\tz\n" if how == "text" else b"x,y,z\n" * 1000)
        same(await one(client, f"select count(*) from {name}"), 500)
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
async def listen():
    listener, sender = await clients(ROWS, count=2)
    await listener.execute("listen news")
    expected = [f"number {n}" for n in range(50)]
    async with Busy():
        for payload in expected:
            await sender.execute("select pg_notify('news', %s)", (payload,))
        heard = [notify.payload async for notify in listener.notifies(timeout=10, stop_after=50)]
    same(heard, expected)


@check
async def cancel():
    sleeper, watcher = await clients(SCHEMA, count=2)
    running = "select count(*) from pg_stat_activity where state = 'active' and query = %s"
    async with Busy(SCHEMA, 2):
        for n, how in enumerate(["cancel_safe", "task"]):
            text = f"select pg_sleep(3{n})"
            begin = time.monotonic()
            sleep = asyncio.ensure_future(sleeper.execute(text))

            async def runs():
                return await one(watcher, running, (text,)) == 1

            await until_async("the sleep", runs)
            if how == "task":
                sleep.cancel()
                try:
                    await sleep
                    raise AssertionError("it was not cancelled")
                except asyncio.CancelledError:
                    pass
            else:
                await sleeper.cancel_safe()
                with raises("57014"):
                    await sleep
            assert time.monotonic() - begin < 5, "it took too long"
            same(await one(sleeper, "select max(id) from items"), 100)


@check
async def pipeline():
    async def work(i, client):
        topic = f"pipeline {i}"
        await client.execute("delete from notes where topic = %s", (topic,))
        for round in range(4):
            async with client.pipeline():
                query = "select name, %s::int from items where id = %s"
                cursors = [await client.execute(query, (i, n), prepare=True) for n in range(1, 31)]
                for n in range(10):
                    await client.execute("insert into notes (topic, id) values (%s, %s)", (topic, n))
                found = [await cursor.fetchone() for cursor in cursors]
            same(found, [(f"{client.info.user} {n}", i) for n in range(1, 31)])
            with raises("22012"):
                async with client.pipeline():
                    await client.execute("insert into notes (topic, id) values (%s, 1000)", (topic,), prepare=False)
                    await client.execute("select 1/%s", (0,), prepare=False)
        same(await one(client, "select sum(id) from notes where topic = %s", (topic,)), 180)

    await shared(work)


@check
async def large_result_streamed():
    client = await connect()
    async with Busy():
        count = size = 0
        query = "select n, repeat(md5(n::text), 160) from generate_series(1, 10000) n"
        async for n, text in client.cursor().stream(query):
            count, size = count + 1, size + len(text)
        same((count, size), (10000, 10000 * 5120))


@check
async def server_side_cursors():
    async def work(i, client):
        async with client.transaction():
            async with client.cursor("mine") as cursor:
                cursor.itersize = 9
                await cursor.execute("select id from items where id > %s order by id", (i,))
                same([row[0] async for row in cursor], list(range(i + 1, 101)))

    await shared(work)


main(close_all)
