//! Real drivers and tools through pgward, with more clients than backends. What each of them can do is a
//! check of its own, `driver.check`, told by name when it fails.
//!
//! `PGWARD_DRIVERS=direct cargo test --test drivers` runs the same checks on PostgreSQL itself;
//! `PGWARD_CHECKS=prepared,copy_text` runs only these.

mod checks;
mod judge;
mod place;
mod scripts;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod with_sqlx;
mod with_tokio_postgres;

use judge::judge;
use scripts::Script;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psycopg() {
    let script = Script::python("with_psycopg.py");
    judge("psycopg", async |urls, names| script.run(urls, names).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asyncpg() {
    let script = Script::python("with_asyncpg.py");
    judge("asyncpg", async |urls, names| script.run(urls, names).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psycopg_async() {
    let script = Script::python("with_psycopg_async.py");
    judge("psycopg_async", async |urls, names| script.run(urls, names).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokio_postgres() {
    judge("tokio_postgres", async |urls, names| checks::run(with_tokio_postgres::CHECKS, urls, names).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlx() {
    judge("sqlx", async |urls, names| checks::run(with_sqlx::CHECKS, urls, names).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools() {
    judge("tools", async |urls, names| checks::run(tools::CHECKS, urls, names).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_postgres() {
    let script = Script::node("with_node_postgres.mjs");
    judge("node_postgres", async |urls, names| script.run(urls, names).await).await;
}
