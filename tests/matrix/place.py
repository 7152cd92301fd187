"""Where the checks run: one throw-away PostgreSQL cluster, and proxies in front of it."""

import contextlib
import glob
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg

# How many backends a proxy has for a user and database; the checks have more clients.
BACKENDS = 3
# How long a client waits for a backend.
PATIENCE = 5
USERS = ("app", "ann", "bob")
WAYS = ("direct", "pgbouncer", "pgward")
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Failed(Exception):
    """The checks cannot be run here."""


class Place:
    """One cluster. Everything below `stage` is gone when it is closed."""

    def __init__(self, pgward):
        self.bin = programs()
        self.pgbouncer = os.environ.get("PGWARD_MATRIX_PGBOUNCER", "pgbouncer")
        self.stage = tempfile.mkdtemp(prefix="pgward-matrix-")
        os.chmod(self.stage, 0o755)
        self.pgward = shutil.copy(pgward, f"{self.stage}/pgward")
        self.password = secrets.token_hex(16)
        self.server = self.proxy = None
        self.number = 0
        run([f"{TOP}/scripts/keys", f"{self.stage}/secrets"])
        self.port, self.proxy_port = free_port(), free_port()
        self.write_files()
        if os.getuid() == 0:
            run(["chown", "-R", "postgres:", self.stage])
        self.start_server()

    def close(self):
        self.stop_proxy()
        end(self.server, signal.SIGINT)
        shutil.rmtree(self.stage, ignore_errors=True)

    def versions(self):
        def number(*command):
            return re.search(r"[0-9]+(\.[0-9]+)+", run(list(command)))[0]

        return {
            "PostgreSQL": number(f"{self.bin}/postgres", "--version"),
            "PgBouncer": number(self.pgbouncer, "--version"),
            "pgward": number(self.pgward, "--version"),
        }

    # PostgreSQL does not run as root, and PgBouncer neither; none of our PG* variables is for them.
    def start(self, name, *command):
        log = open(f"{self.stage}/{name}.log", "wb")
        who = {}
        if os.getuid() == 0:
            postgres = pwd.getpwnam("postgres")
            who = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}
        environment = {"PATH": os.environ["PATH"], "HOME": self.stage, "LC_ALL": "C"}
        return subprocess.Popen(
            command, cwd=self.stage, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, **who,
        )

    def start_server(self):
        data = f"{self.stage}/data"
        made = self.start(
            "initdb", f"{self.bin}/initdb", f"--pgdata={data}", "--username=postgres",
            f"--pwfile={self.stage}/password", "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8",
            "--no-sync", "--no-instructions",
        )
        if made.wait() != 0:
            raise Failed(self.log("initdb"))
        with open(f"{data}/postgresql.conf", "a") as file:
            file.write(f"""
listen_addresses = '127.0.0.1'
port = {self.port}
unix_socket_directories = ''
fsync = off
max_connections = 200
max_prepared_transactions = 50
ssl = on
ssl_cert_file = '{self.stage}/secrets/server.crt'
ssl_key_file = '{self.stage}/secrets/server.key'
""")
        self.server = self.start("server", f"{self.bin}/postgres", "-D", data)
        self.await_port(self.port, self.server, "server")
        with self.connected("postgres") as server:
            for user in USERS:
                server.execute(f"create role {user} login password '{self.password}'")
            server.execute("alter role app createdb replication")
            server.execute("grant ann to app")

    def connected(self, database):
        """To the server itself, as its superuser."""
        begin = time.monotonic()
        while True:
            try:
                return psycopg.connect(
                    host="127.0.0.1", port=self.port, user="postgres", password=self.password, dbname=database,
                    sslmode="disable", autocommit=True,
                )
            except psycopg.OperationalError as error:
                # It is starting up.
                if error.sqlstate not in (None, "57P03") or time.monotonic() - begin > 30:
                    raise Failed(f"the server: {error}") from error
                time.sleep(0.05)

    def database(self):
        """A new one, so that no check finds what another one has left."""
        self.number += 1
        name = f"matrix_{self.number}"
        with self.connected("postgres") as server:
            server.execute(f"create database {name} owner app")
        with self.connected(name) as server:
            server.execute("grant create, usage on schema public to public")
        return name

    def write_files(self):
        with open(f"{self.stage}/password", "w") as file:
            file.write(self.password)
        with open(f"{self.stage}/users.txt", "w") as file:
            file.writelines(f'"{user}" "{self.password}"\n' for user in USERS)
        version = tuple(int(part) for part in self.versions()["PgBouncer"].split(".")[:2])
        # It follows prepared statements of the protocol from 1.21 on.
        prepared = "max_prepared_statements = 500" if version >= (1, 21) else ""
        with open(f"{self.stage}/pgbouncer.ini", "w") as file:
            file.write(f"""
[databases]
* = host=127.0.0.1 port={self.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.proxy_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self.stage}/users.txt
pool_mode = transaction
default_pool_size = {BACKENDS}
query_wait_timeout = {PATIENCE}
client_tls_sslmode = allow
client_tls_cert_file = {self.stage}/secrets/server.crt
client_tls_key_file = {self.stage}/secrets/server.key
{prepared}
""")
        with open(f"{self.stage}/pgward.toml", "w") as file:
            file.write(f"""
[listen]
address = "127.0.0.1:{self.proxy_port}"
drain_timeout = "0s"
tls = {{ mode = "allow", certificate = "secrets/server.crt", key = "secrets/server.key" }}

[pool]
max_per_login = {BACKENDS}
acquire_timeout = "{PATIENCE}s"

[clusters.main]
tls.mode = "off"
servers = [{{ name = "main-1", host = "127.0.0.1", port = {self.port}, region = "here" }}]

[plain]
users_file = "users.txt"

[plain.databases."*"]
cluster = "main"
""")

    def open(self, way):
        """Where clients of this way connect. A proxy is a new one each time."""
        self.stop_proxy()
        if way == "direct":
            return self.port
        if way == "pgbouncer":
            self.proxy = self.start("proxy", self.pgbouncer, "-q", f"{self.stage}/pgbouncer.ini")
        else:
            self.proxy = self.start("proxy", self.pgward, "run", f"{self.stage}/pgward.toml")
        self.await_port(self.proxy_port, self.proxy, "proxy")
        return self.proxy_port

    def stop_proxy(self):
        """At once: what it does on the way out is not what is looked at."""
        end(self.proxy, signal.SIGKILL)
        self.proxy = None

    def await_port(self, port, process, name):
        begin = time.monotonic()
        while process.poll() is None and time.monotonic() - begin < 60:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            time.sleep(0.02)
        raise Failed(f"{name} did not start: {self.log(name)}")

    def log(self, name):
        with open(f"{self.stage}/{name}.log") as file:
            return file.read()[-2000:]


def programs():
    """The folder of PostgreSQL's."""
    found = os.environ.get("PGWARD_PG_BIN")
    if not found:
        folders = glob.glob("/usr/lib/postgresql/*/bin")
        found = max(folders, key=lambda folder: int(folder.split("/")[4]), default="")
    if not os.access(f"{found}/initdb", os.X_OK):
        raise Failed("PostgreSQL is not installed")
    return found


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{command[0]}: {done.stderr}")
    return done.stdout


def end(process, how):
    if process is not None:
        process.send_signal(how)
        process.wait()


def free_port():
    """Below the ports that the kernel gives to clients."""
    while True:
        port = 15000 + secrets.randbelow(15000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
