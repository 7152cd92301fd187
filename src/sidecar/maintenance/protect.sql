-- A partition that a tenant names itself is not behind its table's policies. So it gets row security without a policy, and
-- nobody has a privilege on it: it is there by way of its table only. TABLE is replaced.
do $do$
declare
    above record;
    part record;
    grantee pg_catalog.text;
begin
    select c.oid, c.relowner, c.relrowsecurity, c.relforcerowsecurity into strict above
    from pg_catalog.pg_class c where c.oid = TABLE::pg_catalog.regclass;
    for part in
        select c.oid, c.oid::pg_catalog.regclass as name, c.relowner, c.relrowsecurity, c.relforcerowsecurity
        from pg_catalog.pg_partition_tree(above.oid) t join pg_catalog.pg_class c on c.oid = t.relid
        where t.level > 0
    loop
        if above.relrowsecurity and not part.relrowsecurity then
            execute pg_catalog.format('alter table %s enable row level security', part.name);
        end if;
        if above.relforcerowsecurity and not part.relforcerowsecurity then
            execute pg_catalog.format('alter table %s force row level security', part.name);
        end if;
        if part.relowner <> above.relowner then
            for grantee in
                select distinct case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end
                from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
                where c.oid = part.oid and a.grantee <> c.relowner
            loop
                execute pg_catalog.format('revoke all on table %s from %s', part.name, grantee);
            end loop;
            execute pg_catalog.format('alter table %s owner to %I', part.name, pg_catalog.pg_get_userbyid(above.relowner));
        end if;
    end loop;
end
$do$
