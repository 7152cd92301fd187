//! What PostgreSQL does not keep a role from, and no proxy can that lets SQL through: exactly so much is possible.
//! docs/hostile.md lists these as what remains.

use crate::case::{Case, run, sql};
use crate::place::login;
use crate::support::raw::{errors, query};
use crate::tap::{ask, first, held, leave};

pub fn cases() -> Vec<Case> {
    let mut cases = oracles();
    cases.extend(shared());
    cases.into_iter().map(Case::of_pgward).collect()
}

/// What can be learned (line 16).
fn oracles() -> Vec<Case> {
    vec![
        sql("remains.unique", 16, "a unique constraint without the tenant in it tells that a value exists",
            &["do $$ begin insert into handles values ('taken'); exception when unique_violation then raise notice 'exists'; end $$", "select count(*) from handles"])
            .remains("0").rows_only(),
        sql("remains.filtered", 16, "EXPLAIN ANALYZE counts the rows that a policy took away", &[
            "create function pg_temp.f() returns text language plpgsql as $$ declare l text; t text := ''; begin \
             for l in execute 'explain (analyze, costs off, timing off, summary off) select * from public.orders where amount >= 0' loop t := t || l; end loop; return t ~ 'Rows Removed by Filter'; end $$",
            "set enable_indexscan = off; set enable_bitmapscan = off; select pg_temp.f()"]).remains("true").rows_only(),
        sql("remains.size", 16, "the size and the number of rows of a table that others write to",
            &["select pg_relation_size(oid) > 0 and reltuples > 0 from pg_class where oid = '{theirs}'::regclass"]).remains("t").rows_only(),
        sql("remains.size-of-others", 16, "the size and the number of rows of another tenant's table",
            &["select pg_relation_size(c.oid) > 0 and reltuples = 100 from pg_class c join pg_namespace n on n.oid = relnamespace where nspname = 'kandy' and relname = 'orders'"])
            .remains("t"),
        sql("remains.counters", 16, "how much others read and write, from the statistics",
            &["select count(*) > 0 from pg_stat_all_tables where schemaname in ('kandy', 'public') and relname = 'orders' and seq_scan is not null"]).remains("t"),
        sql("remains.catalogue", 16, "the bodies of another tenant's functions, which the catalogue shows to all", &["select prosrc like '%{plain_mark}%' from pg_proc where proname = 'ours'"])
            .remains("t"),
        sql("remains.names", 16, "names of others' schemas, tables, roles and databases",
            &["select (select count(*) from pg_namespace where nspname = 'kandy') + (select count(*) from pg_roles where rolname = 'kandy')"]).remains("2"),
        sql("remains.lock-table", 16, "who holds which advisory lock, by number", &["select count(*) > 0 from pg_locks where locktype = 'advisory' and objid = {lock}"]).remains("t"),
        sql("remains.processes", 16, "how many processes there are, and since when", &["select count(*) > 1 from pg_stat_get_backend_idset() i"]).remains("t").at_schema(crate::case::Expected::Remains("t")),
        sql("remains.sequence", 16, "how many rows all tenants together have written, from a sequence that they share",
            &["insert into public.orders (item) values ('{me} one') returning id > 0"]).remains("t").rows_only(),
        sql("remains.snapshot", 16, "how many transactions there are", &["select pg_current_xact_id()::text::bigint > 0 and txid_current() > 0"]).remains("t"),
        sql("remains.wal", 16, "how much is written by all", &["select pg_current_wal_lsn() > '0/0'"]).remains("t"),
        sql("remains.queue", 16, "how full the queue of notifications is", &["select pg_notification_queue_usage() >= 0"]).remains("t"),
    ]
}

/// What can be done to what all share (lines 12, 18 and 19).
fn shared() -> Vec<Case> {
    vec![
        run("remains.advisory", 12, "an advisory lock that another tenant uses can be taken first: the numbers are all the database's", |h| Box::pin(async move {
            let mut wire = h.session().await;
            held(first(&ask(&mut wire, "select pg_try_advisory_lock(880001)").await) == "t", "taken")?;
            let mut other = h.log_in(&login("t7"), &[]).await.0;
            let theirs = first(&ask(&mut other, "select pg_try_advisory_lock(880001)").await);
            leave(wire).await;
            let after = first(&ask(&mut other, "set lock_timeout = '9s'; select pg_advisory_lock(880001); select 'got'").await);
            leave(other).await;
            held(theirs == "f" && after == "got", "held off until the session ends")
        })).of_pgward(),
        run("remains.lock", 18, "LOCK TABLE of a shared table that it may write to, until its transaction ends", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let said = ask(&mut wire, "begin; lock table public.orders in access exclusive mode").await;
            held(errors(&said).is_empty(), format!("{:?}", errors(&said)))?;
            let mut other = h.log_in(&login("t7"), &[]).await.0;
            let theirs = errors(&ask(&mut other, "begin; set local lock_timeout = '200ms'; select count(*) from orders").await);
            ask(&mut other, "rollback").await;
            ask(&mut wire, "rollback").await;
            let after = first(&ask(&mut other, "select count(*) from orders").await);
            leave(wire).await;
            leave(other).await;
            held(theirs == ["55P03"] && after == "100", "held off until its transaction ends")
        })).rows_only().of_pgward(),
        run("remains.prepared-transaction", 18, "a prepared transaction keeps its locks when the session is gone (max_prepared_transactions > 0)", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let said = ask(&mut wire, &h.words("begin; update {mine} set amount = amount; prepare transaction 'left by {me}'")).await;
            held(errors(&said).is_empty(), format!("{:?}", errors(&said)))?;
            leave(wire).await;
            let left = h.place.really("select count(*) from pg_prepared_xacts").await;
            let mut wire = h.session().await;
            let said = ask(&mut wire, &h.words("rollback prepared 'left by {me}'")).await;
            leave(wire).await;
            held(left == "1" && errors(&said).is_empty(), "it stays until it is finished")
        })).of_pgward(),
        run("remains.others-prepared", 18, "a prepared transaction of another tenant of the same role can be finished (max_prepared_transactions > 0)", |h| Box::pin(async move {
            let mut other = h.log_in(&login("t7"), &[]).await.0;
            let said = ask(&mut other, "begin; select 1; update orders set amount = amount; prepare transaction 'of t7'").await;
            held(errors(&said).is_empty(), format!("{:?}", errors(&said)))?;
            let mut wire = h.session().await;
            let said = ask(&mut wire, "rollback prepared 'of t7'").await;
            leave(wire).await;
            leave(other).await;
            held(errors(&said).is_empty(), "it can be rolled back")
        })).rows_only().of_pgward(),
        run("remains.leaked-context", 3, "a context value that another tenant gave away is good on the backend that it was made for, in transactions that begin within five minutes", |h| Box::pin(async move {
            let mut other = h.log_in(&login("t8"), &[]).await.0;
            let sealed = first(&ask(&mut other, "select current_setting('pgward.context')").await);
            leave(other).await;
            let pid = sealed.split('.').nth(2).unwrap_or_default().to_owned();
            for _ in 0..20 {
                let (mut one, mut two) = (h.session().await, h.session().await);
                for wire in [&mut one, &mut two] {
                    ask(wire, "begin").await;
                }
                for wire in [&mut one, &mut two] {
                    let here = first(&ask(wire, "select pg_backend_pid()").await) == pid;
                    let said = ask(wire, &format!("set local pgward.context = '{sealed}'; select pgward.tenant()")).await;
                    if here {
                        return held(first(&said) == "t8", "it is good there");
                    }
                    held(errors(&said) == ["28000"], "refused elsewhere")?;
                }
                leave(one).await;
                leave(two).await;
            }
            Ok("its backend did not come by".to_owned())
        })).rows_only().of_pgward(),
        run("remains.channel-name", 12, "another tenant's listeners can be notified by who knows the server's name of their channel", |h| Box::pin(async move {
            let mut other = h.log_in(&login("t8"), &[]).await.0;
            ask(&mut other, "listen told").await;
            let name = first(&ask(&mut other, "select pgward.channel('told')").await);
            let mut wire = h.session().await;
            ask(&mut wire, &format!("do $$ begin perform pg_notify('{name}', 'forged'); end $$")).await;
            let heard = tokio::time::timeout(crate::place::PATIENCE, other.until(|message| message.tag == b'A')).await;
            leave(wire).await;
            leave(other).await;
            held(heard.is_ok(), "the forged notification arrives")
        })).of_pgward(),
        run("remains.temporary-space", 18, "temporary tables and their space are not limited", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let said = ask(&mut wire, "create temp table t as select repeat('x', 1000) from generate_series(1, 5000); select count(*) from t").await;
            leave(wire).await;
            held(first(&said) == "5000", "filled")
        })).of_pgward(),
        run("remains.busy", 18, "the processor: its statements run as long as they like, on the backends that it may have", |h| Box::pin(async move {
            let mut wire = h.session().await;
            wire.send(query("select count(*) from generate_series(1, 3000000)")).await;
            crate::hurting::others_are_served(&h).await?;
            let said = wire.ready().await;
            leave(wire).await;
            held(errors(&said).is_empty(), "others are served beside it")
        })).of_pgward(),
    ]
}
