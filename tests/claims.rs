//! Claims of the token in policies: plain settings for policies that exist already, and sealed ones.

mod support;

use std::time::Duration;

use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use support::{HEAD, Stage, cluster, configuration, one, unix_now};
use tokio_postgres::Client;

const ANN: &str = "6b1f1c9e-2f0e-4c57-8a57-0d9a3a0c5e11";
const BOB: &str = "9d0f6a44-7f43-4b0e-9f36-5a3c1f7c2b22";

async fn bearer(stage: &Stage, subject: &str) -> Client {
    let claims = serde_json::json!({ "sub": subject, "email": "x@example.com", "app_metadata": { "plan": "pro" } });
    let (tenant, role) = (TenantId::parse("acme").unwrap(), Access::parse("app").unwrap());
    let ttl = Duration::from_secs(600);
    let token = mint(&stage.settings.issuers[0], &tenant, &role, ttl, claims.as_object().unwrap(), unix_now()).unwrap();
    stage.try_connect(&stage.url_with("acme", &token)).await.unwrap()
}

#[tokio::test]
async fn policies_of_postgrests_and_supabases_kind_work_and_sealed_claims_cannot_be_forged() {
    let server = cluster().await.primary();
    let tables = "create schema auth; grant usage on schema auth to public;
        create function auth.uid() returns uuid language sql stable as
            $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
        create table notes (owner uuid not null default auth.uid(), note text);
        select pgward.protect('notes', add_column => true);
        drop policy pgward_rows on notes;
        create policy own_notes on notes using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
        grant select, insert, update, delete on notes to pgward_app";
    server.connect("app").await.unwrap().batch_execute(tables).await.unwrap();
    let mapped = "context.claims = [\"sub\"]\ncontext.settings.\"request.jwt.claims\" = { claim = \"$\" }\n\
        context.settings.\"app.plan\" = { claim = \"$.app_metadata.plan\" }\n[pool]\nmax_per_login = 1\n";
    let stage = Stage::with(&format!("{HEAD}{}", configuration(server.port(), mapped))).await;
    let (ann, bob) = (bearer(&stage, ANN).await, bearer(&stage, BOB).await);
    // One backend, so that each has what the other left.
    for (client, id) in [(&ann, ANN), (&bob, BOB)] {
        client.batch_execute(&format!("insert into notes (note) values ('of {id}')")).await.unwrap();
    }
    for (client, id) in [(&ann, ANN), (&bob, BOB), (&ann, ANN)] {
        assert_eq!(one(client, "select string_agg(note, ',') from notes").await, format!("of {id}"));
        assert_eq!(
            one(client, "select pgward.claims()").await,
            format!("{{\"sub\": \"{id}\"}}"),
            "the named ones alone"
        );
        assert_eq!(one(client, "select current_setting('app.plan')").await, "pro");
    }
    // A plain setting is as good as the SQL that runs in the session, within the tenant.
    let forged = format!("set request.jwt.claims = '{{\"sub\": \"{BOB}\"}}'");
    ann.batch_execute(&forged).await.unwrap();
    assert_eq!(one(&ann, "select string_agg(note, ',') from notes").await, format!("of {BOB}"));
    // With the sealed claims in the same function it is not.
    let sealed = "create or replace function auth.uid() returns uuid language sql stable as
        $$ select (pgward.claims() ->> 'sub')::uuid $$";
    server.connect("app").await.unwrap().batch_execute(sealed).await.unwrap();
    ann.batch_execute(&forged).await.unwrap();
    assert_eq!(one(&ann, "select string_agg(note, ',') from notes").await, format!("of {ANN}"));
}
