-- The schema of a database as (kind, name, definition, spelling): one row for each object. `definition` is equal on both sides of a
-- move, whatever their majors; `spelling` is what the server prints of a query, and newer majors print it in another way.
-- Not in it: what belongs to an extension, the platform's own objects, and what depends on the server (tablespaces, versions).
-- $1: the role of the platform. $2: whether both servers know the right MAINTAIN.
WITH RECURSIVE
-- What an extension made, by class and object.
member AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
),
space AS (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
),
own AS (
    SELECT s.oid FROM space s WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = s.oid)
),
rel AS (
    SELECT c.*, s.nspname, format('%I.%I', s.nspname, c.relname) AS name,
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
            WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' END AS kind
    FROM pg_class c JOIN space s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't'
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = c.reltype AND c.relkind = 'c')
),
-- Rights by grantee, without those of the platform's own roles for a move. A sequence of letters for each kind of object.
grants (class, objid, subid, acl) AS (
    SELECT g.class, g.objid, g.subid,
        string_agg(concat(coalesce(r.rolname::text, 'PUBLIC'), '=', g.privileges), ', ' ORDER BY coalesce(r.rolname::text, 'PUBLIC') COLLATE "C")
    FROM (
        SELECT o.class, o.objid, o.subid, a.grantee,
            string_agg(DISTINCT (a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END) COLLATE "C", '/') AS privileges
        FROM (
            SELECT 'pg_class'::regclass AS class, c.oid AS objid, 0 AS subid,
                coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner)) AS acl FROM rel c
            UNION ALL SELECT 'pg_attribute'::regclass, a.attrelid, a.attnum, a.attacl FROM pg_attribute a JOIN rel ON rel.oid = a.attrelid WHERE a.attacl IS NOT NULL
            UNION ALL SELECT 'pg_proc'::regclass, oid, 0, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM space)
            UNION ALL SELECT 'pg_type'::regclass, oid, 0, coalesce(typacl, acldefault('T', typowner)) FROM pg_type WHERE typnamespace IN (SELECT oid FROM space)
            UNION ALL SELECT 'pg_language'::regclass, oid, 0, coalesce(lanacl, acldefault('l', lanowner)) FROM pg_language
            UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0, coalesce(srvacl, acldefault('S', srvowner)) FROM pg_foreign_server
            UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, coalesce(fdwacl, acldefault('F', fdwowner)) FROM pg_foreign_data_wrapper
        ) o, aclexplode(o.acl) a
        WHERE a.privilege_type <> 'MAINTAIN' OR $2
        GROUP BY 1, 2, 3, 4
    ) g LEFT JOIN pg_roles r ON r.oid = g.grantee
    WHERE coalesce(r.rolname::text, 'PUBLIC') !~ '^freehold_'
    GROUP BY 1, 2, 3
),
-- The owner of schema public is the owner of the database, until the database is the platform's.
space_owner AS (
    SELECT s.oid, CASE WHEN o.rolname <> 'pg_database_owner' THEN o.rolname::text WHEN d.rolname = $1 THEN '(platform)' ELSE d.rolname::text END AS owner
    FROM space s JOIN pg_roles o ON o.oid = s.nspowner, pg_database b JOIN pg_roles d ON d.oid = b.datdba
    WHERE b.datname = current_database()
),
facts (kind, name, definition, spelling) AS (
    SELECT 'schema', quote_ident(s.nspname), concat_ws(E'\n', 'owner ' || w.owner,
        -- What the owner has as pg_database_owner and under its own name is one right.
        (SELECT 'rights ' || string_agg(g.grantee || '=' || g.privilege_type || g.option, ', ' ORDER BY g.grantee COLLATE "C", g.privilege_type COLLATE "C")
         FROM (SELECT CASE WHEN a.grantee = s.nspowner THEN w.owner ELSE coalesce(r.rolname::text, 'PUBLIC') END AS grantee, a.privilege_type,
                CASE WHEN bool_or(a.is_grantable) THEN '*' ELSE '' END AS option
            FROM aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a LEFT JOIN pg_roles r ON r.oid = a.grantee
            WHERE coalesce(r.rolname::text, '') !~ '^freehold_' GROUP BY 1, 2) g),
        'comment ' || obj_description(s.oid, 'pg_namespace')), ''
    FROM space s JOIN own USING (oid) JOIN space_owner w USING (oid)
    UNION ALL
    SELECT r.kind, r.name, concat_ws(E'\n', 'owner ' || pg_get_userbyid(r.relowner), 'kind ' || r.relkind::text, 'persistence ' || r.relpersistence::text,
        'partitioned by ' || pg_get_partkeydef(r.oid), 'partition ' || pg_get_expr(r.relpartbound, r.oid),
        'options ' || (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM unnest(r.reloptions) o),
        'toast options ' || (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM pg_class t, unnest(t.reloptions) o WHERE t.oid = r.reltoastrelid),
        'access method ' || (SELECT a.amname FROM pg_am a WHERE a.oid = r.relam),
        'row security ' || r.relrowsecurity || ' ' || r.relforcerowsecurity, 'replica identity ' || r.relreplident::text,
        'of type ' || (SELECT format_type(r.reloftype, NULL) WHERE r.reloftype <> 0),
        'inherits ' || (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = r.oid),
        'foreign ' || (SELECT concat(s.srvname, ' ', md5(f.ftoptions::text)) FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = r.oid),
        'rights ' || g.acl, 'comment ' || obj_description(r.oid, 'pg_class')),
        CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) ELSE '' END
    FROM rel r LEFT JOIN grants g ON g.class = 'pg_class'::regclass AND g.objid = r.oid
    UNION ALL
    SELECT 'column', r.name || '.' || quote_ident(a.attname), concat_ws(E'\n',
        'number ' || (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = a.attrelid AND b.attnum > 0 AND b.attnum <= a.attnum AND NOT b.attisdropped),
        'type ' || format_type(a.atttypid, a.atttypmod), 'collation ' || nullif(a.attcollation, t.typcollation)::regcollation::text,
        CASE WHEN a.attnotnull THEN 'not null' END, 'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, ''),
        'default ' || pg_get_expr(d.adbin, d.adrelid), 'storage ' || a.attstorage::text, 'compression ' || nullif(a.attcompression::text, ''),
        'statistics ' || nullif(a.attstattarget::int, -1),
        'options ' || (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM unnest(a.attoptions) o WHERE o !~ '^pg_attver='),
        'foreign options ' || md5(a.attfdwoptions::text), 'inherited ' || CASE WHEN NOT r.relispartition THEN nullif(a.attinhcount::int, 0) END,
        'rights ' || g.acl, 'comment ' || col_description(a.attrelid, a.attnum)), ''
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN grants g ON g.class = 'pg_attribute'::regclass AND g.objid = r.oid AND g.subid = a.attnum
    WHERE r.relkind <> 'S'
    UNION ALL
    -- NOT NULL is a constraint on newer majors only, and said of the column.
    SELECT 'constraint', coalesce(r.name, format_type(k.contypid, NULL)) || '.' || quote_ident(k.conname), concat_ws(E'\n', pg_get_constraintdef(k.oid),
        'comment ' || obj_description(k.oid, 'pg_constraint')), ''
    FROM pg_constraint k LEFT JOIN rel r ON r.oid = k.conrelid
    LEFT JOIN (pg_type t JOIN space s ON s.oid = t.typnamespace) ON t.oid = k.contypid
    WHERE k.contype NOT IN ('n', 't') AND k.conparentid = 0 AND (r.oid IS NOT NULL OR t.oid IS NOT NULL)
    UNION ALL
    SELECT 'index', format('%I.%I', r.nspname, c.relname), concat_ws(E'\n', pg_get_indexdef(i.indexrelid), 'valid ' || i.indisvalid,
        'clustered ' || i.indisclustered, 'identity ' || i.indisreplident, 'part of ' || (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = c.oid),
        'statistics ' || (SELECT string_agg(a.attnum || '=' || a.attstattarget, ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND nullif(a.attstattarget::int, -1) IS NOT NULL),
        'comment ' || obj_description(c.oid, 'pg_class')), ''
    FROM pg_index i JOIN rel r ON r.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid
    UNION ALL
    SELECT 'trigger', r.name || '.' || quote_ident(t.tgname), concat_ws(E'\n', pg_get_triggerdef(t.oid), 'enabled ' || t.tgenabled::text,
        'comment ' || obj_description(t.oid, 'pg_trigger')), ''
    FROM pg_trigger t JOIN rel r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'rule', r.name || '.' || quote_ident(u.rulename), concat_ws(E'\n', 'event ' || u.ev_type::text, 'enabled ' || u.ev_enabled::text, 'instead ' || u.is_instead,
        'comment ' || obj_description(u.oid, 'pg_rewrite')), pg_get_ruledef(u.oid)
    FROM pg_rewrite u JOIN rel r ON r.oid = u.ev_class WHERE u.rulename <> '_RETURN'
    UNION ALL
    SELECT 'policy', r.name || '.' || quote_ident(p.polname), concat_ws(E'\n', 'command ' || p.polcmd::text, 'permissive ' || p.polpermissive,
        'roles ' || (SELECT string_agg(CASE WHEN o = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(o)::text END, ', ' ORDER BY CASE WHEN o = 0 THEN '' ELSE pg_get_userbyid(o)::text END COLLATE "C") FROM unnest(p.polroles) o),
        'comment ' || obj_description(p.oid, 'pg_policy')),
        concat_ws(E'\n', 'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p JOIN rel r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, concat_ws(E'\n', 'owner ' || pg_get_userbyid(p.proowner), 'kind ' || p.prokind::text, 'language ' || l.lanname,
        'arguments ' || pg_get_function_arguments(p.oid), 'result ' || pg_get_function_result(p.oid), 'body ' || p.prosrc, 'file ' || p.probin,
        concat_ws(' ', p.provolatile, p.proparallel, p.proisstrict, p.prosecdef, p.proleakproof, p.procost, p.prorows, nullif(p.prosupport::oid, 0)::regproc),
        'set ' || p.proconfig::text,
        'aggregate ' || (SELECT concat_ws(' ', g.aggkind, g.aggnumdirectargs, g.aggtransfn::oid::regprocedure, nullif(g.aggfinalfn::oid, 0)::regprocedure, nullif(g.aggcombinefn::oid, 0)::regprocedure,
            nullif(g.aggserialfn::oid, 0)::regprocedure, nullif(g.aggdeserialfn::oid, 0)::regprocedure, nullif(g.aggmtransfn::oid, 0)::regprocedure, nullif(g.aggminvtransfn::oid, 0)::regprocedure,
            nullif(g.aggmfinalfn::oid, 0)::regprocedure, g.aggfinalextra, g.aggmfinalextra, g.aggfinalmodify, g.aggmfinalmodify, nullif(g.aggsortop, 0)::regoperator, format_type(g.aggtranstype, NULL),
            g.aggtransspace, g.agginitval, g.aggminitval) FROM pg_aggregate g WHERE g.aggfnoid = p.oid),
        'rights ' || g.acl, 'comment ' || obj_description(p.oid, 'pg_proc')), coalesce(pg_get_function_sqlbody(p.oid), '')
    FROM pg_proc p JOIN space s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    LEFT JOIN grants g ON g.class = 'pg_proc'::regclass AND g.objid = p.oid
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
    UNION ALL
    SELECT CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, format_type(t.oid, NULL), concat_ws(E'\n', 'owner ' || pg_get_userbyid(t.typowner), 'kind ' || t.typtype::text,
        'values ' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
        'over ' || (SELECT format_type(t.typbasetype, t.typtypmod) WHERE t.typtype = 'd'), 'default ' || t.typdefault, CASE WHEN t.typnotnull THEN 'not null' END,
        'collation ' || nullif(t.typcollation, 0)::regcollation::text,
        'range ' || (SELECT concat_ws(' ', format_type(g.rngsubtype, NULL), nullif(g.rngcollation, 0)::regcollation, nullif(g.rngcanonical::oid, 0)::regproc, nullif(g.rngsubdiff::oid, 0)::regproc,
            format_type(g.rngmultitypid, NULL), (SELECT c.opcname FROM pg_opclass c WHERE c.oid = g.rngsubopc)) FROM pg_range g WHERE g.rngtypid = t.oid),
        'base ' || (SELECT concat_ws(' ', t.typinput::oid::regproc, t.typoutput::oid::regproc, t.typlen, t.typalign, t.typstorage, t.typdelim, t.typcategory) WHERE t.typtype = 'b' AND t.typisdefined),
        'rights ' || g.acl, 'comment ' || obj_description(t.oid, 'pg_type')), ''
    FROM pg_type t JOIN space s ON s.oid = t.typnamespace LEFT JOIN grants g ON g.class = 'pg_type'::regclass AND g.objid = t.oid
    WHERE t.typtype IN ('b', 'd', 'e', 'r', 'p') AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
    UNION ALL
    SELECT 'sequence parameters of', r.name, concat_ws(' ', format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle,
        (SELECT concat('of ', d.refobjid::regclass, '.', a.attname, ' ', d.deptype) FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass)), ''
    FROM pg_sequence q JOIN rel r ON r.oid = q.seqrelid
    UNION ALL
    SELECT 'statistics', format('%I.%I', s.nspname, x.stxname), concat_ws(E'\n', 'owner ' || pg_get_userbyid(x.stxowner), pg_get_statisticsobjdef(x.oid),
        'target ' || nullif((to_jsonb(x) ->> 'stxstattarget')::int, -1), 'comment ' || obj_description(x.oid, 'pg_statistic_ext')), ''
    FROM pg_statistic_ext x JOIN space s ON s.oid = x.stxnamespace
    UNION ALL
    SELECT 'event trigger', quote_ident(e.evtname), concat_ws(E'\n', 'owner ' || pg_get_userbyid(e.evtowner), e.evtevent, 'enabled ' || e.evtenabled::text, e.evtfoid::oid::regprocedure,
        e.evttags::text, 'comment ' || obj_description(e.oid, 'pg_event_trigger')), ''
    FROM pg_event_trigger e WHERE e.evtname !~ '^freehold_'
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = e.oid)
    UNION ALL
    SELECT 'publication', quote_ident(p.pubname), concat_ws(E'\n', 'owner ' || pg_get_userbyid(p.pubowner), concat_ws(' ', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot),
        (SELECT string_agg(concat(format('%I.%I', v.schemaname, v.tablename), ' ' || (to_jsonb(v) ->> 'rowfilter')), ', ' ORDER BY v.schemaname COLLATE "C", v.tablename COLLATE "C")
         FROM pg_publication_tables v WHERE v.pubname = p.pubname AND v.schemaname <> 'freehold')), ''
    FROM pg_publication p WHERE p.pubname !~ '^freehold_'
    UNION ALL
    SELECT 'extension', quote_ident(x.extname), 'schema ' || n.nspname, '' FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace
    UNION ALL
    SELECT 'default rights', concat_ws(' ', pg_get_userbyid(a.defaclrole), n.nspname, a.defaclobjtype),
        (SELECT string_agg(concat(coalesce(r.rolname::text, 'PUBLIC'), '=', e.privilege_type, CASE WHEN e.is_grantable THEN '*' ELSE '' END), ', '
            ORDER BY coalesce(r.rolname::text, 'PUBLIC') COLLATE "C", e.privilege_type COLLATE "C")
         FROM aclexplode(a.defaclacl) e LEFT JOIN pg_roles r ON r.oid = e.grantee WHERE coalesce(r.rolname::text, '') !~ '^freehold_'
         AND (e.privilege_type <> 'MAINTAIN' OR $2)), ''
    FROM pg_default_acl a LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace WHERE pg_get_userbyid(a.defaclrole) !~ '^freehold_'
    UNION ALL
    SELECT 'collation', format('%I.%I', s.nspname, c.collname), concat_ws(' ', 'owner ' || pg_get_userbyid(c.collowner), c.collprovider, c.collisdeterministic,
        coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate), CASE c.collprovider WHEN 'c' THEN c.collctype END), ''
    FROM pg_collation c JOIN space s ON s.oid = c.collnamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_collation'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'operator', o.oid::regoperator::text, concat_ws(' ', pg_get_userbyid(o.oprowner), o.oprcode::oid::regprocedure, nullif(o.oprcom, 0)::regoperator, nullif(o.oprnegate, 0)::regoperator,
        nullif(o.oprrest::oid, 0)::regproc, nullif(o.oprjoin::oid, 0)::regproc, o.oprcanhash, o.oprcanmerge), ''
    FROM pg_operator o JOIN space s ON s.oid = o.oprnamespace WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_operator'::regclass AND m.objid = o.oid)
    UNION ALL
    SELECT 'operator class', concat_ws(' ', s.nspname, c.opcname, a.amname), concat_ws(' ', pg_get_userbyid(c.opcowner), format_type(c.opcintype, NULL), c.opcdefault, nullif(c.opckeytype, 0)::regtype,
        (SELECT string_agg(concat(o.amopstrategy, ' ', o.amopopr::regoperator), ', ' ORDER BY o.amopstrategy, o.amopopr::regoperator::text COLLATE "C") FROM pg_amop o WHERE o.amopfamily = c.opcfamily),
        (SELECT string_agg(concat(f.amprocnum, ' ', f.amproc::oid::regprocedure), ', ' ORDER BY f.amprocnum, f.amproc::oid::regprocedure::text COLLATE "C") FROM pg_amproc f WHERE f.amprocfamily = c.opcfamily)), ''
    FROM pg_opclass c JOIN space s ON s.oid = c.opcnamespace JOIN pg_am a ON a.oid = c.opcmethod WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_opclass'::regclass AND m.objid = c.oid)
    UNION ALL
    -- Those of initdb have small oids.
    SELECT 'cast', format('(%s AS %s)', format_type(c.castsource, NULL), format_type(c.casttarget, NULL)), concat_ws(' ', nullif(c.castfunc, 0)::regprocedure, c.castcontext, c.castmethod), ''
    FROM pg_cast c WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_cast'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'text search configuration', format('%I.%I', s.nspname, c.cfgname), concat_ws(' ', pg_get_userbyid(c.cfgowner), (SELECT p.prsname FROM pg_ts_parser p WHERE p.oid = c.cfgparser),
        (SELECT string_agg(concat(m.maptokentype, ' ', m.mapdict::regdictionary), ', ' ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map m WHERE m.mapcfg = c.oid)), ''
    FROM pg_ts_config c JOIN space s ON s.oid = c.cfgnamespace WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_ts_config'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'text search dictionary', format('%I.%I', s.nspname, c.dictname), concat_ws(' ', pg_get_userbyid(c.dictowner), c.dictinitoption), ''
    FROM pg_ts_dict c JOIN space s ON s.oid = c.dictnamespace WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_ts_dict'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'foreign data wrapper', quote_ident(w.fdwname), concat_ws(E'\n', pg_get_userbyid(w.fdwowner), nullif(w.fdwhandler, 0)::regproc, nullif(w.fdwvalidator, 0)::regproc, md5(w.fdwoptions::text), g.acl), ''
    FROM pg_foreign_data_wrapper w LEFT JOIN grants g ON g.class = 'pg_foreign_data_wrapper'::regclass AND g.objid = w.oid
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_foreign_data_wrapper'::regclass AND m.objid = w.oid)
    UNION ALL
    SELECT 'foreign server', quote_ident(f.srvname), concat_ws(E'\n', pg_get_userbyid(f.srvowner), f.srvtype, f.srvversion, md5(f.srvoptions::text), g.acl,
        (SELECT string_agg(concat(coalesce(r.rolname::text, 'PUBLIC'), ' ', md5(u.umoptions::text)), ', ' ORDER BY coalesce(r.rolname::text, 'PUBLIC') COLLATE "C")
         FROM pg_user_mapping u LEFT JOIN pg_roles r ON r.oid = u.umuser WHERE u.umserver = f.oid)), ''
    FROM pg_foreign_server f LEFT JOIN grants g ON g.class = 'pg_foreign_server'::regclass AND g.objid = f.oid
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_foreign_server'::regclass AND m.objid = f.oid)
    UNION ALL
    SELECT 'language', quote_ident(l.lanname), concat_ws(E'\n', l.lanpltrusted, g.acl), ''
    FROM pg_language l LEFT JOIN grants g ON g.class = 'pg_language'::regclass AND g.objid = l.oid WHERE l.lanname NOT IN ('internal', 'c')
)
SELECT kind, name, coalesce(definition, ''), coalesce(spelling, '') FROM facts
