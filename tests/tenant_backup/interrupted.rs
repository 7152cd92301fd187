//! What commands leave that are killed, and what goes on around one that waits.

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::place::{Place, login, output, said, session};
use crate::support::{Stage, one, until};
use crate::{Tenant, running, waits_for_others};

/// What restores leave beside a tenant's schema or database, by names that only its own would have.
fn beside(tenant: &str, home: &str) -> String {
    let digest = Sha256::digest(format!("{tenant}\0{home}"));
    let unique: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "select count(*) from (select nspname::text from pg_namespace union all select datname::text from pg_database) x(name) \
         where name ~ '^pgward_(next|was)_{unique}'"
    )
}

/// Kills a restore when there is something of it.
async fn restore_is_killed(tenant: &Tenant<'_>, admin: &Client, beside: &str) {
    let Tenant { place, name, .. } = tenant;
    let [export, keep] = ["export", "keep"].map(|folder| place.path(folder).display().to_string());
    place.done(&format!("export {name} --into {export}")).await;
    let mut child = place.command(&format!("restore {name} --from {export} --yes --keep {keep}")).spawn().unwrap();
    until("something beside", async || one(admin, beside).await != "0").await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(one(admin, beside).await, "0");
}

async fn erased(tenant: &Tenant<'_>, admin: &Client, beside: &str, looked_for: &str) {
    let Tenant { place, name, .. } = tenant;
    place.done(&format!("erase {name} --yes --certificate {}", place.path("erased.json").display())).await;
    assert_eq!(one(admin, beside).await, "0");
    let certificate: serde_json::Value = serde_json::from_str(&place.read("erased.json")).unwrap();
    let seen = certificate["looked_for"].as_array().unwrap();
    assert!(seen.iter().any(|seen| seen["what"] == looked_for && seen["found"] == "0"), "{certificate:#}");
}

#[tokio::test]
async fn what_a_killed_restore_had_left_beside_a_schema_outlived_its_erasure() {
    let place = Place::new("beside_schema").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "beside_schema_own");
    drop(tenant.settle(&stage).await);
    let (admin, beside) = (place.admin().await, beside("beside_schema_own", "beside_schema_own"));
    restore_is_killed(&tenant, &admin, &beside).await;
    erased(&tenant, &admin, &beside, "schemas that restores have left").await;
}

#[tokio::test]
async fn what_a_killed_restore_had_left_beside_a_database_outlived_its_erasure() {
    let place = Place::new("beside_database").await;
    let stage = place.stage().await;
    let tenant = Tenant::database(&place, "beside_database_own");
    drop(tenant.settle(&stage).await);
    let (admin, beside) = (place.admin().await, beside("beside_database_own", "beside_database_own"));
    restore_is_killed(&tenant, &admin, &beside).await;
    // As a swap that is killed leaves what was there.
    let (_, name) = beside.split_once("^pgward_(next|was)_").unwrap();
    admin.batch_execute(&format!("create database pgward_was_{}", name.trim_end_matches('\''))).await.unwrap();
    erased(&tenant, &admin, &beside, "databases that restores have left").await;
}

#[tokio::test]
async fn what_a_killed_export_had_not_encrypted_yet_lay_there_for_ever() {
    let place = Place::new("unsealed").await;
    let stage = place.stage().await;
    drop(Tenant::rows(&place).settle(&stage).await);
    let many = "insert into orders (item, tenant_id) select 'secret ' || n, 'acme' from generate_series(1, 200000) n";
    place.admin().await.batch_execute(many).await.unwrap();
    std::fs::write(place.path("phrase"), "correct horse battery staple\n").unwrap();
    let phrase = place.path("phrase").display().to_string();
    let export = format!("export acme --into {} --passphrase-file {phrase}", place.path("export").display());
    let partial = || {
        let names = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.display().to_string().contains("export.partial-")).collect::<Vec<_>>()
    };
    let clear = || {
        let files = partial().into_iter().map(|folder| folder.join("0001-public.orders.csv"));
        files.filter(|file| std::fs::metadata(file).is_ok_and(|found| found.len() > 0)).count()
    };
    let kill = async || {
        let mut child = place.command(&export).spawn().unwrap();
        until("rows in the clear", async || clear() > 0).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(partial().len(), 1);
    };
    kill().await;
    // Whatever names the folder next looks for that first, though there is no export in it.
    place.fails(&format!("open {}", place.path("export").display())).await;
    assert_eq!(partial().len(), 0);
    kill().await;
    place.done(&export).await;
    assert_eq!(partial().len(), 0);
    assert!(place.path("export/0001-public.orders.csv.age").exists());
}

/// A tenant at level `rows` that is to be put back to an export, and a transaction of another that could be its last.
/// Returns the command that waits for it, and the other.
async fn held_up(tenant: &Tenant<'_>, stage: &Stage) -> (String, Client) {
    let place = tenant.place;
    let client = tenant.settle(stage).await;
    let [export, keep] = ["export", "keep"].map(|folder| place.path(folder).display().to_string());
    place.done(&format!("export acme --into {export}")).await;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let witness = session(stage, "witness").await.client;
    witness.batch_execute("begin; select * from orders").await.unwrap();
    (format!("restore acme --from {export} --yes --keep {keep}"), witness)
}

#[tokio::test]
async fn a_suspension_that_came_during_a_restore_was_lifted_by_it() {
    let place = Place::new("suspending").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    let (restore, witness) = held_up(&tenant, &stage).await;
    let admin = place.admin().await;
    let restoring = running(&place, &restore);
    until("it waits for others", async || waits_for_others(&admin).await).await;
    place.done("suspend acme").await;
    witness.batch_execute("commit").await.unwrap();
    let done = restoring.await.unwrap();
    assert!(done.status.success() && said(&done).contains("it is suspended"), "{}", said(&done));
    assert!(place.read("tenants.toml").contains("suspended = true"), "{}", place.read("tenants.toml"));
    assert_eq!(
        one(&admin, "select string_agg(item, ',' order by item) from orders where tenant_id = 'acme'").await,
        "a,b,c"
    );
    assert!(login(&stage, "acme", "app").await.is_err());
    place.done("resume acme").await;
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
}

#[tokio::test]
async fn a_restore_that_others_had_not_let_begin_left_the_tenant_suspended() {
    let place = Place::new("unquiet").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    let (restore, witness) = held_up(&tenant, &stage).await;
    let said = place.fails(&format!("{restore} --wait 10ms")).await;
    assert!(said.contains("could be its last") && said.contains("Nothing was changed"), "{said}");
    assert!(!crate::place::exists(&place.path("keep.restoring")));
    assert_eq!(tenant.sees(&stage).await, "b,c", "it is let in");
    place.done("suspend acme").await;
    place.fails(&format!("{restore} --wait 10ms")).await;
    assert!(place.read("tenants.toml").contains("suspended = true"), "as it was before");
    witness.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn why_a_restore_was_refused_was_hidden_by_what_failed_afterwards() {
    let place = Place::new("twofold").await;
    let stage = place.stage().await;
    let (restore, witness) = held_up(&Tenant::rows(&place), &stage).await;
    let admin = place.admin().await;
    let restoring = running(&place, &format!("{restore} --wait 5s"));
    until("it waits for others", async || waits_for_others(&admin).await).await;
    let text = place.read("tenants.toml");
    std::fs::write(place.path("tenants.toml"), format!("{text}\n[[broken")).unwrap();
    let done = restoring.await.unwrap();
    let said = said(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    let (first, second) = (said.find("could be its last").unwrap(), said.find("could not be let in again").unwrap());
    assert!(second < first, "why it ended comes last: {said}");
    std::fs::write(place.path("tenants.toml"), text).unwrap();
    witness.batch_execute("commit").await.unwrap();
    place.done(&restore).await;
    assert!(!place.read("tenants.toml").contains("restoring"), "the same command goes on, and lets it in");
}

#[tokio::test]
async fn time_limits_of_the_administrator_ended_the_session_that_a_restore_goes_by() {
    let place = Place::new("impatient").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "impatient_own");
    let client = tenant.settle(&stage).await;
    let (export, keep) = (place.path("export").display().to_string(), place.path("keep").display().to_string());
    place.done(&format!("export impatient_own --into {export}")).await;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let limits = "alter role current_user in database impatient set idle_session_timeout = '50ms'; \
        alter role current_user in database impatient set idle_in_transaction_session_timeout = '50ms'";
    place.admin().await.batch_execute(limits).await.unwrap();
    let mut restore = place.command(&format!("restore impatient_own --from {export} --yes --keep {keep}"));
    restore.env("PGWARD_EXPORT_PASSPHRASE", "");
    let done = output(restore).await;
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
}
