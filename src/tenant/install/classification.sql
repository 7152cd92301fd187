-- What people say of their columns and views. pgward fills none of it by itself and upgrades keep it. Only the owner
-- writes it; whoever else is to read it, the owner lets.

-- Columns that hold what is personal, sensitive or the like, and the roles that may not see them.
create table if not exists pgward.classification (
    schema name not null,
    relation name not null,
    column_name name not null,
    class text not null check (class ~ '^[a-z][a-z0-9_-]{0,62}$'),
    hidden_from name[] not null default '{}' check (array_position(hidden_from, null) is null),
    note text,
    primary key (schema, relation, column_name)
);
revoke all on pgward.classification from public;

-- Views that may read such columns, since what they show is no longer that: somebody vouches for it.
create table if not exists pgward.export_view (
    schema name not null,
    view name not null,
    -- masked: for daily work, a row each. anonymised: rows that point at nobody. aggregated: figures of groups.
    kind text not null check (kind in ('masked', 'anonymised', 'aggregated')),
    -- So many people at least share each combination of the quasi-identifiers.
    k int check (k >= 2),
    quasi_identifiers name[] not null default '{}' check (array_position(quasi_identifiers, null) is null),
    -- The view's column that says how many people a row stands for. Null: one.
    counted name,
    note text,
    primary key (schema, view)
);
revoke all on pgward.export_view from public;

-- Whether somebody vouches that a relation shows nobody. For pgward itself, before it lets a role abroad read it.
create or replace function pgward.shows_nobody(relation regclass) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pgward.export_view e
        join pg_catalog.pg_namespace n on n.nspname = e.schema
        join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = e.view
        where c.oid = relation and c.relkind = 'v' and e.kind in ('anonymised', 'aggregated')
    )
$$;
