"""What a schema of Postgres holds, also of its users: with the statements that drop it and make it again.

**Made again as it was.**  Postgres drops no view that another one reads, and changes no column that one
reads.  So the views, triggers and rules of users are taken away while an upgrade changes tables.  Their
statements say all of them: of a view its options, owner, readers and defaults, of a trigger whether it
fires, of each its comment.

**What is not in a statement and matters** follows it as a comment: the body of a trigger's function
names tables and columns, too, and the server does not look at it before it runs.

**Views of other schemas** are here when they read one of this, even through others.  What cannot be made
again has a kind of its own: a materialised view, whose rows would be read again, and a view of another role.
"""

from __future__ import annotations

from itertools import count

from .database import Connection, StoredObject

# Views that read what is in this schema, and its own; ``made`` ends in a semicolon.
VIEWS = """
    WITH RECURSIVE readers (oid) AS (
        SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
           AND relkind IN ('r', 'p', 'v', 'm')
        UNION
        SELECT w.ev_class FROM readers AS r
          JOIN pg_depend AS d ON d.refclassid = CAST('pg_class' AS regclass) AND d.refobjid = r.oid
           AND d.classid = CAST('pg_rewrite' AS regclass)
          JOIN pg_rewrite AS w ON w.oid = d.objid
    ),
    found AS (
        SELECT c.*, format('%I.%I', n.nspname, c.relname) AS whole,
               CASE WHEN n.nspname = current_schema() THEN CAST(c.relname AS text)
                    ELSE n.nspname || '.' || c.relname END AS name,
               pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE') AS is_own
          FROM readers AS r JOIN pg_class AS c ON c.oid = r.oid
          JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('v', 'm')
    )
    SELECT CASE WHEN relkind = 'm' THEN 'materialized view' WHEN is_own THEN 'view'
                ELSE 'view of another role' END,
           name, name,
           'CREATE VIEW ' || whole || coalesce(' WITH (' || array_to_string(reloptions, ', ') || ')', '')
           || ' AS ' || pg_get_viewdef(oid)
           || CASE WHEN relowner = CAST(current_role AS regrole) THEN ''
                   ELSE format(' ALTER VIEW %s OWNER TO %I;', whole, pg_get_userbyid(relowner)) END
           || coalesce((
               SELECT string_agg(format(' GRANT %s ON %s TO %s%s;', privilege_type, whole,
                        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '')
                 FROM aclexplode(relacl) WHERE grantee <> relowner), '')
           || coalesce(format(' COMMENT ON VIEW %s IS ', whole)
                       || quote_literal(obj_description(oid, 'pg_class')) || ';', '')
           || coalesce((
               SELECT string_agg(coalesce(format(' ALTER VIEW %s ALTER %I SET DEFAULT ', whole, a.attname)
                                   || pg_get_expr(d.adbin, d.adrelid) || ';', '')
                        || coalesce(format(' COMMENT ON COLUMN %s.%I IS ', whole, a.attname)
                                    || quote_literal(col_description(found.oid, a.attnum)) || ';', '')
                        || coalesce((
                            SELECT string_agg(format(' GRANT %s (%I) ON %s TO %s%s;', privilege_type,
                                     a.attname, whole,
                                     CASE grantee WHEN 0 THEN 'PUBLIC'
                                                  ELSE quote_ident(pg_get_userbyid(grantee)) END,
                                     CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '')
                              FROM aclexplode(a.attacl) WHERE grantee <> relowner), ''), '')
                 FROM pg_attribute AS a
                 LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                WHERE a.attrelid = found.oid AND a.attnum > 0), ''),
           'DROP ' || CASE relkind WHEN 'm' THEN 'MATERIALIZED ' ELSE '' END || 'VIEW ' || whole,
           oid
      FROM found
"""
OBJECTS = """
    WITH tables AS (
        SELECT c.oid, c.relkind, CAST(c.relname AS text) AS name, c.relowner,
               format('%I.%I', current_schema(), c.relname) AS whole
          FROM pg_class AS c WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema()))
           AND c.relkind IN ('r', 'p', 'v', 'i')
    ),
    views (kind, name, place, made, dropping, number) AS ({VIEWS})
    SELECT 'table', name, name, '', 'DROP TABLE ' || whole, oid AS number
      FROM tables WHERE relkind IN ('r', 'p')
    UNION ALL
    SELECT 'index', o.name, t.name, pg_get_indexdef(o.oid), 'DROP INDEX ' || o.whole, o.oid
      FROM tables AS o JOIN pg_index AS i ON i.indexrelid = o.oid JOIN tables AS t ON t.oid = i.indrelid
     WHERE NOT EXISTS (SELECT 1 FROM pg_constraint AS k WHERE k.conindid = o.oid)
    UNION ALL
    SELECT kind, name, place, made, dropping, number FROM views
    UNION ALL
    SELECT 'trigger', CAST(g.tgname AS text), t.name, pg_get_triggerdef(g.oid) || ';'
           || CASE g.tgenabled WHEN 'O' THEN '' ELSE format(' ALTER TABLE %s %s TRIGGER %I;', t.whole,
                CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                                 ELSE 'ENABLE ALWAYS' END, g.tgname) END
           || coalesce(format(' COMMENT ON TRIGGER %I ON %s IS ', g.tgname, t.whole)
                       || quote_literal(obj_description(g.oid, 'pg_trigger')) || ';', '')
           || regexp_replace(E'\\n' || f.prosrc, '[\\n\\r]+', E'\\n-- ', 'g') || E'\\n',
           format('DROP TRIGGER %I ON %s', g.tgname, t.whole), g.oid
      FROM pg_trigger AS g JOIN tables AS t ON t.oid = g.tgrelid JOIN pg_proc AS f ON f.oid = g.tgfoid
     WHERE NOT g.tgisinternal AND pg_has_role(t.relowner, 'USAGE')
    UNION ALL
    SELECT 'rule', CAST(w.rulename AS text), t.name,
           pg_get_ruledef(w.oid)
           || coalesce(format(' COMMENT ON RULE %I ON %s IS ', w.rulename, t.whole)
                       || quote_literal(obj_description(w.oid, 'pg_rewrite')) || ';', ''),
           format('DROP RULE %I ON %s', w.rulename, t.whole), w.oid
      FROM pg_rewrite AS w JOIN tables AS t ON t.oid = w.ev_class
     WHERE w.rulename <> '_RETURN' AND pg_has_role(t.relowner, 'USAGE')
    UNION ALL
    SELECT 'column', CAST(a.attname AS text), t.name,
           a.attname || ' ' || pg_get_expr(d.adbin, d.adrelid),
           format('ALTER TABLE %s DROP COLUMN %I', t.whole, a.attname), t.oid
      FROM pg_attribute AS a JOIN tables AS t ON t.oid = a.attrelid
      JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attgenerated <> '' AND t.name LIKE '\\_%' AND t.name NOT LIKE '\\_max\\_%'
    UNION ALL
    SELECT 'NOT NULL of column', CAST(a.attname AS text), t.name, format('SET NOT NULL %I', a.attname),
           format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', t.whole, a.attname), t.oid
      FROM pg_attribute AS a JOIN tables AS t ON t.oid = a.attrelid
     WHERE a.attnotnull AND a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT LIKE '\\_%'
       AND t.relkind = 'r' AND t.name LIKE '\\_%' AND t.name NOT LIKE '\\_max\\_%'
    UNION ALL
    SELECT CASE k.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END, CAST(k.conname AS text),
           CASE n.nspname WHEN current_schema() THEN CAST(c.relname AS text)
                          ELSE format('%I.%I', n.nspname, c.relname) END,
           pg_get_constraintdef(k.oid),
           format('ALTER TABLE %I.%I DROP CONSTRAINT %I', n.nspname, c.relname, k.conname), k.oid
      FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE k.contype = 'f' AND k.confrelid IN (SELECT oid FROM tables)
        OR k.contype IN ('c', 'f', 'u', 'x') AND k.conrelid IN (SELECT oid FROM tables WHERE name LIKE '\\_%')
       AND c.relname NOT LIKE '\\_max\\_%' AND pg_get_constraintdef(k.oid) <> 'UNIQUE (_id)'  -- of ours
    UNION ALL
    SELECT 'statistics', CASE n.nspname WHEN current_schema() THEN CAST(s.stxname AS text)
                                        ELSE n.nspname || '.' || s.stxname END, t.name,
           pg_get_statisticsobjdef(s.oid), format('DROP STATISTICS %I.%I', n.nspname, s.stxname), s.oid
      FROM pg_statistic_ext AS s JOIN tables AS t ON t.oid = s.stxrelid
      JOIN pg_namespace AS n ON n.oid = s.stxnamespace
     WHERE t.name LIKE '\\_%'
     ORDER BY number
""".replace("{VIEWS}", VIEWS)
AS_IT_IS = "DO {quote} BEGIN {made} END {quote}"  # users have other words and placeholders


def objects(connection: Connection) -> list[StoredObject]:
    """What ``Dialect.objects`` tells, the oldest first."""
    found = [StoredObject(*row[:5]) for row in connection.execute(OBJECTS).fetchall()]
    again = ("view", "trigger", "rule")
    return [one._replace(definition=_as_it_is(one.definition)) if one.kind in again else one for one in found]


def _as_it_is(made: str) -> str:
    """A statement that runs others, in quotes that are in none of them."""
    quote = next(one for number in count() if (one := f"$max{number or ''}$") not in made)
    return AS_IT_IS.format(quote=quote, made=made)
