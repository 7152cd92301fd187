//! Routing tricks (line 21): hints that are none, and ways to servers, databases and the console that are not the
//! tenant's.

use crate::case::{Case, Expected, run, sql};
use crate::support::raw::errors;
use crate::tap::{ask, first, held, leave};

pub fn cases() -> Vec<Case> {
    let mut cases = hints();
    cases.extend(elsewhere());
    cases
}

fn hints() -> Vec<Case> {
    let hint = |id, what, texts: &[&'static str]| sql(id, 21, what, texts);
    vec![
        hint("hint.comment", "a comment that claims to be a hint", &["/* pgward: primary */ /* replica */ /*+ SeqScan(orders) */ select count(*) from {mine}"]).shows("100"),
        hint("hint.tenant-comment", "a comment that names a tenant", &["/* pgward tenant=acme */ -- tenant: kandy\n{peek}"]).blind(),
        hint("hint.setting", "settings that claim to be hints", &["set pgward.tenant = 'acme'; set pgward.route = 'replica'; set pgward.region = 'in'; set pgward.role = 'admin'", "{peek}"]).blind().of_pgward(),
        hint("hint.server", "settings of other proxies", &["set pgcat.sharding_key = 1; set pgdog.shard = 1; set cluster.server = 'x'", "select count(*) from {mine}"]).shows("100"),
        hint("hint.pool-commands", "commands of other proxies", &["SET SHARDING KEY TO '1'"]).denied("42601 42704"),
        hint("hint.console-commands", "commands of the console", &["SHOW CLIENTS"]).denied("42704"),
        hint("hint.console-reload", "RELOAD", &["RELOAD"]).denied("42601"),
        hint("hint.console-shutdown", "SHUTDOWN", &["SHUTDOWN"]).denied("42601"),
        hint("hint.console-kill", "KILL, PAUSE", &["PAUSE app"]).denied("42601"),
        hint("hint.write-in-cte", "a write in a CTE of what looks like a read", &["with x as (delete from {theirs} where item not like '{me} %' returning item) select item from x"])
            .no_row().at_schema(Expected::Denied("42501")),
        hint("hint.volatile", "a function that writes, dressed as a read", &["create function pg_temp.f() returns bigint language sql stable as 'select nextval(''public.orders_id_seq'')'", "select pg_temp.f()"])
            .may_end(),
        hint("hint.stable-write", "a function that says it is immutable, and writes", &["create function pg_temp.f() returns void language plpgsql immutable as $$ begin execute 'update {mine} set amount = amount'; end $$", "select pg_temp.f()"])
            .denied("0A000"),
        hint("hint.read-only", "a transaction that says it is read-only, and is not", &["begin read only; update {mine} set amount = amount"]).denied("25006"),
        hint("hint.read-write", "a read-only transaction that becomes another", &["begin read only; select 1; set transaction read write"]).denied("25001"),
        hint("hint.explain-write", "EXPLAIN ANALYZE of a write to others' rows", &["explain (analyze, costs off, timing off, summary off) delete from {theirs} where item not like '{me} %'", "{peek}"]).blind(),
        hint("token.bad", "SET pgward.token to no token", &["set pgward.token = 'no token'", "select 1"]).denied("28000").of_pgward(),
        hint("token.in-transaction", "SET pgward.token in a transaction", &["begin", "set pgward.token = 'x'"]).denied("25001").of_pgward(),
        hint("token.batch", "SET pgward.token among other statements", &["select 1; set pgward.token = 'x'; {peek}"]).denied("25001").of_pgward(),
        hint("token.local", "SET LOCAL pgward.token", &["set local pgward.token = 'x'"]).denied("25001").of_pgward(),
        hint("token.capitals", "the name in capitals and quotes", &["set \"PGWARD\".TOKEN = 'x'", "{peek}"]).blind().may_end().of_pgward(),
        hint("token.hidden", "SET pgward.token hidden in DO", &["do $$ begin execute 'set pgward.to' || 'ken = ''x'''; end $$", "{peek}"]).blind().may_end().of_pgward(),
        hint("token.reset", "RESET pgward.token: of no tenant", &["reset pgward.token", "select count(*) from {mine}"]).denied("28000").of_pgward(),
        hint("token.default", "SET pgward.token TO DEFAULT", &["set pgward.token to default", "{peek}"]).blind().of_pgward(),
        hint("token.read", "current_setting of the token", &["select coalesce(nullif(current_setting('pgward.token', true), ''), 'none')"]).shows("none").of_pgward(),
        hint("token.escapes", "the token as an escaped literal", &["set pgward.token = E'\\x78'", "{peek}"]).blind().of_pgward(),
        hint("token.concat", "the token put together", &["select set_config('pgward.token', 'a' || 'b', false)", "{peek}"]).blind().may_end().of_pgward(),
    ]
}

fn elsewhere() -> Vec<Case> {
    vec![
        run("switch.other-tenant", 7, "SET pgward.token to another tenant's token whose signature is one's own", |h| Box::pin(async move {
            let me = h.place.level.hostile();
            let (own, theirs) = (h.place.stage().token(me, "app"), h.place.stage().token(h.place.level.victim(), "app"));
            let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
            let (own, theirs) = (parts(&own), parts(&theirs));
            let mixed = format!("{}.{}.{}", theirs[0], theirs[1], own[2]);
            let mut wire = h.session().await;
            let said = ask(&mut wire, &format!("set pgward.token = '{mixed}'")).await;
            held(errors(&said) == ["28000"], format!("{:?}", errors(&said)))?;
            let said = ask(&mut wire, &h.words("{peek}")).await;
            held(errors(&said) == ["28000"], "of no tenant afterwards")?;
            leave(wire).await;
            Ok("refused, 28000".to_owned())
        })).of_pgward(),
        run("switch.back-and-forth", 7, "between two tenants that it may be, nothing goes along", |h| Box::pin(async move {
            let (me, stage) = (h.place.level.hostile(), h.place.stage());
            let mut wire = h.session().await;
            for tenant in ["t5", me, "t6", me] {
                ask(&mut wire, "set app.note = 'note'; create temp table orders (x int)").await;
                let said = ask(&mut wire, &format!("set pgward.token = '{}'", stage.token(tenant, "app"))).await;
                held(errors(&said).is_empty(), format!("to {tenant}: {:?}", errors(&said)))?;
                let count = first(&ask(&mut wire, "select count(*) from orders where item like '%'").await);
                held(count == "100", format!("{tenant} sees {count} rows"))?;
                let left = first(&ask(&mut wire, "select coalesce(nullif(current_setting('app.note', true), ''), 'none')").await);
                held(left == "none", format!("{tenant} finds {left}"))?;
            }
            leave(wire).await;
            Ok("each its own".to_owned())
        })).of_pgward(),
        run("switch.context-of-before", 3, "the context of the tenant that it was before", |h| Box::pin(async move {
            let stage = h.place.stage();
            let mut wire = h.log_in(&crate::place::login("t5"), &[]).await.0;
            let old = first(&ask(&mut wire, "select current_setting('pgward.context')").await);
            ask(&mut wire, &format!("set pgward.token = '{}'", stage.token(h.place.level.hostile(), "app"))).await;
            // Good on its own backend only, and the tenant was one that it could be.
            let said = ask(&mut wire, &format!("set pgward.context = '{old}'; select count(*) from orders where item like 'acme%' or item like 'kandy%'")).await;
            leave(wire).await;
            let found = first(&said);
            held(found == "0" || !errors(&said).is_empty(), format!("{found:?} {:?}", errors(&said)))
        })).of_pgward(),
        run("console.token", 21, "the console with a tenant's token", |h| Box::pin(async move {
            let me = h.place.level.hostile();
            for role in ["app", "admin", "operator"] {
                let token = h.place.stage().token(me, role);
                for user in [me, "admin", "pgward"] {
                    let code = h.refused(user, "pgward", &token, &[]).await;
                    held(code.as_deref() == Some("28000"), format!("{user}, {role}: {code:?}"))?;
                }
            }
            for password in ["", "admin", "console", "console-passwor", "console-password ", "console-password\u{0}x"] {
                let code = h.refused("admin", "pgward", password, &[]).await;
                held(code.is_some(), format!("{password:?} is let in"))?;
            }
            Ok("refused, 28000".to_owned())
        })).of_pgward(),
        run("plain.token", 21, "a database without tenants, with a tenant's token", |h| Box::pin(async move {
            let me = h.place.level.hostile();
            let token = h.place.stage().token(me, "app");
            for user in [me, "ann", "pgward_app", "kandy", "galle", "postgres", "pgward_readonly", "pgward_service", "admin", ""] {
                for password in [token.as_str(), user, "password of bob"] {
                    scram_is_refused(&h, user, "ledger", password).await?;
                }
            }
            Ok("refused, 28P01".to_owned())
        })).of_pgward(),
        run("plain.cleartext", 21, "a token in the clear where SCRAM is asked for", |h| Box::pin(async move {
            let token = h.place.stage().token(h.place.level.hostile(), "app");
            let mut wire = h.connect().await;
            wire.send(crate::support::raw::startup(crate::support::raw::V3_0, &[("user", "ann"), ("database", "ledger")])).await;
            wire.next().await;
            wire.try_send(crate::support::raw::password(&token)).await;
            let said = wire.rest().await;
            held(errors(&said).len() == 1, format!("refused, {}", errors(&said).join(" ")))
        })).of_pgward(),
        run("plain.user-at-tenants", 21, "a user without tenant at the tenants' database", |h| Box::pin(async move {
            for database in ["app", "mallory", "acme", "kandy"] {
                let code = h.refused("ann", database, "password of ann", &[]).await;
                held(code.is_some(), format!("{database} is open"))?;
            }
            Ok("refused, 28000".to_owned())
        })).of_pgward(),
        run("region.claim", 21, "a token that narrows its regions to where the data is not", |h| Box::pin(async move {
            let me = h.place.level.hostile();
            for region in ["in", "LK", "lk ", "", "*", "lk,in"] {
                let claims = serde_json::json!({ "tenant": me, "role": "app", "region": region });
                let token = crate::tokens::signed(&h, claims);
                let code = h.refused(me, "app", &token, &[]).await;
                held(code.as_deref() == Some("28000"), format!("{region:?}: {code:?}"))?;
            }
            Ok("refused, 28000".to_owned())
        })).of_pgward(),
        run("region.startup", 21, "regions and servers as startup parameters", |h| Box::pin(async move {
            let me = h.place.level.hostile_login();
            let token = h.place.password(&me);
            for (name, value) in [("region", "in"), ("pgward.region", "in"), ("host", "x"), ("target_session_attrs", "any"), ("server", "main-2"),
                ("pgward.context", "x"), ("pgward.token", "x"), ("pgward.tenant", "acme"), ("request.jwt.claims", "{}")] {
                let code = h.refused(&me.user, "app", &token, &[(name, value)]).await;
                held(code.is_some(), format!("{name} is taken"))?;
            }
            Ok("refused, 0A000".to_owned())
        })).of_pgward(),
    ]
}

async fn scram_is_refused(h: &crate::tap::Hostile, user: &str, database: &str, password: &str) -> Result<(), String> {
    use crate::support::raw::{V3_0, message, startup};
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    let mut wire = h.connect().await;
    wire.send(startup(V3_0, &[("user", user), ("database", database)])).await;
    let Some(asked) = wire.next().await else { return Ok(()) };
    if asked.tag == b'E' {
        return Ok(());
    }
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    let length = u32::try_from(scram.message().len()).unwrap().to_be_bytes();
    wire.try_send(message(b'p', &[b"SCRAM-SHA-256\0", &length[..], scram.message()].concat())).await;
    let Some(next) = wire.next().await else { return Ok(()) };
    if next.tag == b'E' {
        return Ok(());
    }
    if scram.update(&next.body[4..]).is_err() {
        return Ok(());
    }
    wire.try_send(message(b'p', scram.message())).await;
    let said = wire.until(|message| matches!(message.tag, b'Z' | b'E')).await;
    held(said.last().is_none_or(|last| last.tag == b'E'), format!("{user} is let in")).map(drop)
}
