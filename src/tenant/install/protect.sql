-- Tables that tenants share. Who calls these must own the table.

-- Gives a table the tenant's row security: column, default, policies, all of it forced upon the table's owner as
-- well. Repeat it at will. Returns what it advises besides, a line each.
--   tenant_column  the column that says whose a row is
--   add_column     add it where it is missing
--   existing       the tenant of the rows that are there already, where it is added
create or replace function pgward.protect(
    target regclass, tenant_column name default 'tenant_id', add_column boolean default false, existing text default null
) returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    kind "char" := (select c.relkind from pg_class c where c.oid = target);
    type text := pgward.column_type(target, tenant_column);
    whose text;
    part regclass;
begin
    if target is null or kind is distinct from 'r' and kind is distinct from 'p' then
        raise exception using errcode = '42809', message = format('%s is not a table', coalesce(target::text, 'null'));
    end if;
    if type is null then
        perform pgward.add_tenant_column(target, tenant_column, add_column, existing);
        type := 'text';
    end if;
    whose := case type when 'text' then 'pgward.tenant()' else format('pgward.tenant()::%s', type) end;
    execute format('alter table %s alter column %I set default %s, alter column %2$I set not null', target, tenant_column, whose);
    execute format('alter table %s enable row level security, force row level security', target);
    -- Restrictive: whatever other policies allow, it stays within the tenant. The subselect runs once a statement.
    execute format('drop policy if exists pgward_tenant on %s', target);
    execute format('create policy pgward_tenant on %s as restrictive for all using (%I = (select %s)) with check (%2$I = (select %3$s))',
        target, tenant_column, whose);
    execute format('comment on policy pgward_tenant on %s is %L', target, 'pgward: the tenant is in ' || quote_ident(tenant_column));
    -- Rows are seen only where some permissive policy lets them be.
    if not exists (select from pg_policy p where p.polrelid = target and p.polpermissive) then
        execute format('create policy pgward_rows on %s for all using (true) with check (true)', target);
    end if;
    for part in select i.inhrelid from pg_inherits i where i.inhparent = target loop
        return query select pgward.protect(part, tenant_column);
    end loop;
    return query select pgward.advice(target, tenant_column);
end
$$;

-- Takes it back, but leaves row security on, so that nobody but the owner sees a row. To give all rows to all who
-- have privileges on the table: open_to_all => true.
create or replace function pgward.unprotect(target regclass, open_to_all boolean default false) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    part regclass;
    tenant_column name;
begin
    for tenant_column in
        select a.attname from pg_attribute a join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = target and pg_get_expr(d.adbin, d.adrelid) like '%pgward.tenant()%'
    loop
        execute format('alter table %s alter column %I drop default', target, tenant_column);
    end loop;
    execute format('drop policy if exists pgward_tenant on %s', target);
    execute format('drop policy if exists pgward_rows on %s', target);
    execute format('alter table %s no force row level security', target);
    if open_to_all then
        execute format('alter table %s disable row level security', target);
    end if;
    for part in select i.inhrelid from pg_inherits i where i.inhparent = target loop
        perform pgward.unprotect(part, open_to_all);
    end loop;
end
$$;

-- A column's type; null where there is no such column.
create or replace function pgward.column_type(target regclass, column_name name) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select format_type(a.atttypid, a.atttypmod) from pg_attribute a
    where a.attrelid = target and a.attname = column_name and a.attnum > 0 and not a.attisdropped
$$;

create or replace function pgward.add_tenant_column(target regclass, tenant_column name, wanted boolean, existing text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    filled boolean;
begin
    if not wanted then
        raise exception using
            errcode = '42703',
            message = format('%s has no column %I', target, tenant_column),
            hint = format('Name the column that has the tenant, or: select pgward.protect(%L, %L, add_column => true)', target, tenant_column);
    end if;
    execute format('lock table %s in access exclusive mode', target);
    execute format('select exists (select from %s)', target) into filled;
    if filled and existing is null then
        raise exception using
            errcode = '22004',
            message = format('%s has rows, and nothing says whose they are', target),
            hint = format('select pgward.protect(%L, %L, add_column => true, existing => ''the tenant'')', target, tenant_column);
    end if;
    execute format('alter table %s add column %I text not null default %L', target, tenant_column, coalesce(existing, ''));
end
$$;

-- What makes a protected table slow, or tells of other tenants.
create or replace function pgward.advice(target regclass, tenant_column name) returns setof text
language sql stable set search_path = pg_catalog, pg_temp
as $$
    with tenant as (
        select a.attnum as number from pg_attribute a
        where a.attrelid = target and a.attname = tenant_column and not a.attisdropped
    )
    select format('%s has no index that begins with %I, so every query reads other tenants'' rows as well: create index concurrently on %1$s (%2$I)', target, tenant_column)
    from tenant where not exists (
        select from pg_index i where i.indrelid = target and i.indisvalid and i.indkey[0] = tenant.number and i.indpred is null
    )
    union all
    select format('%s tells whether another tenant has a value, since %I is not in it: let it begin with %2$I', i.indexrelid::regclass, tenant_column)
    from pg_index i, tenant where i.indrelid = target and i.indisunique and not tenant.number = any (i.indkey::int2[])
    union all
    select format('foreign key %I of %s can refer to other tenants'' rows, since %I is not in it', c.conname, target, tenant_column)
    from pg_constraint c, tenant
    where c.conrelid = target and c.contype = 'f' and not tenant.number = any (c.conkey)
        and exists (select from pg_policy p where p.polrelid = c.confrelid and p.polname = 'pgward_tenant')
$$;
