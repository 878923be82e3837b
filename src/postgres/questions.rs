//! What is asked of a database for its evidence, and again after a drill. Every answer is one JSON
//! document; columns that came with later versions are read through `to_jsonb`, where one that is
//! not there is null.

/// What a session sets before it asks: nothing may cut an answer short, names come with their
/// schemas and are spelled alike everywhere, a policy fails instead of hiding rows, and values have the text that they have in a dump.
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/bin/pg_dump/pg_dump.c> (setup_connection)
pub const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
SET row_security = off; SET quote_all_identifiers = off; SET DateStyle = ISO; SET IntervalStyle = postgres; SET extra_float_digits = 3;
SET TimeZone = 'UTC'; SET bytea_output = hex; SELECT pg_catalog.set_config('search_path', '', false)";

/// Sequences: asked before pg_dump can read them, for they are not bound to the snapshot.
pub const SEQUENCES: &str = "select coalesce(jsonb_object_agg(format('%I.%I', n.nspname, c.relname), jsonb_build_object(
        'value', case when has_sequence_privilege(c.oid, 'select') then pg_catalog.pg_sequence_last_value(c.oid) end,
        'increment', s.seqincrement)), '{}')
    from pg_catalog.pg_sequence s join pg_catalog.pg_class c on c.oid = s.seqrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e')";

/// Tables whose rows a whole dump holds, and what it does not hold of others. Of each the name under
/// which the dump has its rows: where an enum is hashed into partitions, that of the topmost table, for
/// a row may lie in another partition after a restore.
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/bin/pg_dump/pg_dump.c> (forcePartitionRootLoad)
pub const TABLES: &str = "with recursive up as (
        select c.oid as part, i.inhparent as above from pg_catalog.pg_class c join pg_catalog.pg_inherits i on i.inhrelid = c.oid where c.relispartition
        union all select up.part, i.inhparent from up join pg_catalog.pg_class c on c.oid = up.above and c.relispartition join pg_catalog.pg_inherits i on i.inhrelid = c.oid),
    rerouted as (select part from up join pg_catalog.pg_partitioned_table p on p.partrelid = up.above and p.partstrat = 'h'
        where (select o.oid from pg_catalog.pg_opclass o join pg_catalog.pg_am a on a.oid = o.opcmethod
            where o.opcname = 'enum_ops' and o.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace and a.amname = 'hash') = any(p.partclass)),
    roots as (select up.part, format('%I.%I', n.nspname, c.relname) as name from up join pg_catalog.pg_class c on c.oid = up.above and not c.relispartition
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace where up.part in (select part from rerouted)),
    own as (
        select c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) as name,
            exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e') as of_extension
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema')
    select jsonb_build_object(
        'tables', coalesce((select jsonb_agg(jsonb_build_array(own.name, coalesce(roots.name, own.name)) order by own.name)
            from own left join roots on roots.part = own.oid where relkind = 'r' and not of_extension), '[]'),
        'foreign', (select count(*) from own where relkind = 'f' and not of_extension),
        'materialized', (select count(*) from own where relkind = 'm' and not of_extension),
        'configuration', coalesce((select jsonb_agg(distinct name order by name) from pg_catalog.pg_extension e, unnest(e.extconfig) as t
            join own on own.oid = t where own.relkind = 'r'), '[]'))";

/// What else is in the database, by the catalogs.
///
/// The hash of a definition leaves out what PostgreSQL words anew when a dump is restored:
/// expressions of checks, defaults, index columns and predicates, bodies of views and policies.
pub const CATALOGS: &str = r"with ext as (select classid, objid from pg_catalog.pg_depend where deptype = 'e'),
    ns as (select oid, nspname from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
    rel as (select c.*, format('%I.%I', ns.nspname, c.relname) as name from pg_catalog.pg_class c join ns on ns.oid = c.relnamespace
        where c.relpersistence <> 't' and not exists (select from ext where ext.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and ext.objid = c.oid)),
    cols as (select a.attrelid, string_agg(concat_ws(' ', quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef,
            a.attidentity, to_jsonb(a)->>'attgenerated', case when a.attcollation <> t.typcollation then (select collname from pg_catalog.pg_collation l where l.oid = a.attcollation) end),
            ',' order by a.attnum) as text
        from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
        where a.attnum > 0 and not a.attisdropped and a.attrelid in (select oid from rel) group by a.attrelid),
    found as (
        select 'schema' as kind, format('%I', nspname) as name, pg_catalog.pg_get_userbyid(n.nspowner) as def
            from pg_catalog.pg_namespace n where n.oid in (select oid from ns) and n.nspname <> 'public'
            and not exists (select from ext where ext.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and ext.objid = n.oid)
        union all select case rel.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' when 'c' then 'composite type' else 'table' end, name,
            concat_ws('|', case when rel.relkind in ('v', 'm') then regexp_replace(cols.text, ' [tf] [tf]  ', '', 'g') else cols.text end,
                rel.relpersistence, rel.relrowsecurity, rel.relforcerowsecurity, pg_catalog.pg_get_userbyid(rel.relowner))
            from rel left join cols on cols.attrelid = rel.oid where rel.relkind in ('r', 'p', 'f', 'v', 'm', 'c')
        union all select 'sequence', name, pg_catalog.pg_get_userbyid(rel.relowner) from rel where relkind = 'S'
        union all select 'index', rel.name, concat_ws('|', x.indisunique, x.indisvalid, i.name,
                case when x.indexprs is null and x.indpred is null then pg_catalog.pg_get_indexdef(x.indexrelid) end)
            from pg_catalog.pg_index x join rel on rel.oid = x.indexrelid join rel i on i.oid = x.indrelid
        union all select case when k.convalidated then 'constraint' else 'constraint not valid' end, format('%s.%I', coalesce(rel.name, pg_catalog.format_type(k.contypid, null)), k.conname),
            concat_ws('|', k.contype, k.condeferrable, k.condeferred, case when k.contype in ('p', 'u', 'f') then pg_catalog.pg_get_constraintdef(k.oid) end)
            from pg_catalog.pg_constraint k left join rel on rel.oid = k.conrelid
            where k.connamespace in (select oid from ns) and k.contype in ('c', 'p', 'u', 'f', 'x') and (rel.oid is not null or k.conrelid = 0)
            and coalesce((to_jsonb(k)->>'conparentid')::oid, 0) = 0
            and not exists (select from ext where ext.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and ext.objid = k.contypid)
        union all select case p.prokind when 'a' then 'aggregate' when 'p' then 'procedure' else 'function' end,
            format('%I.%I(%s)', ns.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
            concat_ws('|', l.lanname, p.provolatile, p.proisstrict, p.prosecdef, p.proretset, p.proparallel, p.proleakproof, pg_catalog.format_type(p.prorettype, null),
                array_to_string(p.proconfig, ','), pg_catalog.pg_get_userbyid(p.proowner), case when to_jsonb(p)->>'prosqlbody' is null then p.prosrc end)
            from pg_catalog.pg_proc p join ns on ns.oid = p.pronamespace join pg_catalog.pg_language l on l.oid = p.prolang
            where not exists (select from ext where ext.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and ext.objid = p.oid)
            and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'i')
        union all select 'trigger', format('%s.%I', rel.name, t.tgname), concat_ws('|', t.tgtype, t.tgenabled, t.tgfoid::pg_catalog.regproc, encode(t.tgargs, 'hex'))
            from pg_catalog.pg_trigger t join rel on rel.oid = t.tgrelid
            where not t.tgisinternal and coalesce((to_jsonb(t)->>'tgparentid')::oid, 0) = 0
        union all select 'policy', format('%s.%I', rel.name, p.polname), concat_ws('|', p.polcmd, p.polpermissive,
                (select string_agg(case when r = 0 then 'public' else pg_catalog.pg_get_userbyid(r) end, ',' order by pg_catalog.pg_get_userbyid(r)) from unnest(p.polroles) r))
            from pg_catalog.pg_policy p join rel on rel.oid = p.polrelid
        union all select 'rule', format('%s.%I', rel.name, r.rulename), concat_ws('|', r.ev_type, r.ev_enabled, r.is_instead)
            from pg_catalog.pg_rewrite r join rel on rel.oid = r.ev_class where r.rulename <> '_RETURN'
        union all select case t.typtype when 'e' then 'enum' when 'd' then 'domain' else 'range' end, format('%I.%I', ns.nspname, t.typname),
            concat_ws('|', (select string_agg(enumlabel, ',' order by enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = t.oid),
                case when t.typtype = 'd' then pg_catalog.format_type(t.typbasetype, t.typtypmod) end, t.typnotnull, pg_catalog.pg_get_userbyid(t.typowner))
            from pg_catalog.pg_type t join ns on ns.oid = t.typnamespace where t.typtype in ('e', 'd', 'r')
            and not exists (select from ext where ext.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and ext.objid = t.oid)
        union all select 'statistics', format('%I.%I', ns.nspname, s.stxname), null from pg_catalog.pg_statistic_ext s join ns on ns.oid = s.stxnamespace
        union all select 'publication', format('%I', pubname), concat_ws('|', puballtables, pubinsert, pubupdate, pubdelete) from pg_catalog.pg_publication
        union all select 'event trigger', format('%I', evtname), concat_ws('|', evtevent, evtenabled) from pg_catalog.pg_event_trigger v
            where not exists (select from ext where ext.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass and ext.objid = v.oid)),
    dep as (select distinct d.refobjid from pg_catalog.pg_shdepend d where d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
        and (d.dbid = (select oid from pg_catalog.pg_database where datname = current_database())
            or d.classid = 'pg_catalog.pg_database'::pg_catalog.regclass and d.objid = (select oid from pg_catalog.pg_database where datname = current_database())))
    select jsonb_build_object(
        'definitions', (select coalesce(jsonb_object_agg(kind || ' ' || name, left(encode(sha256(convert_to(coalesce(def, ''), 'UTF8')), 'hex'), 12)), '{}') from found),
        'objects', (select coalesce(jsonb_object_agg(kind, n), '{}') from (select kind, count(*) as n from found group by kind) k),
        'extensions', (select coalesce(jsonb_object_agg(extname, extversion), '{}') from pg_catalog.pg_extension),
        'large_objects', (select count(*) from pg_catalog.pg_largeobject_metadata),
        'collations', (select coalesce(jsonb_object_agg(format('%I.%I', n.nspname, l.collname), l.collversion), '{}') from pg_catalog.pg_collation l
            join pg_catalog.pg_namespace n on n.oid = l.collnamespace
            where l.collversion is not null and l.oid in (select a.attcollation from pg_catalog.pg_attribute a where a.attrelid in (select oid from rel)
                union select unnest(x.indcollation) from pg_catalog.pg_index x where x.indexrelid in (select oid from rel))),
        'roles', (select coalesce(jsonb_agg(rolname order by rolname), '[]') from (
            select pg_catalog.pg_get_userbyid(refobjid) as rolname from dep where refobjid in (select oid from pg_catalog.pg_roles)
            union select pg_catalog.pg_get_userbyid(datdba) from pg_catalog.pg_database where datname = current_database()
            union select rolname from pg_catalog.pg_roles where oid = 10) r),
        'superuser', (select rolname from pg_catalog.pg_roles where oid = 10),
        'tablespaces', (select coalesce(jsonb_agg(distinct t.spcname), '[]') from pg_catalog.pg_tablespace t join rel on rel.reltablespace = t.oid where t.spcname !~ '^pg_'),
        'partitions', (select coalesce(jsonb_object_agg(c.name, p.name), '{}') from pg_catalog.pg_inherits i
            join rel c on c.oid = i.inhrelid join rel p on p.oid = i.inhparent where c.relispartition and c.relkind in ('r', 'p')),
        'preload', (select nullif(setting, '') from pg_catalog.pg_settings where name = 'shared_preload_libraries'))";
