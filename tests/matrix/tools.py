"""PostgreSQL's programs and two drivers, as they come."""

import asyncio
import os
import tempfile

import asyncpg
import psycopg
from support import BACKENDS, each, group, one, same

check = group("Tools and drivers")

TABLES = """
    create table parents (id int primary key, name text not null default 'x' check (name <> ''));
    create table children (id serial primary key, parent int references parents);
    create view both_of_them as select name, c.id from parents p join children c on c.parent = p.id;
    insert into parents select n, 'name ' || n from generate_series(1, 100) n;
    insert into children (parent) select n from generate_series(1, 100) n;"""


@check("psql: `\\d`, `\\d+ TABLE`, `\\df`, `\\l`")
def psql_describes(way):
    def work(i, _):
        same("both_of_them" in way.psql("\\d\n"), True)
        said = way.tool("psql", "-Xq", script="\\d+ parents\n")
        for part in ("'x'::text", "parents_pkey", "CHECK (name <> ''::text)", "REFERENCES parents(id)"):
            same(part in said, True)
        way.psql("\\df\n\\l\n\\du\n\\dn+\n")

    way.psql(TABLES)
    each(range(BACKENDS + 1), work)


@check("psql: `\\copy` there and back")
def psql_copies(way):
    def work(i, _):
        with tempfile.TemporaryDirectory() as folder:
            rows = "".join(f'{n},"line {n}, ""quoted"""\n' for n in range(500))
            with open(f"{folder}/sent", "w") as file:
                file.write(rows)
            said = way.psql(f"""
                create table t{i} (a int, b text);
                \\copy t{i} from '{folder}/sent' csv
                select sum(a) from t{i};
                \\copy (select * from t{i} order by a) to '{folder}/back' csv
            """)
            same(said, str(sum(range(500))))
            with open(f"{folder}/back") as file:
                same(file.read(), rows)

    each(range(2 * BACKENDS), work)


@check("psql: `\\watch`")
def psql_watches(way):
    def work(i, _):
        way.psql(f"create table t{i} (a int);")
        # It ends by the division, when the fourth look finds three rows.
        look = f"with n as (insert into t{i} values (1)) select 'seen', 1 / (3 - count(*)) from t{i}"
        said = way.tool("psql", "-XqAt", script=f"{look} \\watch 0.05\n")
        same(said.count("seen|"), 3)

    each(range(BACKENDS + 1), work)


@check("psql: `\\gdesc`, `\\gexec` and `ON_ERROR_ROLLBACK`")
def psql_others(way):
    same(way.psql("select 1 as a, 'x'::text as b \\gdesc\n"), "a|integer\nb|text")
    same(way.psql("select 'select ' || n from generate_series(1, 3) n \\gexec\n"), "1\n2\n3")
    text = "\\set ON_ERROR_ROLLBACK on\nbegin;\nselect 1;\nselect 1 / 0;\nselect 2;\ncommit;\nselect 3;\n"
    same(way.tool("psql", "-XqAt", script=text), "1\n2\n3")


@check("pg_dump, and its result read back by psql")
def dumps(way):
    way.psql(TABLES)
    text = way.tool("pg_dump", "--no-owner")
    name = f"{way.database}_copy"
    way.client().execute(f"create database {name}")
    way.tool("psql", "-Xq", "-v", "ON_ERROR_STOP=1", script=text, database=name)
    same(one(way.server(name), "select sum(id) from both_of_them"), 5050)


@check("pg_dump and pg_restore with several jobs")
def dumps_in_parallel(way):
    way.psql(TABLES)
    name = f"{way.database}_copy"
    way.client().execute(f"create database {name}")
    with tempfile.TemporaryDirectory() as folder:
        way.tool("pg_dump", "--no-owner", "-Fd", "-j", "2", "-f", f"{folder}/dump")
        way.tool("pg_restore", "--no-owner", "-j", "2", "-d", name, f"{folder}/dump")
    same(one(way.server(name), "select sum(id) from both_of_them"), 5050)


@check("pg_dump leaves the settings of other clients alone")
def dumps_quietly(way):
    way.psql(TABLES)
    client = way.client()
    same(one(client, "select count(*) from parents"), 100)
    for _ in range(BACKENDS):
        way.elsewhere(way.tool, "pg_dump", "-f", os.devnull)
        for _ in range(BACKENDS):
            shown = way.elsewhere(one, client, "select current_setting('search_path')")
            same(shown, '"$user", public', "leaks to another client")


@check("A dump read back by psql leaves the settings of other clients alone")
def reads_quietly(way):
    way.psql(TABLES)
    client = way.client()
    text = way.tool("pg_dump", "--no-owner", "--clean")
    for _ in range(BACKENDS):
        way.elsewhere(way.psql, text)
        for _ in range(BACKENDS):
            shown = way.elsewhere(one, client, "select current_setting('search_path')")
            same(shown, '"$user", public', "leaks to another client")


def pgbench(mode):
    def work(way):
        way.tool("pgbench", "-i", "-q")
        # A thread a client: pgbench waits for some answers with all clients of a thread.
        way.tool("pgbench", "-n", "-M", mode, "-c", "8", "-j", "8", "-t", "20")
        client = way.client()
        same(one(client, "select count(*) from pgbench_history"), 160)
        same(one(client, "select sum(abalance) - (select sum(delta) from pgbench_history) from pgbench_accounts"), 0)

    return work


for mode in ("simple", "extended", "prepared"):
    check(f"`pgbench -M {mode}`, eight clients")(pgbench(mode))


@check("psycopg 3, which prepares what comes often")
def with_psycopg(way):
    many = [psycopg.connect(**way.address(), autocommit=True) for _ in range(2 * BACKENDS)]
    for n in range(10):
        for i, client in enumerate(many):
            same(way.elsewhere(one, client, f"select %s::int + {i}", n), n + i)


@check("asyncpg, which prepares everything")
def with_asyncpg(way):
    address, loop = way.address(), asyncio.new_event_loop()

    async def connect():
        return await asyncpg.connect(
            host=address["host"], port=way.port, user=address["user"], password=address["password"],
            database=way.database, ssl=False,
        )

    def fetch(client, text, *values):
        return loop.run_until_complete(client.fetchval(text, *values))

    many = [way.elsewhere(loop.run_until_complete, connect()) for _ in range(BACKENDS + 1)]
    for n in range(6):
        for i, client in enumerate(many):
            same(way.elsewhere(fetch, client, f"select $1::int + {i}", n), n + i)
    for client in many:
        # What its pool does with a connection that is given back.
        way.elsewhere(loop.run_until_complete, client.reset())
