"""Prepared statements, by the protocol and by SQL."""

from support import fails, group, one, same
from wire import SYNC, Refused, bind, close, describe, execute, parse

check = group("Prepared statements")


@check("A named statement of the protocol, used in later transactions")
def named(way):
    wire = way.wire()
    way.elsewhere(wire.prepare, "s", "select $1::int + 1")
    for n in range(6):
        same(way.elsewhere(wire.run, "s", n), str(n + 1))


@check("The same name for another text in each of several clients")
def same_name(way):
    wires = [way.wire() for _ in range(5)]
    for i, wire in enumerate(wires):
        way.elsewhere(wire.prepare, "s", f"select $1::int + {i}00")
    for n in range(6):
        for i, wire in enumerate(wires):
            same(way.elsewhere(wire.run, "s", n), str(n + i * 100))


@check("The unnamed statement, used in later transactions")
def unnamed(way):
    wires = [way.wire() for _ in range(2)]
    for i, wire in enumerate(wires):
        way.elsewhere(wire.prepare, "", f"select $1::int + {i}00")
    for n in range(4):
        for i, wire in enumerate(wires):
            same(way.elsewhere(wire.run, "", n), str(n + i * 100))


@check("Describe in another round trip than Parse")
def described(way):
    def look(wire):
        wire.send(describe("s"), SYNC)
        wire.expect("t", "T", "Z I")

    wire = way.wire()
    way.elsewhere(wire.prepare, "s", "select $1::int as a, $2::text as b")
    for _ in range(3):
        way.elsewhere(look, wire)


@check("Close, then Parse of the same name with another text")
def closed(way):
    def end(wire):
        wire.send(close("s"), SYNC)
        wire.expect("3", "Z I")

    wire = way.wire()
    for round in range(3):
        way.elsewhere(wire.prepare, "s", f"select $1::int + {round}00")
        for n in range(4):
            same(way.elsewhere(wire.run, "s", n), str(n + round * 100))
        way.elsewhere(end, wire)
        fails("26000", way.elsewhere, wire.run, "s", 1)


@check("Parse, Bind and Execute in one round trip, under a name that stays")
def at_once(way):
    def first(wire, i):
        wire.send(parse("s", f"select $1::int + {i}00"), bind("s", 1), execute(), SYNC)
        return wire.value()

    wires = [way.wire() for _ in range(4)]
    for i, wire in enumerate(wires):
        same(way.elsewhere(first, wire, i), str(1 + i * 100))
    for n in range(4):
        for i, wire in enumerate(wires):
            same(way.elsewhere(wire.run, "s", n), str(n + i * 100))


@check("A statement prepared in a transaction that is rolled back stays")
def rolled_back(way):
    def transaction(wire):
        wire.query("begin")
        wire.send(parse("s", "select $1::int + 1"), SYNC)
        wire.expect("1", "Z T")
        wire.query("rollback")

    wire = way.wire()
    way.elsewhere(transaction, wire)
    for n in range(3):
        same(way.elsewhere(wire.run, "s", n), str(n + 1))


@check("Two thousand statements in one session")
def thousands(way):
    def prepare(numbers):
        wire.send(*[parse(f"s{n}", f"select $1::int + {n}") for n in numbers], SYNC)
        wire.expect(*["1"] * len(numbers), "Z I")

    wire = way.wire()
    for begin in range(0, 2000, 100):
        way.elsewhere(prepare, range(begin, begin + 100))
    for n in range(0, 2000, 40):
        same(way.elsewhere(wire.run, f"s{n}", 1), str(n + 1))


@check("PREPARE, EXECUTE and DEALLOCATE in SQL")
def by_sql(way):
    many = way.clients(3)
    for i, client in enumerate(many):
        way.elsewhere(client.execute, f"prepare p(int) as select $1 + {i}00")
    for n in range(4):
        for i, client in enumerate(many):
            same(way.elsewhere(one, client, f"execute p({n})"), n + i * 100, "another client's is run")
    for client in many:
        way.elsewhere(client.execute, "deallocate p")
    for client in many:
        fails("26000", way.elsewhere, client.execute, "execute p(1)")


@check("DISCARD ALL frees the client's own statements, and nobody else's")
def discarded(way):
    first, second = way.wire(), way.wire()
    for wire in (first, second):
        way.elsewhere(wire.prepare, "s", "select $1::int + 1")
    way.elsewhere(second.query, "discard all")
    for n in range(3):
        same(way.elsewhere(first.run, "s", n), str(n + 1))
        fails("26000", way.elsewhere, second.run, "s", n)
    way.elsewhere(second.prepare, "s", "select $1::int + 2")
    for n in range(3):
        same(way.elsewhere(second.run, "s", n), str(n + 2))


@check("A table is altered: the statement, prepared again, works on every backend")
def altered(way):
    def again(wire):
        wire.send(close("s"), parse("s", "select * from t"), SYNC)
        wire.expect("3", "1", "Z I")

    owner, wires = way.client(), [way.wire() for _ in range(2)]
    owner.execute("create table t as select 1 as a")
    for wire in wires:
        way.elsewhere(wire.prepare, "s", "select * from t")
    for _ in range(3):
        for wire in wires:
            same(way.elsewhere(wire.run, "s"), "1")
    way.elsewhere(owner.execute, "alter table t add b text default 'new'")
    for wire in wires:
        try:
            way.elsewhere(wire.run, "s")
        except Refused as error:
            # The result has another shape than what the client was told.
            if error.sqlstate != "0A000":
                raise
        way.elsewhere(again, wire)
    for _ in range(3):
        for wire in wires:
            same(way.elsewhere(wire.run, "s"), "1,new")
