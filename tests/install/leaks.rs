//! What lets a tenant past row security: another's row comes through, `pgward doctor` names it, and what it says
//! mends it.

use pgward::base::ClusterName;
use pgward::doctor::{self, Breadth, Mend, Question};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Place, code};

struct Leak {
    rule: &'static str,
    object: &'static str,
    made_by: &'static str,
    used_by: &'static str,
    /// Where doctor only advises.
    mended_by: Option<&'static str>,
}

const LEAKS: [Leak; 8] = [
    Leak {
        rule: "view-bypasses-row-security",
        object: "view public.shown",
        made_by: "create view shown as select * from things; grant select on shown to leaky_app",
        used_by: "select thing from shown",
        mended_by: None,
    },
    Leak {
        rule: "materialized-view",
        object: "materialized view public.kept",
        made_by: "create materialized view kept as select * from things; grant select on kept to leaky_app",
        used_by: "select thing from kept",
        mended_by: None,
    },
    Leak {
        rule: "definer-function-bypasses",
        object: "function public.things_of_all()",
        made_by: "create function things_of_all() returns setof text language sql security definer
            set search_path = pg_catalog, pg_temp as 'select thing from public.things'",
        used_by: "select things_of_all()",
        mended_by: Some("alter function things_of_all() security invoker"),
    },
    Leak {
        rule: "table-without-row-security",
        object: "table public.bare",
        made_by: "create table bare (tenant_id text primary key, thing text); grant select on bare to leaky_app;
            insert into bare values ('globex', 'secret of globex')",
        used_by: "select thing from bare",
        mended_by: None,
    },
    Leak {
        rule: "partition-without-row-security",
        object: "table public.parted_1",
        made_by:
            "create table parted (tenant_id text default pgward.tenant(), thing text, k int) partition by list (k);
            create table parted_1 partition of parted for values in (1);
            create index on parted (tenant_id);
            select pgward.protect('parted'); alter table parted_1 disable row level security;
            insert into parted_1 values ('globex', 'secret of globex', 1);
            grant select on parted, parted_1 to leaky_app",
        used_by: "select thing from parted_1",
        mended_by: None,
    },
    Leak {
        rule: "policy-open-to-read",
        object: "policy everybody on table public.opened",
        made_by: "create table opened (tenant_id text primary key, thing text); grant select on opened to leaky_app;
            insert into opened values ('globex', 'secret of globex');
            alter table opened enable row level security, force row level security;
            create policy own on opened using (tenant_id = (select pgward.tenant()));
            create policy everybody on opened for select using (thing is not null)",
        used_by: "select thing from opened",
        mended_by: None,
    },
    Leak {
        rule: "policy-forgeable",
        object: "policy customary on table public.customary",
        made_by: "create table customary (tenant_id text primary key, thing text);
            grant select on customary to leaky_app;
            insert into customary values ('globex', 'secret of globex');
            alter table customary enable row level security, force row level security;
            create policy customary on customary using (tenant_id = current_setting('app.tenant', true))",
        used_by: "set app.tenant = 'globex'; select thing from customary",
        mended_by: None,
    },
    Leak {
        rule: "grant-truncate",
        object: "table public.things",
        made_by: "grant truncate on things to leaky_app",
        used_by: "begin; truncate things; rollback; select 'secret of globex'",
        mended_by: None,
    },
];

/// The rows it saw, or the SQLSTATE.
async fn seen(tenant: &Client, text: &str) -> String {
    match tenant.simple_query(text).await {
        Ok(messages) => {
            let row = |message: &SimpleQueryMessage| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            };
            messages.iter().filter_map(row).collect::<Vec<_>>().join(" ")
        }
        Err(error) => {
            tenant.simple_query("rollback").await.unwrap();
            code(&error)
        }
    }
}

#[tokio::test]
async fn what_doctor_finds_lets_anothers_rows_through_and_what_it_says_ends_that() {
    let place = Place::new("leaky").await;
    place.install().await;
    let admin = place.admin().await;
    admin
        .batch_execute(
            "create table things (thing text); select pgward.protect('things', add_column => true);
            grant select, insert on things to leaky_app",
        )
        .await
        .unwrap();
    let stage = place.stage().await;
    let (hostile, witness) = (stage.connect("acme").await, stage.connect("globex").await);
    witness.batch_execute("insert into things values ('secret of globex')").await.unwrap();
    assert_eq!(seen(&hostile, "select thing from things").await, "");
    let cluster = ClusterName::parse("main").unwrap();
    let settings = place.settings();
    let question = Question::new(&settings, &cluster, place.name, &["tenant_id".to_owned()]);
    for Leak { rule, object, made_by, used_by, mended_by } in LEAKS {
        admin.batch_execute(made_by).await.unwrap_or_else(|error| panic!("{made_by}: {error:?}"));
        assert_eq!(seen(&hostile, used_by).await, "secret of globex", "{rule} is no leak");
        let found = doctor::examine(&admin, &question, Breadth::DatabaseAndCluster).await.unwrap().database.findings;
        let finding = found.iter().find(|finding| finding.rule.id == rule && finding.object == object);
        let finding = finding.unwrap_or_else(|| panic!("{rule}, {object} is not among {found:#?}"));
        match (&finding.mend, mended_by) {
            (Mend::Sql(_), None) => assert_eq!(doctor::mend(&admin, [finding].into_iter()).await.unwrap(), 1),
            (Mend::Advice(_), Some(sql)) => admin.batch_execute(sql).await.unwrap(),
            (mend, mended_by) => panic!("{rule}: {mend:?}, and the test has {mended_by:?}"),
        }
        let now = seen(&hostile, used_by).await;
        assert!(now.is_empty() || now == "42501", "{rule} is mended, and yet: {now}");
    }
    assert_eq!(seen(&witness, "select thing from things").await, "secret of globex");
}
