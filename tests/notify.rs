//! LISTEN and NOTIFY: a tenant hears its own sessions and no others, whatever either of them does.

mod support;

use support::Stage;
use support::raw::{Raw, bind, errors, execute, extended, parse, sync};

/// What a session has been notified of: it runs statements until it has heard `stop` on its channel `last`.
async fn heard(raw: &mut Raw, sender: &mut Raw) -> Vec<String> {
    sender.query("notify last, 'stop'").await;
    let mut heard = Vec::new();
    loop {
        let messages = raw.query("select 1").await;
        for message in messages.iter().filter(|message| message.tag == b'A') {
            let texts: Vec<String> = message.body[4..]
                .split(|byte| *byte == 0)
                .take(2)
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect();
            if texts == ["last", "stop"] {
                return heard;
            }
            heard.push(texts.join(" "));
        }
    }
}

#[tokio::test]
async fn notifications_reach_the_tenants_own_sessions_by_every_way_they_are_sent() {
    let stage = Stage::new("").await;
    for (tenant, other) in [("acme", "globex"), ("kandy", "acme")] {
        let mut listener = stage.raw(tenant).await;
        let mut stranger = stage.raw(other).await;
        let mut sender = stage.raw(tenant).await;
        let mut strange_sender = stage.raw(other).await;
        for raw in [&mut listener, &mut stranger] {
            raw.query("listen news").await;
            raw.send([extended("listen \"Big News\""), sync()].concat()).await;
            raw.ready().await;
            raw.query("listen last; listen gone").await;
            raw.query("unlisten gone").await;
        }
        sender.query("notify news, 'by statement'").await;
        sender.query("notify \"Big News\", 'quoted'; notify gone, 'unheard'").await;
        sender.query("select pg_notify('news', 'by function')").await;
        let bound = [parse("", "select pg_catalog.pg_notify($1, $2)"), bind("", "", &["Big News", "bound"])].concat();
        sender.send([bound, execute("", 0), sync()].concat()).await;
        assert_eq!(errors(&sender.ready().await), [""; 0]);
        sender.query("begin; notify news, 'rolled back'; rollback").await;
        sender.query("do $$ begin perform pgward.pg_notify('news', 'from a block'); end $$").await;
        assert_eq!(
            heard(&mut listener, &mut sender).await,
            ["news by statement", "Big News quoted", "news by function", "Big News bound", "news from a block"]
        );
        assert_eq!(heard(&mut stranger, &mut strange_sender).await, [""; 0], "{other} heard {tenant}");
    }
}

#[tokio::test]
async fn a_tenant_that_does_without_pgwards_names_hears_and_tells_nobody() {
    // Not the tenants of the other test, which may run at the same time.
    let stage = Stage::new("").await;
    let mut victim = stage.raw("t1").await;
    let mut victims_friend = stage.raw("t1").await;
    let mut hostile = stage.raw("t2").await;
    let mut hostile_sender = stage.raw("t2").await;
    victim.query("listen news; listen last").await;
    hostile.query("listen last").await;
    // The server's own names, by a text that nobody reads.
    let name = victim.one("select pgward.channel('news')").await;
    for channel in ["news", &name] {
        let listen = format!("do $$ begin execute 'listen {channel}'; end $$");
        assert_eq!(errors(&hostile.query(&listen).await), [""; 0]);
    }
    assert_ne!(hostile.one("select pgward.channel('news')").await, name);
    hostile_sender.query("do $$ begin execute 'notify news, ''raw'''; end $$").await;
    hostile_sender.query("notify news, 'renamed'").await;
    hostile_sender.query(&format!("notify {name}, 'renamed twice'")).await;
    hostile_sender.query(&format!("select pgward.pg_notify('{name}', 'renamed twice')")).await;
    victims_friend.query("notify news, 'secret'").await;
    assert_eq!(heard(&mut victim, &mut victims_friend).await, ["news secret"]);
    assert_eq!(heard(&mut hostile, &mut hostile_sender).await, [""; 0]);
}
