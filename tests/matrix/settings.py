"""Settings of a session."""

import os

from support import BACKENDS, ended, group, one, same

check = group("Settings")
LEAKS = "leaks to another client"


def show(client, name):
    return one(client, "select current_setting(%s, true)", name)


def kept(way, values, rounds=2 * BACKENDS):
    """Each of these clients has its own value, wherever it goes."""
    for _ in range(rounds):
        for client, name, value in values:
            same(way.elsewhere(show, client, name), value, "is lost")


def clean(way, client, name, value, rounds=2 * BACKENDS):
    """What another client did is nowhere to be seen."""
    for _ in range(rounds):
        same(way.elsewhere(show, client, name) or "", value, LEAKS)


@check("SET stays with its session")
def stays(way):
    many = way.clients(3)
    for i, client in enumerate(many):
        way.elsewhere(client.execute, f"set work_mem = '{i + 5}MB'")
    kept(way, [(client, "work_mem", f"{i + 5}MB") for i, client in enumerate(many)])


@check("SET is not seen by another session")
def not_seen(way):
    first, second = way.clients(2)
    for _ in range(3):
        way.elsewhere(first.execute, "set app.tenant = 'acme'")
        way.elsewhere(first.execute, "set statement_timeout = '7s'")
    third = way.client()
    for client in (second, third):
        clean(way, client, "app.tenant", "")
        clean(way, client, "statement_timeout", "0")


@check("`SET search_path`: names lead to the session's own schema")
def search_path(way):
    many = way.clients(2)
    for i, client in enumerate(many):
        client.execute(f"create schema mine_{i}")
        client.execute(f"create table mine_{i}.t as select {i} as a")
    for i, client in enumerate(many):
        way.elsewhere(client.execute, f"set search_path = mine_{i}")
    for _ in range(3):
        for i, client in enumerate(many):
            same(way.elsewhere(one, client, "select a from t"), i)


@check("SET in a transaction that is rolled back has no effect")
def rolled_back(way):
    def transaction():
        first.execute("begin")
        first.execute("set work_mem = '7MB'")
        same(show(first, "work_mem"), "7MB")
        first.execute("rollback")

    first, second = way.clients(2)
    for _ in range(3):
        way.elsewhere(transaction)
    for client in (first, second):
        clean(way, client, "work_mem", "4MB")


@check("SET LOCAL lasts for its transaction")
def local(way):
    def transaction():
        first.execute("begin")
        first.execute("set local work_mem = '7MB'")
        same(show(first, "work_mem"), "7MB")
        first.execute("commit")

    first, second = way.clients(2)
    for _ in range(3):
        way.elsewhere(transaction)
    for client in (first, second):
        clean(way, client, "work_mem", "4MB")


@check("`set_config(..., false)` in a SELECT stays with its session, and with no other")
def set_config(way):
    many = way.clients(2)
    for i, client in enumerate(many):
        way.elsewhere(client.execute, f"select set_config('app.x', '{i}', false), 1 as other")
    kept(way, [(client, "app.x", str(i)) for i, client in enumerate(many)])
    clean(way, way.client(), "app.x", "")


@check("SET SESSION CHARACTERISTICS stays with its session, and with no other")
def characteristics(way):
    first, second = way.clients(2)
    way.elsewhere(first.execute, "set session characteristics as transaction read only, isolation level serializable")
    kept(way, [(first, "transaction_read_only", "on"), (first, "transaction_isolation", "serializable")])
    clean(way, second, "transaction_read_only", "off")


@check("SET ROLE stays with its session, and with no other")
def role(way):
    first, second = way.clients(2)
    way.elsewhere(first.execute, "set role ann")
    for _ in range(2 * BACKENDS):
        same(way.elsewhere(one, first, "select current_user"), "ann", "is lost")
        same(way.elsewhere(one, second, "select current_user"), "app", LEAKS)


@check("RESET, RESET ALL and DISCARD ALL give back what the session began with")
def reset(way):
    many = way.clients(3, application_name="began so")
    for client, how in zip(many, ["reset application_name", "reset all", "discard all"]):
        way.elsewhere(client.execute, "set application_name = 'went so'")
        same(way.elsewhere(show, client, "application_name"), "went so", "is lost")
        way.elsewhere(client.execute, how)
    kept(way, [(client, "application_name", "began so") for client in many])


@check("Settings in `options` at startup (`-c name=value`)")
def options(way):
    many = [way.client(options=f"-c work_mem={i + 5}MB -c search_path=mine_{i}") for i in range(3)]
    kept(way, [(client, "work_mem", f"{i + 5}MB") for i, client in enumerate(many)])
    kept(way, [(client, "search_path", f"mine_{i}") for i, client in enumerate(many)])


@check("`application_name`, `TimeZone`, `DateStyle` and `client_encoding` at startup")
def startup(way):
    many = []
    for i, (style, encoding) in enumerate([("German, DMY", "LATIN1"), ("SQL, MDY", "UTF8")]):
        # libpq's names for what it sends at startup.
        os.environ.update(PGTZ=f"Etc/GMT+{i}", PGDATESTYLE=style)
        many.append(way.client(application_name=f"client {i}", client_encoding=encoding))
    for i, (style, encoding) in enumerate([("German, DMY", "LATIN1"), ("SQL, MDY", "UTF8")]):
        values = {"TimeZone": f"Etc/GMT+{i}", "application_name": f"client {i}"}
        values |= {"DateStyle": style, "client_encoding": encoding}
        kept(way, [(many[i], name, value) for name, value in values.items()])


@check("The client is told of a changed setting (ParameterStatus), and of no other client's")
def told(way):
    many = way.clients(2)
    for i, client in enumerate(many):
        way.elsewhere(client.execute, f"set timezone = 'Etc/GMT+{i + 1}'")
    for _ in range(4):
        for i, client in enumerate(many):
            same(way.elsewhere(show, client, "TimeZone"), f"Etc/GMT+{i + 1}", "is lost")
            same(client.info.parameter_status("TimeZone"), f"Etc/GMT+{i + 1}", "the wrong one is told")


@check("`SET statement_timeout` ends a statement on every backend, and no other client's")
def statement_timeout(way):
    first, second = way.clients(2)
    way.elsewhere(first.execute, "set statement_timeout = '100ms'")
    for _ in range(3):
        same(way.elsewhere(ended, first, "select pg_sleep(1)"), "57014", "is lost")
        same(way.elsewhere(ended, second, "select pg_sleep(0.3)"), None, LEAKS)
