"""The page that the checks make."""

import asyncpg
import psycopg
from place import BACKENDS, PATIENCE

HEAD = """\
# Features

What works through pgward, and through PgBouncer, as far as a client can see it. `make matrix` writes this
page: it runs every check straight to PostgreSQL, through Debian's PgBouncer and through pgward, and nothing
here is written by hand. The checks are in `tests/matrix`; PostgreSQL itself passes all of them.

Found here: {versions}. The checks use psycopg {psycopg}
(libpq {libpq}) and asyncpg {asyncpg}.
Both proxies pool by transaction, {backends} backends for a user and database, and a client waits {patience} s for one.
All else is as it is by default{prepared}.
There are more clients than backends, and they are sent from one backend to another between transactions, so
that nothing works by chance.

**yes**: every value was right. **no**: what went wrong first, as its SQLSTATE or in words; "hangs" means no
answer within the check's time. A newer PgBouncer can do more than the one named above:
`PGWARD_MATRIX_PGBOUNCER=FILE make matrix` tries it. How sessions are run is a matter of its own, with what
PgBouncer has and pgward has not: [pgbouncer.md](pgbouncer.md). What pgward does with each of these is in
[compatibility.md](compatibility.md).
"""


def page(versions, checks, found):
    version = psycopg.pq.version()
    follows = tuple(int(part) for part in versions["PgBouncer"].split(".")[:2]) >= (1, 21)
    text = HEAD.format(
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        psycopg=psycopg.__version__,
        libpq=f"{version // 10000}.{version % 10000}",
        asyncpg=asyncpg.__version__,
        backends=BACKENDS,
        patience=PATIENCE,
        prepared=", but that PgBouncer follows prepared statements (`max_prepared_statements`)" if follows else "",
    )
    group = None
    for check in checks:
        if check.group != group:
            group = check.group
            text += f"\n## {group}\n\n| feature | pgward | PgBouncer |\n|---|---|---|\n"
        cells = [mark(found[check.title, way]) for way in ("pgward", "pgbouncer")]
        text += f"| {check.title} | {' | '.join(cells)} |\n"
    return text


def mark(reason):
    return "yes" if reason is None else f"no: {reason}"
