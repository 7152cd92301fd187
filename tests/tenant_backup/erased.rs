//! Disposal, and its certificate.

use std::time::{Duration, SystemTime};

use pgward::sidecar::erasures::Erasures;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::place::{Place, login};
use crate::support::{Stage, one, until};
use crate::{Tenant, Witness, world};

/// Its SHA-256 is that of what it says without it.
fn sound(text: &str) -> Value {
    let mut certificate: Value = serde_json::from_str(text).unwrap();
    let said = certificate.as_object_mut().unwrap().remove("sha256").unwrap();
    let own: String = Sha256::digest(certificate.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said, own);
    certificate
}

async fn erased(tenant: &Tenant<'_>, stage: &Stage, had: &str, looked_for: &str) -> Value {
    let Tenant { place, name, .. } = tenant;
    let witness = Witness::new(stage).await;
    drop(tenant.settle(stage).await);
    let file = place.path("erased.json").display().to_string();
    assert_eq!(place.run(&format!("erase {name} --certificate {file}")).await.status.code(), Some(2), "without --yes");
    place.done(&format!("erase {name} --yes --certificate {file}")).await;
    let certificate = sound(&place.read("erased.json"));
    assert_eq!((&certificate["tenant"], &certificate["cluster"]), (&(*name).into(), &"main".into()));
    let text = place.read("erased.json.txt");
    let orders = certificate["had"].as_array().unwrap().iter().find(|found| found["what"] == had);
    assert_eq!(orders.unwrap_or_else(|| panic!("{certificate:#}"))["rows"], 3);
    let seen = certificate["looked_for"].as_array().unwrap();
    assert!(
        seen.iter().any(|seen| seen["what"] == looked_for) && seen.iter().all(|seen| seen["found"] == "0"),
        "{seen:?}"
    );
    assert!(text.contains(had) && text.contains("server main-1 in region lk"), "{text}");
    assert!(!crate::place::exists(&place.path("erased.json.begun")));
    until("it is refused", async || login(stage, name, "app").await.is_err()).await;
    assert!(place.fails(&format!("erase {name} --yes --certificate {file}")).await.contains("there is no tenant"));
    witness.sees_what_it_saw().await;
    certificate
}

#[tokio::test]
async fn rows_are_erased_and_the_backups_that_have_them_are_named() {
    let place = world::place("erased_rows").await;
    let stage = place.stage().await;
    let before = SystemTime::now();
    let certificate = erased(&Tenant::rows(&place), &stage, "rows of public.orders", "rows in public.orders").await;
    let repository = &certificate["repositories"][0];
    assert_eq!((&repository["name"], &repository["region"]), (&"local".into(), &"lk".into()), "{certificate:#}");
    let backup = &repository["backups"][0];
    assert!(backup["label"].as_str().unwrap().ends_with('F'), "{certificate:#}");
    assert!(backup["kept_until"].as_str() > backup["made"].as_str(), "{certificate:#}");
    let gone = &certificate["gone"];
    assert!(gone["not_before"].as_str() >= backup["kept_until"].as_str(), "{certificate:#}");
    assert!(gone["but"].to_string().contains("is the last full backup in repository local"), "{certificate:#}");
    assert!(gone["but"].to_string().contains("whether it is by another one, or was before, is not known"), "{gone:#}");
    let erasures = Erasures::of(world::site(&place).folder());
    let named = |since: SystemTime| {
        let found = erasures.since(since).unwrap();
        found.into_iter().any(|erasure| erasure.tenant == "acme" && erasure.database == "erased_rows")
    };
    assert!(named(before), "whoever restores a backup of before is told");
    assert!(!named(SystemTime::now() + Duration::from_secs(1)));
    assert_eq!(one(&place.admin().await, "select count(*) from orders where tenant_id = 'acme'").await, "0");
}

#[tokio::test]
async fn a_schema_and_a_database_are_erased() {
    let place = Place::new("erased_own").await;
    let stage = place.stage().await;
    let schema = Tenant::schema(&place, "erased_own_s");
    let certificate = erased(&schema, &stage, "table erased_own_s.orders", "schema erased_own_s").await;
    assert_eq!(certificate["repositories"], Value::Array(Vec::new()), "there are no backups");
    assert_eq!(certificate["gone"]["not_before"], Value::Null, "others may make some");
    assert!(certificate["gone"]["but"][0].as_str().unwrap().contains("whether anybody else does"), "{certificate:#}");
    for file in ["erased.json", "erased.json.txt"] {
        std::fs::remove_file(place.path(file)).unwrap();
    }
    let database = Tenant::database(&place, "erased_own_d");
    erased(&database, &stage, "table public.orders", "database erased_own_d").await;
}

#[tokio::test]
async fn an_erasure_that_was_interrupted_still_certifies_what_there_was() {
    let place = Place::new("erasing").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    drop(tenant.settle(&stage).await);
    let file = place.path("erased.json").display().to_string();
    let erase = format!("erase acme --yes --certificate {file}");
    let gone = |place: &Place| !place.read("tenants.toml").contains("acme");
    let waits = [10, 400].into_iter().chain(crate::growing(1_900));
    let kills = crate::place::kill_until_done(&place, &erase, waits, gone).await;
    assert!(kills > 2, "it was killed {kills} times only");
    let certificate = sound(&place.read("erased.json"));
    let had = &certificate["had"][0];
    assert_eq!((&had["what"], &had["rows"]), (&"rows of public.orders".into(), &3.into()), "{certificate:#}");
    // It does not take the place of another one.
    place.done("add acme --home lk --cluster main --isolation rows --database {name}").await;
    let _ = std::fs::remove_file(place.path("erased.json.begun"));
    assert!(place.fails(&erase).await.contains("is there already"));
}

#[tokio::test]
async fn a_date_was_certified_that_a_hold_or_a_running_backup_keeps_from_being_kept() {
    let place = world::place("erased_promised").await;
    let stage = place.stage().await;
    drop(Tenant::rows(&place).settle(&stage).await);
    place.done("add globex --home lk --cluster main --isolation rows --database {name}").await;
    place.done("hold globex --reason inquiry").await;
    // As pgBackRest calls its session as long as a backup is made, which the first backup of this world has shown.
    let backing = place.admin().await;
    backing.batch_execute("set application_name = 'pgBackRest [backup]'").await.unwrap();
    let file = place.path("erased.json").display().to_string();
    place.done(&format!("erase acme --yes --certificate {file}")).await;
    let certificate = sound(&place.read("erased.json"));
    let but = certificate["gone"]["but"].to_string();
    assert!(but.contains("a backup was being made") && but.contains("other tenants of the cluster are under"), "{but}");
    for text in [place.read("erased.json"), place.read("erased.json.txt")] {
        assert!(!text.contains("globex") && !text.contains("inquiry"), "{text}");
    }
    assert!(place.read("erased.json.txt").contains("does not go before"), "{}", place.read("erased.json.txt"));
}

#[tokio::test]
async fn a_backup_that_is_being_made_is_noticed_from_its_beginning_to_its_end() {
    let place = Place::new("being_made").await;
    let (admin, other) = (place.admin().await, place.admin().await);
    let being_made = async || pgward::sidecar::backup::being_made(&admin).await.unwrap();
    assert!(!being_made().await);
    // pgward's own lock, and what pgBackRest calls itself.
    let (lock, unlock) = ("pg_advisory_lock(1885828961, 1650549611)", "pg_advisory_unlock_all()");
    let named = "set_config('application_name', 'pgBackRest [backup]', false)";
    for (begin, end) in [(lock, unlock), (named, "set_config('application_name', 'other', false)")] {
        other.batch_execute(&format!("select {begin}")).await.unwrap();
        assert!(being_made().await, "{begin}");
        other.batch_execute(&format!("select {end}")).await.unwrap();
        assert!(!being_made().await, "{end}");
    }
}

#[tokio::test]
async fn a_tenant_was_deleted_before_it_showed_that_its_backups_could_not_be_asked_for() {
    let folder = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "[backup]\ndirectory = {:?}\nscheduled = false\n[clusters.main.repositories.local]\nregion = \"lk\"\n\
         path = \"/nowhere\"\ncipher = \"a passphrase of at least 32 bytes, for tests\"\n",
        folder.path()
    );
    let place = Place::with("erased_unasked", &text).await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    drop(tenant.settle(&stage).await);
    let before = place.read("tenants.toml");
    let said = place.fails(&format!("erase acme --yes --certificate {}", place.path("erased.json").display())).await;
    assert!(said.contains(&folder.path().display().to_string()), "{said}");
    assert_eq!(place.read("tenants.toml"), before);
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
}

/// An erasure that is killed when it has noted what there is.
async fn begun(place: &Place, erase: &str) {
    // It does not come to its end before it is noticed.
    let holder = place.admin().await;
    holder.batch_execute("begin; select * from orders where tenant_id = 'acme' for update").await.unwrap();
    let mut child = place.command(erase).spawn().unwrap();
    until("the note", async || crate::place::exists(&place.path("erased.json.begun"))).await;
    child.kill().unwrap();
    child.wait().unwrap();
    holder.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn what_a_tenant_had_when_an_earlier_erasure_began_was_certified_of_a_later_one() {
    let place = Place::new("erased_again").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    drop(tenant.settle(&stage).await);
    let erase = format!("erase acme --yes --certificate {}", place.path("erased.json").display());
    begun(&place, &erase).await;
    place.done("resume acme").await;
    let more = "insert into orders (item) values ('more'), ('and more')";
    crate::place::session(&stage, "acme").await.client.batch_execute(more).await.unwrap();
    let rows = one(&place.admin().await, "select count(*) from orders where tenant_id = 'acme'").await;
    place.done(&erase).await;
    let certificate = sound(&place.read("erased.json"));
    assert_eq!(certificate["had"][0]["rows"].to_string(), rows, "{certificate:#}");
    // The certificate of one that is done is not that of the next of this name.
    place.done("add acme --home lk --cluster main --isolation rows --database {name}").await;
    place.done("suspend acme").await;
    assert!(place.fails(&erase).await.contains("is there already"));
}

#[tokio::test]
async fn a_note_of_another_tenant_of_that_name_was_taken_for_its_own() {
    let place = Place::new("erased_other").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    drop(tenant.settle(&stage).await);
    let erase = format!("erase acme --yes --certificate {}", place.path("erased.json").display());
    begun(&place, &erase).await;
    let note = place.read("erased.json.begun");
    let other = note.replace("\"database\":\"erased_other\"", "\"database\":\"elsewhere\"");
    assert_ne!(note, other);
    std::fs::write(place.path("erased.json.begun"), &other).unwrap();
    let said = place.fails(&erase).await;
    assert!(said.contains("in database elsewhere of cluster main, which is another"), "{said}");
    std::fs::write(place.path("erased.json.begun"), &note).unwrap();
    place.done(&erase).await;
    assert_eq!(sound(&place.read("erased.json"))["had"][0]["rows"], 3);
}
