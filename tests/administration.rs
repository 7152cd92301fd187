//! How commands that administer a cluster connect to it: encrypted as the configuration says, and with an
//! explanation where it fails.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use pgward::local::{Authority, Cluster};
use support::{HEAD, configuration, one};
use tokio::sync::{Mutex, OnceCell};

/// Two installations at the same time would meet in PostgreSQL's catalogue.
static TURN: Mutex<()> = Mutex::const_new(());

static SECURED: OnceCell<Cluster> = OnceCell::const_new();

/// A cluster whose administrators come over TLS only, `guarded` only with a client certificate.
async fn secured() -> &'static Cluster {
    SECURED
        .get_or_init(async || {
            let cluster = Cluster::builder("administered")
                .tls()
                .hba("hostssl all guarded 127.0.0.1/32 scram-sha-256 clientcert=verify-ca")
                .hba("hostnossl all boss,guarded 127.0.0.1/32 reject")
                .start()
                .await
                .unwrap();
            let roles = "create role boss superuser login password 'the-boss'; \
                         create role guarded superuser login password 'the-boss'";
            cluster.primary().run("postgres", "create administrators", roles).await.unwrap();
            cluster.primary().run("postgres", "create the database", "create database app").await.unwrap();
            cluster
        })
        .await
}

/// A configuration on disk, with what it names.
struct Folder(tempfile::TempDir);

impl Folder {
    async fn new(tls: &str) -> Self {
        let cluster = secured().await;
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let client = cluster.authority().unwrap().client("anybody").unwrap();
        write("ca.crt", cluster.authority().unwrap().pem().as_str());
        write("wrong.crt", Authority::new("another").unwrap().pem().as_str());
        write("client.crt", &client.certificate);
        write("client.key", &client.key);
        let text = configuration(cluster.primary().port(), "").replace("tls.mode = \"off\"", tls);
        write("pgward.toml", &format!("{HEAD}{text}"));
        Self(folder)
    }

    async fn install(&self, user: &str, arguments: &[&str]) -> Output {
        install(self.0.path(), user, arguments).await
    }
}

async fn install(folder: &Path, user: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.arg("install").arg("--config").arg(folder.join("pgward.toml")).args(arguments);
    command.env_remove("PGWARD_INSTALL_URL").env("PGUSER", user).env("PGPASSWORD", "the-boss");
    let _turn = TURN.lock().await;
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const VERIFIED: &str = "tls = { mode = \"verify-full\", ca = \"ca.crt\" }";

#[tokio::test]
async fn an_administrator_connects_with_the_clusters_tls() {
    for tls in [VERIFIED, "tls.mode = \"require\""] {
        let done = Folder::new(tls).await.install("boss", &[]).await;
        assert!(done.status.success(), "{tls}: {}", said(&done));
    }
    let watch = secured().await.primary().connect("app").await.unwrap();
    assert_eq!(one(&watch, "select to_regprocedure('pgward.tenant()') is not null").await, "t");
}

#[tokio::test]
async fn an_administrators_login_is_bound_to_the_servers_certificate() {
    let folder = Folder::new("tls.mode = \"require\"").await;
    let port = secured().await.primary().port();
    let url = format!("postgresql://boss@127.0.0.1:{port}/?channel_binding=require");
    let done = folder.install("nobody", &["--url", &url]).await;
    assert!(done.status.success(), "{}", said(&done));
}

#[tokio::test]
async fn an_administrator_shows_the_clusters_client_certificate() {
    let without = Folder::new(VERIFIED).await.install("guarded", &[]).await;
    assert!(!without.status.success());
    assert!(said(&without).contains("certificate"), "{}", said(&without));
    let shown = "tls = { mode = \"verify-full\", ca = \"ca.crt\", certificate = \"client.crt\", key = \"client.key\" }";
    let with = Folder::new(shown).await.install("guarded", &[]).await;
    assert!(with.status.success(), "{}", said(&with));
}

#[tokio::test]
async fn a_refused_connection_is_explained_without_the_password() {
    let port = secured().await.primary().port();
    let wrong_password = format!("postgresql://boss:the-wrong-one@127.0.0.1:{port}/");
    let elsewhere = "postgresql://boss:the-wrong-one@db.example.invalid/?sslmode=disable";
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("tls = { mode = \"verify-full\", ca = \"wrong.crt\" }", &[], &["app at 127.0.0.1", "tls settings"]),
        ("tls.mode = \"off\"", &[], &["as boss", "pg_hba.conf"]),
        ("tls = { mode = \"verify-full\", ca = \"client.key\" }", &[], &["clusters.main.tls", "client.key"]),
        (VERIFIED, &["--database", "nowhere"], &["nowhere", "create the database"]),
        (VERIFIED, &["--url", &wrong_password], &["as boss", "PGPASSWORD"]),
        (VERIFIED, &["--url", "postgresql://boss:the-wrong-one@h:1:2/x"], &["--url", "connection string"]),
        (VERIFIED, &["--url", elsewhere], &["main demands TLS", "sslmode"]),
        (VERIFIED, &["--cluster", "other"], &["no cluster other", "main"]),
    ];
    for (tls, arguments, words) in cases {
        let refused = Folder::new(tls).await.install("boss", arguments).await;
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{tls} {arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{tls} {arguments:?}: {said}");
        assert!(!said.contains("the-wrong-one") && !said.contains("the-boss"), "{said}");
    }
}

#[tokio::test]
async fn nothing_is_sent_in_the_clear_where_tls_is_demanded_but_on_the_server_itself() {
    let folder = Folder::new(VERIFIED).await;
    let server = secured().await.primary();
    // The server would take this superuser without TLS, and says so where it is asked for.
    let plain = format!("{}?sslmode=disable", server.url());
    let done = folder.install("boss", &["--url", &plain]).await;
    assert!(done.status.success(), "{}", said(&done));
    // Where pg_hba.conf rejects plaintext, sslmode=prefer does not fall back to it.
    let url = format!("postgresql://boss@127.0.0.1:{}/?sslmode=prefer", server.port());
    let done = folder.install("boss", &["--url", &url]).await;
    assert!(done.status.success(), "{}", said(&done));
}
