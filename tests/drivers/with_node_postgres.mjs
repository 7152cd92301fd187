// node-postgres: clients and its pool, named queries, cursors and streams.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Readable, Writable } from 'node:stream'
import { pipeline as flow } from 'node:stream/promises'

const installed = createRequire(join(process.env.PGWARD_NODE_MODULES, 'here.js'))
const pg = installed('pg')
const Cursor = installed('pg-cursor')
const QueryStream = installed('pg-query-stream')
const { from: copyFrom, to: copyTo } = installed('pg-copy-streams')

const ROWS = process.env.PGWARD_ROWS
const OTHER = process.env.PGWARD_OTHER
const SCHEMA = process.env.PGWARD_SCHEMA
// How many backends serve all clients; 0 without a proxy.
const BACKENDS = Number(process.env.PGWARD_BACKENDS ?? 0)
const CLIENTS = 12
// A check that takes longer hangs.
const PATIENCE = 15_000

const tenant = (url) => new URL(url).username
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, n) => from + n)
const opened = []

async function connect(url = ROWS, settings = {}) {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000, ...settings })
  client.on('error', () => {})
  opened.push(client)
  await client.connect()
  return client
}

const clients = (urls = [ROWS, OTHER], count = CLIENTS, settings = () => ({})) =>
  Promise.all(numbers(0, count - 1).map((i) => connect(urls[i % urls.length], settings(i))))

const each = (many, work) => Promise.all(many.map((client, i) => work(i, client)))

const one = async (client, text, values) => Object.values((await client.query(text, values)).rows[0])[0]

async function raises(code, promise) {
  const error = await promise.then(
    () => assert.fail(`${code} expected, and nothing happened`),
    (error) => error,
  )
  assert.equal(error.code, code, String(error))
  return error
}

async function until(what, condition) {
  const begin = Date.now()
  while (!(await condition())) {
    assert.ok(Date.now() - begin < 10_000, `${what} did not happen`)
    await new Promise((done) => setTimeout(done, 10))
  }
}

// Other clients at work until `block` ends, and none of them may fail.
async function busy(block, url = ROWS, count = 8) {
  let done = false
  const work = each(await clients([url], count), async (i, client) => {
    while (!done) assert.equal(await one(client, 'select count(*)::int from items, pg_sleep(0.001)'), 100)
  })
  try {
    await block()
  } finally {
    done = true
    await work
  }
}

// Fails when it takes 5 s.
const soon = (promise) =>
  Promise.race([promise, new Promise((_, fail) => setTimeout(fail, 5000, new Error('no answer came')).unref())])

const notes = async (client, topic) =>
  (await client.query('select id from notes where topic = $1 order by id', [topic])).rows.map((row) => row.id)
const note = (client, topic, id) => client.query('insert into notes (topic, id) values ($1, $2)', [topic, id])
const forget = (client, topic) => client.query('delete from notes where topic = $1', [topic])

const checks = {
  // ---------------------------------------------------------------------------- sharing and isolation

  async shares_backends() {
    const pids = new Set()
    await each(await clients(), async (i, client) => {
      for (let n = 0; n < 20; n++) pids.add(await one(client, 'select pg_backend_pid()'))
    })
    if (BACKENDS) assert.ok(pids.size <= BACKENDS, `${pids.size} backends`)
    else assert.equal(pids.size, CLIENTS)
  },

  async sees_its_own_rows() {
    await each(await clients(), async (i, client) => {
      for (let n = 0; n < 30; n++) {
        const { rows } = await client.query('select count(*)::int, min(tenant_id), max(tenant_id) from items')
        assert.deepEqual(rows, [{ count: 100, min: client.user, max: client.user }])
      }
    })
  },

  async types_go_there_and_back() {
    const client = await connect()
    const values = [true, '1099511627776', 1.5, '12345.678900', 'é€😀', Buffer.from([0, 255]), [1, null, 3], null]
    const text = 'select $1::bool a, $2::int8 b, $3::float8 c, $4::numeric d, $5::text e, $6::bytea f, $7::int[] g, $8::text h'
    const { rows } = await client.query({ text, values, rowMode: 'array' })
    assert.deepEqual(rows[0], values)
    const json = await one(client, 'select $1::jsonb', [{ a: [1, { b: 'é' }] }])
    assert.deepEqual(json, { a: [1, { b: 'é' }] })
  },

  // ------------------------------------------------------------------------------ prepared statements

  async prepared() {
    await each(await clients(), async (i, client) => {
      for (let n = 0; n < 50; n++) {
        const id = ((i * 50 + n) % 100) + 1
        const text = 'select name, $1::int + id as sum from items where id = $2'
        const { rows } = await client.query({ name: 'by id', text, values: [n, id] })
        assert.deepEqual(rows, [{ name: `${client.user} ${id}`, sum: n + id }])
      }
    })
  },

  async prepared_same_name_other_text() {
    await each(await clients(), async (i, client) => {
      for (let n = 0; n < 30; n++) {
        assert.equal(await one(client, { name: 'mine', text: `select $1::int + ${i}`, values: [n] }), n + i)
      }
    })
  },

  async prepared_unnamed() {
    await each(await clients([ROWS, SCHEMA]), async (i, client) => {
      for (const id of numbers(1, 50)) {
        assert.equal(await one(client, 'select name from items where id = $1', [id]), `${client.user} ${id}`)
      }
    })
  },

  async prepared_by_sql() {
    await each(await clients(), async (i, client) => {
      await client.query(`prepare mine(int) as select name || ' ${i}' from items where id = $1`)
      for (const id of numbers(1, 20)) {
        assert.equal(await one(client, `execute mine(${id})`), `${client.user} ${id} ${i}`)
      }
      await client.query('deallocate mine')
      await raises('26000', client.query('execute mine(1)'))
    })
  },

  async prepared_again_after_ddl() {
    const owner = await connect(SCHEMA)
    await owner.query('drop table if exists shifting; create table shifting as select 1 as a')
    const many = await clients([SCHEMA])
    const select = (name) => ({ name, text: 'select * from shifting' })
    for (const client of many) assert.deepEqual((await client.query(select('old'))).rows, [{ a: 1 }])
    await owner.query("alter table shifting add b text default 'new'")
    await each(many, async (i, client) => {
      await client.query(select('old')).catch((error) => assert.equal(error.code, '0A000', String(error)))
      for (let n = 0; n < 5; n++) assert.deepEqual((await client.query(select('new'))).rows, [{ a: 1, b: 'new' }])
    })
    await owner.query('drop table shifting')
  },

  async prepared_deallocated() {
    await each(await clients(), async (i, client) => {
      const query = { name: 'mine', text: 'select $1::int', values: [i] }
      for (let n = 0; n < 5; n++) {
        assert.equal(await one(client, query), i)
        await client.query('deallocate mine')
        await raises('26000', client.query(query))
        // What the client believes to be prepared.
        delete client.connection.parsedStatements.mine
      }
    })
  },

  // ----------------------------------------------------------------------------------------- settings

  async settings_kept() {
    await each(await clients(), async (i, client) => {
      await client.query(`set timezone to 'Etc/GMT+${i}'; set search_path to mine_${i}, public`)
      await client.query(`set application_name = 'client ${i}'`)
      await client.query("select set_config('app.x', $1, false)", [String(i)])
      for (let n = 0; n < 20; n++) {
        const text = `select current_setting('TimeZone') || current_setting('application_name')
          || current_setting('search_path') || current_setting('app.x')`
        assert.equal(await one(client, text), `Etc/GMT+${i}client ${i}mine_${i}, public${i}`)
      }
    })
  },

  async settings_at_startup() {
    const settings = (i) => ({ application_name: `start ${i}`, options: `-c work_mem=${i + 1}MB`, statement_timeout: 5000 })
    await each(await clients([ROWS, OTHER], CLIENTS, settings), async (i, client) => {
      for (let n = 0; n < 10; n++) {
        const text = "select current_setting('application_name') || current_setting('work_mem')"
        assert.equal(await one(client, text), `start ${i}${i + 1}MB`)
        assert.equal(await one(client, 'show statement_timeout'), '5s')
      }
    })
  },

  async settings_local() {
    await each(await clients(), async (i, client) => {
      const before = await one(client, 'show timezone')
      for (let n = 0; n < 10; n++) {
        await client.query('begin')
        await client.query(`set local timezone to 'Etc/GMT+${i}'`)
        assert.equal(await one(client, 'show timezone'), `Etc/GMT+${i}`)
        await client.query('commit')
        assert.equal(await one(client, 'show timezone'), before)
      }
    })
  },

  async settings_rolled_back() {
    await each(await clients(), async (i, client) => {
      await client.query(`set timezone to 'Etc/GMT+${i}'`)
      for (let n = 0; n < 10; n++) {
        await client.query('begin')
        await client.query("set timezone to 'Asia/Colombo'")
        await client.query('rollback')
        assert.equal(await one(client, 'show timezone'), `Etc/GMT+${i}`)
      }
    })
  },

  async settings_reset() {
    const settings = () => ({ options: '-c timezone=Asia/Colombo' })
    await each(await clients([ROWS, OTHER], CLIENTS, settings), async (i, client) => {
      for (const reset of ['reset timezone', 'set timezone to default', 'reset all', 'discard all']) {
        await client.query(`set timezone to 'Etc/GMT+${i}'`)
        assert.equal(await one(client, 'show timezone'), `Etc/GMT+${i}`)
        await client.query(reset)
        assert.equal(await one(client, 'show timezone'), 'Asia/Colombo')
      }
    })
  },

  // ------------------------------------------------------------------------------------- transactions

  async transactions() {
    await each(await clients(), async (i, client) => {
      const topic = `transactions ${i}`
      await forget(client, topic)
      for (let n = 0; n < 10; n++) {
        for (const [id, end] of [[n, 'commit'], [1000, 'rollback']]) {
          await client.query('begin')
          await note(client, topic, id)
          await client.query(end)
        }
      }
      assert.deepEqual(await notes(client, topic), numbers(0, 9))
    })
  },

  async savepoints() {
    await each(await clients(), async (i, client) => {
      const topic = `savepoints ${i}`
      await forget(client, topic)
      await client.query('begin')
      await note(client, topic, 1)
      await client.query('savepoint s')
      await note(client, topic, 2)
      await raises('22012', client.query('select 1/0'))
      await raises('25P02', client.query('select 1'))
      await client.query('rollback to s')
      await note(client, topic, 3)
      await client.query('commit')
      assert.deepEqual(await notes(client, topic), [1, 3])
    })
  },

  async failed_transaction() {
    await each(await clients(), async (i, client) => {
      await client.query('begin')
      await raises('42703', client.query('select no_such_column from items'))
      await raises('25P02', client.query('select 1'))
      assert.equal((await client.query('commit')).command, 'ROLLBACK')
      assert.equal(await one(client, 'select max(id) from items'), 100)
    })
  },

  async read_only_and_isolation_levels() {
    await each(await clients(), async (i, client) => {
      for (const level of ['serializable', 'repeatable read', 'read uncommitted', 'read committed']) {
        await client.query(`begin isolation level ${level} read only`)
        assert.equal(await one(client, 'show transaction_isolation'), level)
        await raises('25006', note(client, 'never', 1))
        await client.query('rollback')
      }
      assert.equal(await one(client, 'show transaction_read_only'), 'off')
    })
  },

  // --------------------------------------------------------------------------------------------- COPY

  copy_text: () => copyThereAndBack('text', (n) => `line\\t${n}\t${n}\n`),

  copy_csv: () => copyThereAndBack('csv', (n) => `"line ""${n}"", ",${n}\n`),

  async copy_binary() {
    await each(await clients([SCHEMA]), async (i, client) => {
      const name = `copy_binary_${i}`
      await client.query(`drop table if exists ${name}; create table ${name} (a text, b int)`)
      const rows = 'select md5(n::text), n from generate_series(1, 500) n'
      const sent = await copiedOut(client, `copy (${rows}) to stdout binary`)
      await flow(Readable.from([sent]), client.query(copyFrom(`copy ${name} from stdin binary`)))
      assert.equal(await one(client, `select count(*)::int from ((${rows}) except select * from ${name}) x`), 0)
      assert.ok(sent.equals(await copiedOut(client, `copy ${name} to stdout binary`)), 'other bytes came back')
      await client.query(`drop table ${name}`)
    })
  },

  async copy_fails_midway() {
    await each(await clients([SCHEMA]), async (i, client) => {
      const name = `copy_bad_${i}`
      await client.query(`drop table if exists ${name}; create table ${name} (a text, b int)`)
      const good = 'x\t1\n'.repeat(1000)
      for (let n = 0; n < 3; n++) {
        const source = Readable.from([good, 'x\tnot a number\n'])
        await raises('22P02', flow(source, client.query(copyFrom(`copy ${name} from stdin`))))
        const broken = Readable.from((function* () {
          yield good
          throw Object.assign(new Error('the source broke'), { code: 'broken' })
        })())
        await raises('broken', flow(broken, client.query(copyFrom(`copy ${name} from stdin`))))
        const failing = 'copy (select 1/(500 - n) from generate_series(1, 1000) n) to stdout'
        await raises('22012', copiedOut(client, failing))
        assert.equal(await one(client, `select count(*)::int from ${name}`), 0)
      }
      await client.query(`drop table ${name}`)
    })
  },

  // pg-copy-streams sends a message's head and its data in writes of their own; the server's error may
  // come between them. Nobody may have the backend before the data has gone there.
  async copy_data_cut_by_an_error() {
    const [client, ...others] = await clients([SCHEMA], CLIENTS)
    await client.query('drop table if exists copy_cut; create table copy_cut (a int)')
    const { stream } = client.connection
    const head = (length) => Buffer.from([0x64, 0, 0, 0, length + 4])
    const copy = copyFrom('copy copy_cut from stdin')
    const failed = raises('22P02', new Promise((done, fail) => client.query(copy).on('error', fail).on('finish', done)))
    await until('the COPY', () => copy._gotCopyInResponse)
    stream.write(Buffer.concat([head(4), Buffer.from('bad\n'), head(100)]))
    await failed
    await until('the end of the COPY', () => client.readyForQuery)
    stream.write(Buffer.alloc(100, 'x'))
    for (let n = 0; n < 5; n++) {
      await soon(each(others, async (i, other) => assert.equal(await one(other, 'select $1::int', [i]), i)))
      assert.equal(await one(client, 'select count(*)::int from copy_cut'), 0)
    }
  },

  // ---------------------------------------------------------------------------------- LISTEN / NOTIFY

  async listen() {
    const [listener, sender] = await clients([ROWS], 2)
    const heard = await listening(listener, 'news')
    const expected = numbers(0, 49).map((n) => ['news', `number ${n}`])
    await busy(async () => {
      for (const [channel, payload] of expected) await sender.query('select pg_notify($1, $2)', [channel, payload])
      await until('the last notification', () => heard.length >= expected.length)
    })
    assert.deepEqual(heard, expected)
  },

  async listen_by_more_clients_than_backends() {
    const [sender, ...listeners] = await clients([ROWS], CLIENTS + 1)
    const heard = await each(listeners, (i, client) => listening(client, 'crowd'))
    for (const n of numbers(0, 9)) await sender.query(`notify crowd, '${n}'`)
    await until('the last notification', () => heard.every((seen) => seen.length >= 10))
    const expected = numbers(0, 9).map((n) => ['crowd', String(n)])
    assert.deepEqual(heard, listeners.map(() => expected))
  },

  async unlisten() {
    const [listener, sender] = await clients([ROWS], 2)
    const heard = await listening(listener, 'first')
    await listener.query('listen second')
    await sender.query("notify first, '1'")
    await until('the first', () => heard.length === 1)
    await listener.query('unlisten first')
    await sender.query("notify first, '2'")
    await sender.query("notify second, '3'")
    await until('the second', () => heard.length >= 2)
    assert.deepEqual(heard, [['first', '1'], ['second', '3']])
  },

  async listen_is_not_for_other_tenants() {
    const listeners = await clients([ROWS, OTHER], 2)
    const senders = await clients([ROWS, OTHER], 2)
    const heard = await each(listeners, (i, client) => listening(client, 'shared'))
    for (const word of ['first', 'last']) {
      for (const client of senders) await client.query(`notify shared, '${word} of ${client.user}'`)
    }
    const own = senders.map(({ user }) => ['first', 'last'].map((word) => ['shared', `${word} of ${user}`]))
    await until('the last notification', () => heard.every((seen, i) => seen.some(([, word]) => word === own[i][1][1])))
    if (BACKENDS) assert.deepEqual(heard, own)
  },

  // --------------------------------------------------------------------------- cancel, large and long

  async cancel() {
    const [sleeper, watcher] = await clients([SCHEMA], 2)
    await busy(async () => {
      for (let n = 0; n < 2; n++) {
        const text = `select pg_sleep(3${n})`
        const begin = Date.now()
        const sleep = raises('57014', sleeper.query(text))
        const running = "select count(*)::int from pg_stat_activity where state = 'active' and query = $1"
        await until('the sleep', async () => (await one(watcher, running, [text])) === 1)
        const { host, port } = sleeper
        const connection = new pg.Connection({ stream: undefined })
        connection.on('connect', () => connection.cancel(sleeper.processID, sleeper.secretKey))
        connection.on('error', () => {})
        connection.connect(port, host)
        await sleep
        connection.end()
        assert.ok(Date.now() - begin < 5000, 'it took too long')
        assert.equal(await one(sleeper, 'select max(id) from items'), 100)
      }
    }, SCHEMA, 2)
  },

  async queued_queries() {
    await each(await clients(), async (i, client) => {
      const queries = numbers(1, 50).map((id) => one(client, 'select name from items where id = $1', [id]))
      const broken = raises('22012', client.query('select 1/$1::int', [0]))
      const after = one(client, 'select $1::int', [i])
      assert.deepEqual(await Promise.all(queries), numbers(1, 50).map((id) => `${client.user} ${id}`))
      await broken
      assert.equal(await after, i)
    })
  },

  async large_result_streamed() {
    const client = await connect()
    await busy(async () => {
      let [count, total, size] = [0, 0, 0]
      const text = 'select n, repeat(md5(n::text), 160) as text from generate_series(1, 10000) n'
      for await (const row of client.query(new QueryStream(text, [], { batchSize: 500 }))) {
        count += 1
        total += row.n
        size += row.text.length
      }
      assert.deepEqual([count, total, size], [10000, 50005000, 10000 * 5120])
    })
    assert.equal(await one(client, 'select 1'), 1)
  },

  async cursors() {
    await each(await clients(), async (i, client) => {
      for (let n = 0; n < 3; n++) {
        const cursor = client.query(new Cursor('select id from items where id > $1 order by id', [i]))
        assert.deepEqual((await cursor.read(10)).map((row) => row.id), numbers(i + 1, i + 10))
        assert.deepEqual((await cursor.read(5)).map((row) => row.id), numbers(i + 11, i + 15))
        await cursor.close()
        assert.equal(await one(client, 'select $1::int', [n]), n)
      }
    })
  },

  async cursors_with_hold() {
    const client = await connect()
    await busy(async () => {
      await client.query('begin; declare held cursor with hold for select id from items order by id; commit')
      for (let n = 0; n < 10; n++) {
        const { rows } = await client.query('fetch 10 from held')
        assert.deepEqual(rows.map((row) => row.id), numbers(n * 10 + 1, n * 10 + 10))
      }
    }, ROWS, 6)
  },

  async temporary_tables() {
    const pair = await clients([SCHEMA], 2)
    await busy(async () => {
      for (const client of pair) await client.query('create temp table scratch (a int)')
      for (let n = 0; n < 20; n++) {
        for (const [i, client] of pair.entries()) await client.query('insert into scratch values ($1)', [i * 100 + n])
      }
      for (const [i, client] of pair.entries()) {
        const { rows } = await client.query('select min(a), count(*)::int from scratch')
        assert.deepEqual(rows, [{ min: i * 100, count: 20 }])
      }
    }, SCHEMA, 6)
  },

  async advisory_locks() {
    const [first, second] = await clients([SCHEMA], 2)
    await busy(async () => {
      for (let n = 0; n < 5; n++) {
        await first.query('select pg_advisory_lock(4711)')
        assert.equal(await one(second, 'select pg_try_advisory_lock(4711)'), false)
        assert.equal(await one(first, 'select pg_advisory_unlock(4711)'), true)
        assert.equal(await one(second, 'select pg_try_advisory_lock(4711)'), true)
        assert.equal(await one(second, 'select pg_advisory_unlock(4711)'), true)
      }
    }, SCHEMA, 6)
  },

  async several_statements_at_once() {
    await each(await clients(), async (i, client) => {
      const found = await client.query(`select ${i} as a; select 2 as b, 3 as c; select 4 where false`)
      assert.deepEqual(found.map(({ rows }) => rows), [[{ a: i }], [{ b: 2, c: 3 }], []])
    })
  },

  async notices() {
    const client = await connect()
    const seen = []
    client.on('notice', (notice) => seen.push(notice.message))
    await client.query("do $$ begin for n in 1..3 loop raise notice 'number %', n; end loop; end $$")
    assert.deepEqual(seen, ['number 1', 'number 2', 'number 3'])
  },

  async pool() {
    const pool = new pg.Pool({ connectionString: ROWS, max: CLIENTS })
    try {
      await Promise.all(numbers(1, 50).map(async (id) => {
        const { rows } = await pool.query('select name from items where id = $1', [id])
        assert.deepEqual(rows, [{ name: `${tenant(ROWS)} ${id}` }])
        const client = await pool.connect()
        try {
          await client.query('begin')
          assert.equal(await one(client, 'select max(tenant_id) from items'), tenant(ROWS))
          await client.query('rollback')
        } finally {
          client.release()
        }
      }))
    } finally {
      await pool.end()
    }
  },
}

async function copiedOut(client, text) {
  const parts = []
  const sink = new Writable({ write: (part, _, done) => (parts.push(part), done()) })
  await flow(client.query(copyTo(text)), sink)
  return Buffer.concat(parts)
}

async function copyThereAndBack(how, line) {
  await each(await clients([SCHEMA]), async (i, client) => {
    const name = `copy_${how}_${i}`
    await client.query(`drop table if exists ${name}; create table ${name} (a text, b int)`)
    const lines = numbers(0, 499).map(line)
    const sink = client.query(copyFrom(`copy ${name} from stdin with (format ${how})`))
    await flow(Readable.from(lines), sink)
    assert.equal(sink.rowCount, 500)
    assert.equal(String(await copiedOut(client, `copy ${name} to stdout with (format ${how})`)), lines.join(''))
    await client.query(`drop table ${name}`)
  })
}

async function listening(client, channel) {
  const seen = []
  client.on('notification', ({ channel, payload }) => seen.push([channel, payload]))
  await client.query(`listen ${channel}`)
  return seen
}

// ------------------------------------------------------------------------------------------------------

const told = (error) => {
  const at = /with_node_postgres\.mjs:\d+/g
  return `${error.message} ${error.code ?? ''} (${(error.stack ?? '').match(at) ?? ''})`.replace(/\s+/g, ' ')
}

// Those named, or all but those given as `-name`.
const asked = process.argv.slice(2).filter((name) => !name.startsWith('-'))
const names = Object.keys(checks)
  .filter((name) => !asked.length || asked.includes(name))
  .filter((name) => !process.argv.includes(`-${name}`))
console.log('#plan', ...names)
for (const name of names) {
  console.log('#begin', name)
  const watch = setTimeout(() => {
    console.log('#bad', name, `hangs for ${PATIENCE / 1000} s`)
    process.exit(3)
  }, PATIENCE)
  try {
    await checks[name]()
    console.log('#good', name)
  } catch (error) {
    console.log('#bad', name, told(error))
  }
  clearTimeout(watch)
  for (const client of opened.splice(0)) client.connection.stream.destroy()
}
process.exit(0)
