//! A tenant sees its own rows and nothing else, whatever runs before and beside it.

mod support;

use std::time::Duration;

use support::{Stage, code, one, until};

#[tokio::test]
async fn a_tenant_sees_its_own_rows_without_any_where() {
    let stage = Stage::new("").await;
    let acme = stage.connect("acme").await;
    assert_eq!(one(&acme, "select count(*) from orders").await, "100");
    assert_eq!(one(&acme, "select string_agg(distinct tenant_id, ',') from orders").await, "acme");
    assert_eq!(one(&acme, "select count(*) from orders where tenant_id = 'globex'").await, "0");
    let kandy = stage.connect("kandy").await;
    assert_eq!(one(&kandy, "select count(*) from orders where item like 'kandy %'").await, "100");
    assert!(kandy.simple_query("select * from public.orders").await.is_err(), "the shared table is not kandy's");
}

#[tokio::test]
async fn rows_that_a_tenant_writes_are_its_own() {
    let stage = Stage::new("").await;
    let (one_, two) = (stage.connect("t1").await, stage.connect("t2").await);
    assert_eq!(one(&one_, "insert into orders (item) values ('new') returning tenant_id").await, "t1");
    assert_eq!(one(&two, "select count(*) from orders where item = 'new'").await, "0");
    let error = one_.simple_query("insert into orders (item, tenant_id) values ('x', 't2')").await.unwrap_err();
    assert_eq!(code(&error), "42501");
    assert_eq!(one(&two, "update orders set item = 'mine' where tenant_id = 't1' returning 1").await, "");
    let readonly = stage.try_connect(&stage.url("t1", "readonly")).await.unwrap();
    assert_eq!(one(&readonly, "select count(*) from orders").await, "101");
    assert_eq!(code(&readonly.simple_query("delete from orders").await.unwrap_err()), "42501");
    one_.simple_query("delete from orders where item = 'new'").await.unwrap();
}

#[tokio::test]
async fn a_backend_that_goes_from_tenant_to_tenant_brings_nothing_along() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let (acme, globex) = (stage.connect("acme").await, stage.connect("globex").await);
    let pid = "select pg_backend_pid()";
    let before = one(&acme, pid).await;
    acme.simple_query("select set_config('app.note', 'left', false)").await.unwrap();
    drop(acme);
    until("the backend's way to the other tenant", async || {
        let found = globex.simple_query("select 1").await;
        found.is_ok()
    })
    .await;
    assert_eq!(one(&globex, pid).await, before, "there is one backend only");
    assert_eq!(one(&globex, "select coalesce(current_setting('app.note', true), '') = ''").await, "t");
    assert_eq!(one(&globex, "select pgward.tenant()").await, "globex");
    for _ in 0..20 {
        let acme = stage.connect("acme").await;
        assert_eq!(one(&acme, "select distinct tenant_id from orders").await, "acme");
        assert_eq!(one(&globex, "select distinct tenant_id from orders").await, "globex");
    }
    assert!(stage.metric("pgward_tenant_switches_total").await >= 40.0);
    assert_eq!(stage.metric("pgward_handovers_failed_total").await, 0.0);
}

/// A genuine context of acme's that was sealed so many seconds ago.
fn sealed_ago(pid: &str, seconds: i64) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let at = i64::try_from(support::unix_now()).unwrap() - seconds;
    let text = format!("2.k1.{pid}.{at}.61636d65.7b7d");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"fedcba9876543210fedcba9876543210").unwrap();
    mac.update(text.as_bytes());
    let code: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{text}.{code}")
}

#[tokio::test]
async fn a_context_that_somebody_kept_is_good_for_a_few_minutes_and_transactions_as_long_as_they_like() {
    let stage = Stage::new("").await;
    let client = stage.connect("acme").await;
    for (seconds, good) in [(0, true), (200, true), (-200, true), (400, false), (-400, false)] {
        client.batch_execute("begin").await.unwrap();
        let pid = one(&client, "select pg_backend_pid()").await;
        let used = format!("set local pgward.context = '{}'; select pgward.tenant()", sealed_ago(&pid, seconds));
        match client.simple_query(&used).await {
            Ok(_) => assert!(good, "{seconds} s ago"),
            Err(error) => assert_eq!((code(&error).as_str(), good), ("28000", false), "{seconds} s ago"),
        }
        client.batch_execute("rollback").await.unwrap();
    }
    // pgward itself seals anew what has become old, where nothing else has changed.
    let before = one(&client, "select current_setting('pgward.context')").await;
    let world = stage.control.shared.world.load_full();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(one(&client, "select current_setting('pgward.context')").await, before);
    world.sealer.as_ref().unwrap().grow_old();
    assert_ne!(one(&client, "select current_setting('pgward.context')").await, before);
}

#[tokio::test]
async fn a_context_that_is_forged_replayed_or_reset_shows_no_rows() {
    let stage = Stage::new("").await;
    let acme = stage.connect("acme").await;
    let sealed = one(&acme, "select current_setting('pgward.context')").await;
    // Its own value, on another backend.
    acme.simple_query("begin").await.unwrap();
    let other = stage.connect("acme").await;
    let replayed = format!("set pgward.context = '{sealed}'; select * from orders");
    assert_eq!(code(&other.simple_query(&replayed).await.unwrap_err()), "28000");
    acme.simple_query("rollback").await.unwrap();
    for (i, forged) in ["2.k1.1.1.61636d65..00", "x", "2.nokey.1.1.61.7b7d.00", "......"].iter().enumerate() {
        let client = stage.connect("acme").await;
        let set = format!("set pgward.context = '{forged}'");
        let batch = format!("{set}; select * from orders");
        assert_eq!(code(&client.simple_query(&batch).await.unwrap_err()), "28000", "{i}");
        client.simple_query(&set).await.unwrap();
        assert_eq!(one(&client, "select count(*) from orders").await, "100", "{i}: the context is set anew");
    }
    let globex_hex = "676c6f626578";
    let mut parts: Vec<&str> = sealed.split('.').collect();
    parts[4] = globex_hex;
    let later = parts[3].parse::<u64>().unwrap() + 1;
    let other_time = sealed.replace(parts[3], &later.to_string());
    for tampered in [parts.join("."), other_time] {
        let client = stage.connect("acme").await;
        let batch = format!("set pgward.context = '{tampered}'; select count(*) from orders");
        assert_eq!(code(&client.simple_query(&batch).await.unwrap_err()), "28000", "{tampered}");
    }
    let empty = "reset pgward.context; select count(*) from orders";
    assert_eq!(one(&stage.connect("acme").await, empty).await, "0");
    for reset in ["reset all", "discard all", "reset pgward.context"] {
        let client = stage.connect("acme").await;
        client.simple_query(reset).await.unwrap();
        assert_eq!(one(&client, "select count(*) from orders").await, "100", "after {reset}");
    }
}

#[tokio::test]
async fn a_token_that_is_wrong_opens_nothing_and_says_nothing() {
    let stage = Stage::new("").await;
    let good = stage.token("acme", "app");
    let refused = async |url: String| {
        let error = stage.try_connect(&url).await.err().unwrap_or_else(|| panic!("{url} was let in"));
        assert_eq!(code(&error), "28000", "{url}");
        error.as_db_error().unwrap().message().to_owned()
    };
    let mut messages = Vec::new();
    for tenant in ["nobody", "other"] {
        messages.push(refused(stage.url(tenant, "app")).await);
    }
    messages.push(refused(stage.url("acme", "superuser")).await);
    messages.push(refused(stage.url_with("globex", &good)).await);
    messages.push(refused(format!("postgresql://acme:{good}@{}/postgres", stage.address)).await);
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?} tell tenants apart");
    refused(stage.url_with("acme", &good[..good.len() - 2])).await;
    refused(stage.url_with("acme", "not-a-token")).await;
    let none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ0ZXN0cyIsInRlbmFudCI6ImFjbWUifQ.";
    refused(stage.url_with("acme", none)).await;
    refused(stage.url_with("acme", &stage.token_for("acme", "app", Duration::ZERO))).await;
}

#[tokio::test]
async fn a_session_ends_when_its_token_does() {
    let stage = Stage::new("").await;
    let url = stage.url_with("acme", &stage.token_for("acme", "app", Duration::from_secs(2)));
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::spawn(connection);
    assert_eq!(one(&client, "select count(*) from orders").await, "100");
    let error = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap().unwrap_err();
    assert_eq!(code(&error), "28000");
    assert!(error.as_db_error().unwrap().message().contains("expired"));
}

#[tokio::test]
async fn limits_of_a_tenant_hold_it_and_nobody_else() {
    let stage = Stage::new("[limits]\nmax_clients = 3\nmax_leases = 2\n[pool]\nacquire_timeout = \"300ms\"\n").await;
    let clients = [stage.connect("acme").await, stage.connect("acme").await, stage.connect("acme").await];
    let refused = stage.try_connect(&stage.url("acme", "app")).await.err().unwrap();
    assert_eq!(code(&refused), "53300");
    for client in &clients[..2] {
        client.simple_query("begin").await.unwrap();
    }
    let waited = clients[2].simple_query("select 1").await.unwrap_err();
    assert_eq!(code(&waited), "53300");
    assert_eq!(one(&stage.connect("globex").await, "select 1").await, "1");
    clients[0].simple_query("commit").await.unwrap();
    assert_eq!(one(&clients[2], "select 2").await, "2", "the session is alive after a wait in vain");
}

#[tokio::test]
async fn a_tenant_that_a_reload_removes_is_shown_the_door_and_others_stay() {
    let stage = Stage::new("").await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let (client, connection) = tokio_postgres::connect(&stage.url("t7", "app"), tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::spawn(connection);
    assert_eq!(one(&client, "select 1").await, "1");
    let acme = stage.connect("acme").await;
    std::fs::write(&stage.path, "broken = ").unwrap();
    assert!(stage.control.reload().await.is_err());
    assert_eq!(one(&client, "select 2").await, "2", "a refused file changes nothing");
    std::fs::write(&stage.path, text.replace("[tenants.t7]", "[tenants.t7x]")).unwrap();
    stage.control.reload().await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap().unwrap_err();
    assert_eq!(code(&error), "57P01");
    assert_eq!(code(&stage.try_connect(&stage.url("t7", "app")).await.err().unwrap()), "28000");
    assert_eq!(one(&acme, "select 3").await, "3");
}

#[tokio::test]
async fn a_discard_that_fails_at_a_sessions_end_does_not_pass_for_a_clean_backend() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let hostile = stage.connect("t3").await;
    let many =
        "do $$ begin for i in 1..400 loop execute format('create temp table leftover_%s (x int)', i); end loop; end $$";
    hostile.simple_query(many).await.unwrap();
    // So short that discarding all of that is cut off.
    hostile.simple_query("set statement_timeout = '1ms'").await.unwrap();
    drop(hostile);
    let next = stage.connect("t4").await;
    assert_eq!(one(&next, "select coalesce(to_regclass('leftover_1')::text, 'nothing')").await, "nothing");
    assert_eq!(one(&next, "show statement_timeout").await, "0");
    assert_eq!(one(&next, "select distinct tenant_id from orders").await, "t4");
}
