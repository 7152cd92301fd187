//! Ending the transaction under way within one text or one pipeline, and going on (line 5).

use crate::case::{Case, run, sql};
use crate::support::raw::{bind, close, describe, execute, extended as batch, flush, parse, query, sync};
use crate::tap::{Hostile, ask, held, leave};

/// Bytes in one write. What is read must be its own.
async fn at_once(h: &Hostile, bytes: Vec<u8>) -> Result<String, String> {
    let mut wire = h.session().await;
    wire.send(bytes).await;
    wire.send(query("rollback; select 'the end'")).await;
    let mut shown = Vec::new();
    let mut codes = Vec::new();
    while let Some(message) = wire.next().await {
        match message.tag {
            b'D' => shown.push(message.columns().join(",")),
            b'E' => codes.push(message.field(b'C')),
            _ => {}
        }
        if shown.last().is_some_and(|row| row == "the end") && message.tag == b'Z' {
            break;
        }
    }
    leave(wire).await;
    let strangers: Vec<&String> = shown.iter().filter(|row| row.contains("acme") || row.contains("kandy")).collect();
    held(strangers.is_empty(), format!("{} rows, none another's; {}", shown.len(), codes.join(" ")))
}

pub fn cases() -> Vec<Case> {
    vec![
        sql("end.commit-select", 5, "COMMIT; SELECT in one text", &["begin; select 1; commit; {peek}"]).blind(),
        sql("end.rollback-select", 5, "ROLLBACK; SELECT in one text", &["begin; select 1; rollback; {peek}"]).blind(),
        sql(
            "end.commit-tenant",
            5,
            "COMMIT; SELECT: the tenant is still one's own",
            &["begin; select 1; commit; select count(*) from {mine}"],
        )
        .shows("100"),
        sql(
            "end.many",
            5,
            "many transactions in one text",
            &["begin; commit; begin; rollback; begin; commit; select count(*) from {mine}"],
        )
        .shows("100"),
        sql(
            "end.implicit",
            5,
            "COMMIT in an implicit transaction",
            &["select 1; commit; select 2; rollback; select count(*) from {mine}"],
        )
        .shows("100"),
        sql(
            "end.chain",
            5,
            "COMMIT AND CHAIN",
            &["begin; commit and chain; rollback and chain; select count(*) from {mine}"],
        )
        .shows("100"),
        sql("end.error-then-commit", 5, "an error, COMMIT, a read", &["begin", "select 1/0", "commit", "{peek}"])
            .blind(),
        sql("end.abort", 5, "ABORT; END", &["begin; abort; begin; end; select count(*) from {mine}"]).shows("100"),
        sql(
            "end.local-over",
            5,
            "a context for the transaction, then COMMIT",
            &["begin; set local {context} = '{forged}'; commit; select count(*) from {mine}"],
        )
        .shows("100"),
        run("end.pipeline", 5, "Execute(COMMIT) and Execute(SELECT), one Sync", |h| {
            Box::pin(async move {
                let peek = h.words("{peek}");
                at_once(&h, [batch("begin"), batch("commit"), batch(&peek), sync()].concat()).await
            })
        })
        .of_pgward(),
        run("end.pipeline-mine", 5, "the same many times over, reading one's own", |h| {
            Box::pin(async move {
                let mine = h.words("select item from {mine}");
                let one = [batch("begin"), batch("commit"), batch(&mine), batch("rollback"), batch(&mine)].concat();
                at_once(&h, [one.repeat(20), sync()].concat()).await
            })
        })
        .of_pgward(),
        run("end.pipeline-errors", 5, "errors between the messages of a pipeline", |h| {
            Box::pin(async move {
                let peek = h.words("{peek}");
                let bytes = [
                    batch("begin"),
                    batch("select 1/0"),
                    batch("commit"),
                    batch(&peek),
                    sync(),
                    batch(&peek),
                    sync(),
                    batch("no sql"),
                    flush(),
                    batch(&peek),
                    sync(),
                    query(&format!("commit; {peek}")),
                    batch(&peek),
                    sync(),
                ];
                at_once(&h, bytes.concat()).await
            })
        })
        .of_pgward(),
        run("end.flushes", 5, "COMMIT, Flush, and on without a Sync", |h| {
            Box::pin(async move {
                let peek = h.words("{peek}");
                at_once(
                    &h,
                    [batch("begin"), batch("commit"), flush(), batch(&peek), flush(), batch(&peek), sync()].concat(),
                )
                .await
            })
        })
        .of_pgward(),
        run("end.mixed", 5, "simple queries within an extended batch", |h| {
            Box::pin(async move {
                let peek = h.words("{peek}");
                let bytes = [
                    batch("begin"),
                    query(&format!("commit; {peek}")),
                    batch(&peek),
                    query("select 1"),
                    sync(),
                    batch(&peek),
                    sync(),
                ];
                at_once(&h, bytes.concat()).await
            })
        })
        .of_pgward(),
        run("end.portal", 5, "a portal that is bound before and run behind the COMMIT", |h| {
            Box::pin(async move {
                let mine = h.words("select item from {mine}");
                let bytes = [
                    batch("begin"),
                    parse("s", &mine),
                    bind("p", "s", &[]),
                    execute("p", 3),
                    batch("commit"),
                    execute("p", 0),
                    sync(),
                    execute("p", 0),
                    sync(),
                    describe('P', "p"),
                    close('P', "p"),
                    sync(),
                ];
                at_once(&h, bytes.concat()).await
            })
        })
        .of_pgward(),
        run("end.context-pipeline", 2, "a forged context ahead in one pipeline", |h| {
            Box::pin(async move {
                let (set, peek) = (h.words("set {context} = '{forged}'"), h.words("{peek}"));
                at_once(
                    &h,
                    [
                        batch(&set),
                        batch(&peek),
                        sync(),
                        batch(&set),
                        sync(),
                        batch(&peek),
                        sync(),
                        batch("reset all"),
                        batch(&peek),
                        sync(),
                    ]
                    .concat(),
                )
                .await
            })
        })
        .of_pgward(),
        run("end.tenants-between", 5, "pipelines while another tenant's come between", |h| {
            Box::pin(async move {
                let mine = h.words("select item from {mine}");
                let peek = h.words("{peek}");
                for n in 0..12 {
                    let mut other = h.log_in(&crate::place::login("globex"), &[]).await.0;
                    ask(&mut other, "select 1").await;
                    let bytes =
                        [batch("begin"), batch(&mine), batch("commit"), batch(&peek), sync(), batch(&peek), sync()]
                            .concat();
                    at_once(&h, bytes[..bytes.len()].to_vec()).await?;
                    leave(other).await;
                    let _ = n;
                }
                Ok("no row but its own".to_owned())
            })
        })
        .of_pgward(),
    ]
}
