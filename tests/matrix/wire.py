"""The protocol's own messages, for what drivers hide."""

import os
import socket
import struct

SYNC = b"S\0\0\0\4"
FLUSH = b"H\0\0\0\4"
COPY_DONE = b"c\0\0\0\4"


class Refused(Exception):
    """An error of the server or the proxy where none was expected."""

    def __init__(self, sqlstate):
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


def text(value):
    return value.encode() + b"\0"


def query(sql):
    return message(b"Q", text(sql))


def parse(name, sql):
    return message(b"P", text(name) + text(sql) + b"\0\0")


def bind(statement, *values, portal=""):
    """All in text form."""
    body = text(portal) + text(statement) + struct.pack("!hh", 0, len(values))
    for value in values:
        data = str(value).encode()
        body += struct.pack("!i", len(data)) + data
    return message(b"B", body + b"\0\0")


def describe(statement):
    return message(b"D", b"S" + text(statement))


def execute(limit=0, portal=""):
    return message(b"E", text(portal) + struct.pack("!i", limit))


def close(statement):
    return message(b"C", b"S" + text(statement))


def copy_data(data):
    return message(b"d", data)


def copy_fail(why):
    return message(b"f", text(why))


def call(function, *values):
    """The fast path, with four-byte integers in binary form."""
    body = struct.pack("!ihhh", function, 1, 1, len(values))
    for value in values:
        body += struct.pack("!ii", 4, value)
    return message(b"F", body + struct.pack("!h", 1))


class Wire:
    """A session whose login libpq makes; from then on its socket is ours."""

    def __init__(self, client):
        self.client = client
        self.socket = socket.socket(fileno=os.dup(client.pgconn.socket))
        self.socket.settimeout(10)
        self.unread = b""

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))

    def vanish(self):
        """Without a word."""
        self.socket.shutdown(socket.SHUT_RDWR)

    def need(self, count):
        while len(self.unread) < count:
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the connection is closed")
            self.unread += data

    def next(self):
        """The next message's kind and body."""
        self.need(5)
        kind, length = self.unread[:1].decode(), struct.unpack("!i", self.unread[1:5])[0]
        self.need(1 + length)
        body, self.unread = self.unread[5 : 1 + length], self.unread[1 + length :]
        return kind, body

    def answers(self, *last):
        """What comes, in words, until the kinds named have come, in this order. Notices and settings are left
        out."""
        found, last = [], list(last)
        while last:
            kind, body = self.next()
            if kind not in "NSA":
                found.append(" ".join([kind, *told(kind, body)]))
            if kind == last[0]:
                last.pop(0)
        return found

    def expect(self, *expected):
        """These answers and no others: kinds, with what is told of some of them."""
        found = []
        for _ in expected:
            kind = "N"
            while kind in "NSA":
                kind, body = self.next()
            found.append(" ".join([kind, *told(kind, body)]))
            if kind == "E" and not expected[len(found) - 1].startswith("E"):
                raise Refused(told(kind, body)[0])
        assert found == list(expected), f"{found} instead of {list(expected)}"

    def prepare(self, name, sql):
        self.send(parse(name, sql), SYNC)
        self.expect("1", "Z I")

    def run(self, statement, *values):
        """The first value that a prepared statement gives."""
        self.send(bind(statement, *values), execute(), SYNC)
        return self.value()

    def query(self, sql):
        self.send(query(sql))
        return self.value()

    def value(self):
        found = self.answers("Z")
        for answer in found:
            if answer.startswith("E"):
                raise Refused(answer[2:])
        return next((answer[2:] for answer in found if answer.startswith("D")), None)


def told(kind, body):
    """What is worth knowing of a message."""
    if kind == "E":
        fields = dict((field[:1], field[1:]) for field in body.decode().split("\0") if field)
        return [fields["C"]]
    if kind == "Z":
        return [body.decode()]
    if kind == "C":
        return [body[:-1].decode()]
    if kind == "D":
        return [",".join(columns(body))]
    return []


def columns(body):
    count, at, found = struct.unpack("!h", body[:2])[0], 2, []
    for _ in range(count):
        length = struct.unpack("!i", body[at : at + 4])[0]
        at += 4
        found.append("" if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return found
