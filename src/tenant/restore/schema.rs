//! Level `schema`: what was there is loaded into a schema beside the tenant's, and the two change places.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, pin_mut};
use tokio_postgres::Client;

use super::compare::{Difference, Side, compare, differences};
use super::shape::{Column, Shape, Within};
use super::{RestoreError, failed};
use crate::config::Tenant;
use crate::tenant::install::{self, InstallError, sql};
use crate::tenant::provision::{own_roles, unique};

/// The tenant's schema, and the one that is to take its place.
pub struct TwinSchema<'a> {
    tenant: &'a Tenant,
    home: String,
    /// What the names begin with of those that are beside it.
    prefix: String,
    next: String,
}

impl<'a> TwinSchema<'a> {
    pub fn of(tenant: &'a Tenant) -> Self {
        let home = tenant.search_path.first().cloned().unwrap_or_default();
        let prefix = format!("pgward_next_{}_", unique(&tenant.id, &home));
        Self { tenant, home, next: super::beside(&prefix), prefix }
    }

    /// What it is called as long as it is beside the tenant's.
    pub fn next(&self) -> &str {
        &self.next
    }

    /// In a copy that is nobody's: what is taken from there comes under the other name.
    pub async fn rename(&self, copy: &Client) -> Result<(), InstallError> {
        let sql = format!("alter schema {} rename to {}", sql::identifier(&self.home), sql::identifier(&self.next));
        install::run(copy, &format!("looking for schema {}", self.home), &sql).await
    }

    /// Removes what attempts have left.
    pub async fn sweep(&self, client: &Client) -> Result<(), InstallError> {
        super::end(client, &self.prefix).await?;
        for name in self.names(client).await? {
            let sql = format!("drop schema if exists {} cascade", sql::identifier(&name));
            install::run(client, "removing the schema beside the tenant's", &sql).await?;
        }
        Ok(())
    }

    /// Those that are beside the tenant's.
    pub(super) async fn names(&self, client: &Client) -> Result<Vec<String>, InstallError> {
        let names = "select nspname::text from pg_catalog.pg_namespace where pg_catalog.starts_with(nspname::text, $1)";
        install::texts(client, names, &[&self.prefix]).await
    }

    /// Table by table. Both connections are to the tenant's database.
    pub async fn difference(&self, client: &Client, other: &Client) -> Result<Vec<Difference>, RestoreError> {
        super::prepare(client).await?;
        super::prepare(other).await?;
        let now = Shape::all(client, Within::Schema(&self.home)).await?;
        let then = Shape::all(client, Within::Schema(&self.next)).await?;
        let mut all = differences(client, other, now, then, false).await?;
        if has_staged_objects(client).await? {
            all.push(self.large_objects(client, other).await?);
        }
        Ok(all)
    }

    async fn large_objects(&self, client: &Client, other: &Client) -> Result<Difference, RestoreError> {
        let column = |name: &str| Column { name: name.to_owned(), type_: String::new(), generated: false };
        let shape = Shape {
            schema: "large".to_owned(),
            name: "objects".to_owned(),
            partitioned: false,
            columns: vec![column("oid"), column("data")],
            key: vec!["oid".to_owned()],
        };
        let from = format!(
            "(select oid, lo_get(oid) as data from pg_largeobject_metadata where {}) l",
            self.owned("lomowner")
        );
        let now = Side { client: other, from: &from };
        let then = Side { client, from: "pg_temp.pgward_objects" };
        let counts = compare(&shape, now, then).await?;
        Ok(Difference { table: "large objects".to_owned(), counts, shape: String::new() })
    }

    fn owned(&self, column: &str) -> String {
        let roles = sql::array(own_roles(self.tenant).into_iter(), "text");
        format!("pg_get_userbyid({column})::text = any ({roles})")
    }

    /// Takes large objects as CSV with a head line: oid, data, owner.
    pub async fn stage_objects<E>(
        &self,
        client: &Client,
        rows: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), RestoreError>
    where
        RestoreError: From<E>,
    {
        let doing = "staging large objects";
        let room = "drop table if exists pg_temp.pgward_objects; \
            create temp table pgward_objects (oid oid, data bytea, owner text)";
        install::run(client, doing, room).await?;
        let copy = "copy pg_temp.pgward_objects (oid, data, owner) from stdin with (format csv, header)";
        let sink = client.copy_in::<_, Bytes>(copy).await.map_err(failed(doing))?;
        pin_mut!(sink, rows);
        while let Some(bytes) = rows.next().await {
            futures_util::SinkExt::send(&mut sink, bytes?).await.map_err(failed(doing))?;
        }
        sink.finish().await.map_err(failed(doing))?;
        Ok(())
    }

    /// In one transaction: the tenant's schema goes, and the other one has its name.
    pub async fn swap(&self, client: &Client) -> Result<(), RestoreError> {
        install::atomically(client, install::BEGIN, async || self.within(client).await).await
    }

    async fn within(&self, client: &Client) -> Result<(), RestoreError> {
        install::run(client, "beginning", super::PATIENCE).await?;
        let (home, next) = (sql::identifier(&self.home), sql::identifier(&self.next));
        let needed = install::texts(client, NEEDED, &[&self.home]).await?;
        if !needed.is_empty() {
            return Err(RestoreError::Needed { schema: self.home.clone(), what: needed.join(", ") });
        }
        if has_staged_objects(client).await? {
            self.put_objects(client).await?;
        }
        let sql = format!("drop schema if exists {home} cascade; alter schema {next} rename to {home}");
        Ok(install::run(client, &format!("putting schema {} in its place", self.home), &sql).await?)
    }

    async fn put_objects(&self, client: &Client) -> Result<(), RestoreError> {
        let taken = format!(
            "select o.oid::text from pg_temp.pgward_objects o join pg_catalog.pg_largeobject_metadata m on m.oid = o.oid \
             where not ({})",
            self.owned("m.lomowner")
        );
        if let Some(taken) = install::texts(client, &taken, &[]).await?.into_iter().next() {
            return Err(RestoreError::LargeObject(taken));
        }
        let sql = format!(
            "do $do$ declare o record; begin \
             perform lo_unlink(m.oid) from pg_catalog.pg_largeobject_metadata m where {}; \
             for o in select * from pg_temp.pgward_objects loop \
             perform lo_from_bytea(o.oid, o.data); \
             execute format('alter large object %s owner to %I', o.oid, o.owner); \
             end loop; end $do$",
            self.owned("m.lomowner")
        );
        Ok(install::run(client, "putting back large objects", &sql).await?)
    }
}

async fn has_staged_objects(client: &Client) -> Result<bool, InstallError> {
    let sql = "select (to_regclass('pg_temp.pgward_objects') is not null)::text";
    Ok(install::texts(client, sql, &[]).await? == ["true"])
}

/// What is outside of a schema and would go with what is in it.
const NEEDED: &str = "
with home as (select oid from pg_catalog.pg_namespace where nspname = $1),
inside as (
    select 'pg_catalog.pg_class'::pg_catalog.regclass as class, c.oid from pg_catalog.pg_class c, home where c.relnamespace = home.oid
    union all select 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid from pg_catalog.pg_type t, home where t.typnamespace = home.oid
    union all select 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid from pg_catalog.pg_proc p, home where p.pronamespace = home.oid
),
users as (
    select distinct d.classid, d.objid, coalesce(r.ev_class, k.conrelid, t.tgrelid, p.polrelid, f.adrelid) as relation
    from inside i join pg_catalog.pg_depend d on d.refclassid = i.class and d.refobjid = i.oid and d.deptype not in ('i', 'e')
        left join pg_catalog.pg_rewrite r on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and r.oid = d.objid
        left join pg_catalog.pg_constraint k on d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass and k.oid = d.objid and k.conrelid <> 0
        left join pg_catalog.pg_trigger t on d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass and t.oid = d.objid
        left join pg_catalog.pg_policy p on d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass and p.oid = d.objid
        left join pg_catalog.pg_attrdef f on d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and f.oid = d.objid
)
select distinct case when u.relation is null then pg_catalog.pg_describe_object(u.classid, u.objid, 0)
    else pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, u.relation, 0) end
from users u left join pg_catalog.pg_class c on c.oid = u.relation
where case when c.oid is not null then c.relnamespace <> (select oid from home)
    else not exists (select from inside i where i.class = u.classid and i.oid = u.objid)
        and (select schema from pg_catalog.pg_identify_object(u.classid, u.objid, 0)) is distinct from
            (select quote_ident($1::text)) end
order by 1";
