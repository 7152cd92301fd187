-- What pgward needs of pg_partman in a database. Can be run again.
create schema if not exists partman;
create extension if not exists pg_partman schema partman;
revoke create on schema partman from public;

-- They check words, and need no more rights for that than whoever calls them has.
do $do$
declare
    function pg_catalog.regprocedure;
begin
    for function in
        select p.oid::pg_catalog.regprocedure from pg_catalog.pg_proc p
        join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'e'
        join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'pg_partman'
        where p.prosecdef and p.proname in ('check_epoch_type', 'check_name_length', 'check_partition_type')
    loop
        execute pg_catalog.format('alter function %s security invoker', function);
    end loop;
end
$do$;

-- pg_partman takes indexes and settings of new partitions from a template beside their table's own. This one has none.
create table if not exists partman.pgward_template ();

-- When a table had its turn last, whichever node did it.
create table if not exists partman.pgward_state (
    parent_table text primary key,
    label text not null,
    tried_at timestamptz not null,
    succeeded_at timestamptz,
    failures bigint not null default 0,
    failed text
);
-- Partitions that have no row left which a rule would delete, and how often they had been written to by then.
create table if not exists partman.pgward_expired (
    parent_table text not null,
    partition oid not null,
    rule text not null,
    writes bigint not null,
    primary key (partition, rule)
);
revoke all on partman.pgward_state, partman.pgward_expired, partman.pgward_template from public;

-- Tenants that own their tables have them changed by their own logins, which see and change nobody else's line.
alter table partman.part_config enable row level security;
drop policy if exists pgward_own_tables on partman.part_config;
create policy pgward_own_tables on partman.part_config using (exists (
    select from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
    where n.nspname operator(pg_catalog.=) pg_catalog.split_part(parent_table, '.', 1)
        and c.relname operator(pg_catalog.=) pg_catalog.split_part(parent_table, '.', 2)
        and pg_catalog.pg_has_role(current_user, c.relowner, 'usage')));
-- Else pg_partman's background worker, which is somebody powerful, would do for them what their tables say.
drop policy if exists pgward_by_hand on partman.part_config;
create policy pgward_by_hand on partman.part_config as restrictive
    with check (automatic_maintenance operator(pg_catalog.=) 'off');
