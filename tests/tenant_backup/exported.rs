//! Exports: opened again, found damaged, and restored from.

use std::path::Path;

use crate::place::{Place, also, ended, exists, login, output, own_cluster, said, session};
use crate::support::{Stage, one};
use crate::{Tenant, Witness};

/// Exports, changes everything, looks, restores and looks again; then undoes that.
async fn there_and_back(tenant: &Tenant<'_>, stage: &Stage, change: &str, shown: &[&str]) {
    let Tenant { place, name, .. } = tenant;
    let witness = Witness::new(stage).await;
    drop(tenant.settle(stage).await);
    let (export, keep) = (place.path("export"), place.path("keep"));
    let (export, keep) = (export.display(), keep.display());
    place.done(&format!("export {name} --into {export}")).await;
    let session = session(stage, name).await;
    session.client.batch_execute(change).await.unwrap();
    let changed = one(&session.client, crate::SEEN).await;
    let before = place.read("tenants.toml");

    let looked = place.done(&format!("restore {name} --from {export}")).await;
    assert!(looked.contains("nothing was changed"), "{looked}");
    for words in shown {
        let words: Vec<&str> = words.split_whitespace().collect();
        let has = |line: &str| line.split_whitespace().collect::<Vec<_>>().starts_with(&words);
        assert!(looked.lines().any(has), "{words:?}: {looked}");
    }
    assert_eq!(one(&session.client, crate::SEEN).await, changed);
    assert_eq!(place.run(&format!("restore {name} --from {export} --yes")).await.status.code(), Some(2), "--keep");

    session.client.batch_execute("begin; insert into orders (item) values ('never')").await.unwrap();
    let restored = place.done(&format!("restore {name} --from {export} --yes --keep {keep}")).await;
    assert!(restored.contains("is what it was"), "{restored}");
    assert_eq!(ended(session).await.1, "the tenant is suspended");
    assert_eq!(tenant.sees(stage).await, "a,b,c");
    let again = place.done(&format!("restore {name} --from {export} --yes --keep {keep}")).await;
    assert!(again.contains("nothing was changed"), "{again}");
    // It works on, with numbers that nobody has.
    let used = crate::place::session(stage, name).await.client;
    used.batch_execute("insert into orders (item) values ('d')").await.unwrap();
    drop(used);

    place.done(&format!("restore {name} --from {keep} --yes --keep {}", place.path("other").display())).await;
    assert_eq!(tenant.sees(stage).await, changed, "what was kept undoes it");
    assert_eq!(place.read("tenants.toml").replace("suspended = false\n", ""), before);
    witness.sees_what_it_saw().await;
    left_behind(place, place.path("").as_path()).await;
}

/// Nothing of a restore is left: no schema, no database, no folder.
pub async fn left_behind(place: &Place, folder: &Path) {
    let own = format!(
        "select count(*) from pg_namespace where nspname ~ '^pgward_(next|was)' and current_database() = '{}'",
        place.name
    );
    assert_eq!(one(&place.admin().await, &own).await, "0");
    let names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let strange = names.iter().find(|name| name.contains("restor") || name.contains("partial"));
    assert_eq!(strange, None, "{names:?}");
}

#[tokio::test]
async fn a_tenants_rows_come_back_out_of_an_export_and_go_again() {
    let place = Place::new("back_rows").await;
    let stage = place.stage().await;
    let change = "delete from orders where item = 'a'; update orders set item = 'B' where item = 'b'; \
        insert into orders (item) values ('x'), ('y')";
    there_and_back(&Tenant::rows(&place), &stage, change, &["public.orders 2 1 1 1"]).await;
}

const CHANGE: &str = "delete from orders where item = 'a'; update orders set item = 'B' where item = 'b'; \
    insert into orders (item) values ('x'), ('y'); drop view few; alter table events add more int; create table extra (a int)";

#[tokio::test]
async fn a_tenants_schema_comes_back_out_of_an_export_and_goes_again() {
    let place = Place::new("back_schema").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "back_schema_own");
    let shown = [
        "back_schema_own.orders 2 1 1 1",
        "back_schema_own.Odd 'name' 0 0 0 3",
        "back_schema_own.events 0 0 0 0 now it has more integer",
        "back_schema_own.extra 0 0 0 0 was not there then",
    ];
    there_and_back(&tenant, &stage, CHANGE, &shown).await;
    whole(&stage, tenant.name, "back_schema_own").await;
}

#[tokio::test]
async fn a_tenants_database_comes_back_out_of_an_export_and_goes_again() {
    let place = Place::new("back_database").await;
    let stage = place.stage().await;
    let tenant = Tenant::database(&place, "back_database_own");
    let admin = place.admin().await;
    there_and_back(&tenant, &stage, CHANGE, &["public.orders 2 1 1 1", "public.extra 0 0 0 0 was not there then"])
        .await;
    whole(&stage, tenant.name, "public").await;
    let kept = "select pg_catalog.shobj_description(oid, 'pg_database') || ' ' || has_database_privilege('public', oid, 'connect') \
        from pg_database where datname = 'back_database_own'";
    assert_eq!(one(&admin, kept).await, "pgward: tenant back_database_own false");
    assert_eq!(one(&admin, "select count(*) from pg_database where datname ~ '^pgward_.*back_database'").await, "0");
}

/// Restoring back and forth loses nothing besides rows: who owns what, who may what, what is checked and computed.
async fn whole(stage: &Stage, tenant: &str, schema: &str) {
    let client = session(stage, tenant).await.client;
    let owners = format!("select string_agg(distinct tableowner, ',') from pg_tables where schemaname = '{schema}'");
    assert_eq!(one(&client, &owners).await, tenant);
    assert_eq!(one(&client, "select count(*) from events where more is null and what = 'old'").await, "1");
    assert_eq!(one(&client, "select count(*) from \"Odd 'name'\"").await, "3");
    assert_eq!(one(&client, "select bool_and(twice = item || item) from orders").await, "t");
    let refused = client.batch_execute(&format!("insert into orders (item) values ('{}')", "x".repeat(200))).await;
    assert_eq!(crate::support::code(&refused.unwrap_err()), "23514");
    let reader = login(stage, tenant, "readonly").await.unwrap().client;
    assert_eq!(one(&reader, "select count(*) > 0 from orders").await, "t");
    assert!(reader.batch_execute("delete from orders").await.is_err());
}

/// No row tells of it.
#[tokio::test]
async fn a_function_that_was_dropped_comes_back() {
    let place = Place::new("defined").await;
    let stage = place.stage().await;
    let mut tenant = Tenant::schema(&place, "defined_own");
    tenant.options += " --schema O\"dd";
    let client = tenant.settle(&stage).await;
    client.batch_execute("create function answer() returns int language sql as 'select 42'").await.unwrap();
    let (export, keep) = (place.path("export").display().to_string(), place.path("keep").display().to_string());
    place.done(&format!("export defined_own --into {export}")).await;
    let restore = format!("restore defined_own --from {export} --yes --keep {keep}");
    assert!(place.done(&restore).await.contains("nothing was changed"));
    client.batch_execute("drop function answer()").await.unwrap();
    let restored = place.done(&restore).await;
    assert!(restored.contains("definitions") && restored.contains("is what it was"), "{restored}");
    assert_eq!(one(&session(&stage, "defined_own").await.client, "select answer()").await, "42");
}

#[tokio::test]
async fn a_tenants_own_cluster_has_its_database_back() {
    let own = own_cluster("own").await;
    let mut place = Place::with("back_cluster", &also("own", own.primary())).await;
    let stage = place.stage().await;
    place.url = own.primary().url();
    let add = "add back_cluster_own --home lk --isolation cluster --cluster own --database shop";
    place.done(add).await;
    let client = session(&stage, "back_cluster_own").await.client;
    let make = "create table orders (item text); insert into orders values ('a'), ('b'), ('b')";
    client.batch_execute(make).await.unwrap();
    let (export, keep) = (place.path("export").display().to_string(), place.path("keep").display().to_string());
    place.done(&format!("export back_cluster_own --into {export}")).await;
    client.batch_execute("delete from orders; insert into orders values ('b')").await.unwrap();
    let restored = place.done(&format!("restore back_cluster_own --from {export} --yes --keep {keep}")).await;
    let row = |line: &str| line.split_whitespace().collect::<Vec<_>>() == ["public.orders", "0", "2", "0", "1"];
    assert!(restored.lines().any(row), "without a key rows are told apart by all that is in them: {restored}");
    let client = session(&stage, "back_cluster_own").await.client;
    assert_eq!(one(&client, crate::SEEN).await, "a,b,b");
}

/// Who owns the tables, and is bound by their row security.
#[tokio::test]
async fn rows_come_back_by_an_administrator_who_is_no_superuser() {
    let mut place = Place::new("owning").await;
    let admin = place.admin().await;
    let roles = "create role owning_admin login createrole createdb password 'manages'; \
        grant pg_read_all_stats, pg_signal_backend to owning_admin; alter database owning owner to owning_admin; \
        grant set on parameter session_replication_role to owning_admin; \
        drop event trigger pgward_guard; drop table orders; drop schema pgward cascade; \
        drop owned by owning_app, owning_readonly, owning_service; drop role owning_app, owning_readonly, owning_service";
    admin.batch_execute(roles).await.unwrap();
    let superuser = place.url.clone();
    let (_, address) = superuser.split_once('@').unwrap();
    place.url = format!("postgresql://owning_admin:manages@{}/", address.split('/').next().unwrap());
    let stage = place.stage().await;
    place.done("add acme --home lk --cluster main --isolation rows --database owning").await;
    let orders = "set role owning_admin; create table orders (id int primary key, item text); \
        select pgward.protect('orders', add_column => true); grant select, insert, delete on orders to owning_app; reset role; \
        insert into orders values (1, 'a', 'acme'), (2, 'b', 'acme'), (3, 'c', 'acme'), (4, 'z', 'witness')";
    admin.batch_execute(orders).await.unwrap();
    let (export, keep) = (place.path("export").display().to_string(), place.path("keep").display().to_string());
    place.done(&format!("export acme --into {export}")).await;
    let client = session(&stage, "acme").await.client;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let restored = place.done(&format!("restore acme --from {export} --yes --keep {keep}")).await;
    let row = |line: &str| line.split_whitespace().collect::<Vec<_>>() == ["public.orders", "0", "1", "0", "2"];
    assert!(restored.lines().any(row), "{restored}");
    assert_eq!(one(&admin, "select string_agg(item, ',' order by item) from orders").await, "a,b,c,z");
}

#[tokio::test]
async fn an_encrypted_export_is_opened_by_its_key_alone_and_restored_from() {
    let place = Place::new("sealed").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    let client = tenant.settle(&stage).await;
    let (export, plain) = (place.path("export"), place.path("plain"));
    std::fs::write(place.path("phrase"), "correct horse battery staple\n").unwrap();
    std::fs::write(place.path("other"), "some other words than those\n").unwrap();
    std::fs::write(place.path("short"), "horse\n").unwrap();
    let [phrase, other, short] = ["phrase", "other", "short"].map(|name| place.path(name).display().to_string());
    let into = export.display();
    assert!(place.fails(&format!("export acme --into {into} --passphrase-file {short}")).await.contains("too short"));
    place.done(&format!("export acme --into {into} --passphrase-file {phrase}")).await;
    for entry in std::fs::read_dir(&export).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(name == "manifest.json" || name.ends_with(".age"), "{name}");
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"id,item"), "{name}");
    }
    assert!(!place.read("export/manifest.json").contains("rows\": 3"), "{}", place.read("export/manifest.json"));
    assert!(place.done(&format!("open {into}")).await.contains("are what they were"));
    let open = format!("open {into} --into {}", plain.display());
    assert!(place.fails(&open).await.contains("is encrypted"), "without a key");
    let wrong = place.fails(&format!("{open} --passphrase-file {other}")).await;
    assert!(wrong.contains("is not opened by what was given") && !exists(&plain), "{wrong}");
    place.done(&format!("{open} --passphrase-file {phrase}")).await;
    assert!(place.read("plain/0001-public.orders.csv").contains("a"), "{}", place.read("plain/manifest.json"));
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let keep = place.path("keep");
    let restore = format!("restore acme --from {into} --yes --keep {}", keep.display());
    assert!(place.fails(&restore).await.contains("is encrypted"));
    let mut by_environment = place.command(&restore);
    by_environment.env("PGWARD_EXPORT_PASSPHRASE", "correct horse battery staple");
    let restored = output(by_environment).await;
    assert!(restored.status.success(), "{}", said(&restored));
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
    // What was there then is kept as the export is.
    assert!(place.path("keep/key.age").exists() && !place.path("keep/0001-public.orders.csv").exists());
    place.done(&format!("restore acme --from {} --passphrase-file {phrase}", keep.display())).await;
}

#[tokio::test]
async fn a_passphrase_that_is_no_text_left_an_export_in_the_clear() {
    let place = Place::new("unworded").await;
    let stage = place.stage().await;
    drop(Tenant::rows(&place).settle(&stage).await);
    let export = place.path("export");
    let mut command = place.command(&format!("export acme --into {}", export.display()));
    command.env("PGWARD_EXPORT_PASSPHRASE", <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&[0xff; 20]));
    let refused = output(command).await;
    assert!(!exists(&export), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("PGWARD_EXPORT_PASSPHRASE is not valid UTF-8"), "{}", said(&refused));
}

#[tokio::test]
async fn an_export_to_a_recipient_is_opened_by_its_identity() {
    let place = Place::new("addressed").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "addressed_own");
    drop(tenant.settle(&stage).await);
    use age::secrecy::ExposeSecret;
    let (identity, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    for (name, identity) in [("identity", &identity), ("other", &other)] {
        let text = format!("# of the archive\n{}\n", identity.to_string().expose_secret());
        std::fs::write(place.path(name), text).unwrap();
    }
    let (export, plain) = (place.path("export").display().to_string(), place.path("plain").display().to_string());
    place.done(&format!("export addressed_own --into {export} --recipient {}", identity.to_public())).await;
    let by = |name: &str| format!("open {export} --into {plain} --identity {}", place.path(name).display());
    assert!(place.fails(&by("other")).await.contains("is not opened"));
    place.done(&by("identity")).await;
    assert!(exists(&place.path("plain/dump/toc.dat")));
    assert!(place.done(&format!("open {plain}")).await.contains("are what they were"), "what was opened is an export");
    session(&stage, "addressed_own").await.client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let keep = place.path("keep").display().to_string();
    let restore = format!("restore addressed_own --from {export} --identity {}", place.path("identity").display());
    place.done(&format!("{restore} --yes --keep {keep}")).await;
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
    let undo = format!("restore addressed_own --from {keep} --identity {}", place.path("identity").display());
    assert!(place.done(&undo).await.contains("nothing was changed; do it"), "who opens the export opens what was kept");
    let removed = format!("{} --recipient {}", place.path("removed").display(), other.to_public());
    let unexported = removed.replace(&place.path("removed").display().to_string(), "");
    assert!(place.fails(&format!("remove addressed_own --yes {unexported}")).await.contains("without --export"));
    place.done(&format!("remove addressed_own --yes --export {removed}")).await;
    assert!(place.path("removed/key.age").exists() && !place.path("removed/dump").join("toc.dat").exists());
}

#[tokio::test]
async fn a_byte_that_was_flipped_is_found_and_nothing_is_restored() {
    let place = Place::new("flipped").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    let client = tenant.settle(&stage).await;
    let export = place.path("export").display().to_string();
    place.done(&format!("export acme --into {export}")).await;
    let file = place.path("export/0001-public.orders.csv");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let restore = format!("restore acme --from {export} --yes --keep {}", place.path("keep").display());
    for line in [format!("open {export}"), restore.clone()] {
        let said = place.fails(&line).await;
        assert!(said.contains("0001-public.orders.csv") && said.contains("is not what it was"), "{said}");
    }
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    std::fs::write(place.path("export/more.csv"), "x").unwrap();
    assert!(place.fails(&restore).await.contains("more.csv does not belong"));
    assert_eq!(one(&client, crate::SEEN).await, "b,c");
    assert!(!place.read("tenants.toml").contains("suspended"));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_anything_is_changed() {
    let place = Place::new("unfit").await;
    let stage = place.stage().await;
    let admin = place.admin().await;
    let tables = "create table lines (id int primary key, what text); select pgward.protect('lines', add_column => true); \
        create table sizes (id int primary key); insert into sizes values (1), (2); \
        create table fits (id int, size int references sizes); select pgward.protect('fits', add_column => true)";
    admin.batch_execute(tables).await.unwrap();
    let tenant = Tenant::rows(&place);
    let client = tenant.settle(&stage).await;
    admin
        .batch_execute(
            "insert into fits values (1, 1, 'acme'), (2, 2, 'acme'); insert into lines values (1, 'x', 'acme')",
        )
        .await
        .unwrap();
    let export = place.path("export").display().to_string();
    let restore = format!("restore acme --from {export} --yes --keep {}", place.path("keep").display());
    place.done(&format!("export acme --into {export}")).await;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();

    admin.batch_execute("alter table lines add more int").await.unwrap();
    let said = place.fails(&restore).await;
    assert!(said.contains("public.lines is not what it was: now it has more integer"), "{said}");
    admin.batch_execute("create table later (a int); select pgward.protect('later', add_column => true); insert into later values (1, 'acme')").await.unwrap();
    let said = place.fails(&format!("{restore} --leave public.lines")).await;
    assert!(said.contains("public.later was not there then, and the tenant has 1 rows"), "{said}");
    // What is referred to has gone meanwhile.
    admin.batch_execute("delete from fits where size = 2; delete from sizes where id = 2").await.unwrap();
    let leave = "--leave public.lines --leave public.later";
    let said = place.fails(&format!("{restore} {leave}")).await;
    assert!(said.contains("fits_size_fkey") && said.contains("nothing was changed"), "{said}");
    assert_eq!(one(&admin, "select count(*) from orders where tenant_id = 'acme'").await, "2");
    assert_eq!(one(&session(&stage, "acme").await.client, crate::SEEN).await, "b,c", "it goes on");
    admin.batch_execute("insert into sizes values (2)").await.unwrap();
    place.done(&format!("{restore} {leave}")).await;
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
    assert_eq!(one(&admin, "select count(*) from later").await, "1");
}

#[tokio::test]
async fn what_others_have_made_of_a_tenants_schema_is_not_lost_by_a_restore() {
    let place = Place::new("needed").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "needed_own");
    let client = tenant.settle(&stage).await;
    let export = place.path("export").display().to_string();
    place.done(&format!("export needed_own --into {export}")).await;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let admin = place.admin().await;
    admin.batch_execute("create view public.overview as select count(*) from needed_own.orders").await.unwrap();
    let restore = format!("restore needed_own --from {export} --yes --keep {}", place.path("keep").display());
    let said = place.fails(&restore).await;
    assert!(said.contains("view public.overview") && said.contains("nothing was changed"), "{said}");
    assert_eq!(tenant.sees(&stage).await, "b,c");
    admin.batch_execute("drop view public.overview").await.unwrap();
    place.done(&restore).await;
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
}

/// What runs for each row is the tenant's own, and must not be run as administrator.
#[tokio::test]
async fn a_check_that_reaches_for_more_gets_no_more_than_the_tenant_has() {
    let place = Place::new("trojan").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "trojan_own");
    let client = tenant.settle(&stage).await;
    let horse = "create function trojan_own.reach(what text) returns bool language plpgsql as $$ begin \
        if current_user <> 'trojan_own' or session_user <> 'trojan_own' then \
        execute 'alter role trojan_own superuser'; end if; return true; end $$; \
        alter table orders add constraint reach check (trojan_own.reach(item))";
    client.batch_execute(horse).await.unwrap();
    let export = place.path("export").display().to_string();
    place.done(&format!("export trojan_own --into {export}")).await;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    place.done(&format!("restore trojan_own --from {export} --yes --keep {}", place.path("keep").display())).await;
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
    let admin = place.admin().await;
    assert_eq!(one(&admin, "select rolsuper from pg_roles where rolname = 'trojan_own'").await, "f");
}
